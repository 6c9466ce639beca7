"""Early exits and skipped blocks, timed in a fresh virtual environment with onnxruntime and numpy alone.

    python -m benchmarks.alone [--claims T11 T13] [--seeds 3] [--inputs 1000] [--rounds 5] [--keep FOLDER] --json FILE

The networks are those of the claims T11 and T13 (`benchmarks/claims`), trained by jobs through the public spec; with `--keep` those of an earlier run
are taken. The environment is made for this run, with the versions that this one has. Each file answers test digits one at a time, in turns with the
whole network's file of the same job, in one process and one thread. Exit status 0 only if the means over the seeds are at most 0.6 (T11) and 0.8 (T13).
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import exits, routes
from benchmarks.claims.__main__ import DIGITS
from benchmarks.claims.bench import Bench, Outcome, parser_of

PACKAGES = ("numpy", "onnxruntime")
CASES: dict[str, tuple[Callable[[Bench, int], Outcome], int, float]] = {
    "T11": (functools.partial(exits.trained, every_exit=True), exits.SIZE, 0.6),
    "T13": (routes.trained, routes.SIZE, 0.8),
}
"""How the networks are made, the side of their digits, and the largest ratio."""


def fresh(folder: Path) -> Path:
    """The interpreter of a new environment that has these packages and what they need."""
    venv.create(folder, with_pip=True)
    wanted = [f"{name}=={version(name)}" for name in PACKAGES]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True)
    return folder / "bin" / "python"


def files(done: Outcome) -> tuple[Path, Path]:
    """The file of the job's first setting, and that of its last one, the whole network."""
    by_setting = {name: file["filename"] for file in done.report["artifacts"] for name in file.get("settings") or ()}
    first, last = (done.report["settings"][place]["setting"]["name"] for place in (0, -1))
    return done.folder / by_setting[first], done.folder / by_setting[last]


def timed(python: Path, bench: Bench, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What the two files of a job took beside each other."""
    make, size, _ = CASES[name]
    part, whole = files(make(bench, seed))
    inputs = bench.folder / f"inputs{size}.npy"
    with np.load(bench.digits(seed, size=size)) as digits:
        np.save(inputs, (digits["x_test"][: options.inputs, None] / 255).astype(np.float32))
    script = Path(__file__).with_name("paired.py")
    command = [python, "-I", script, part, whole, inputs, str(options.rounds)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"claim": name, "seed": seed, **found}


def main() -> int:
    """Train, time, print, write; returns the exit status."""
    parser = parser_of("python -m benchmarks.alone", __doc__)
    parser.add_argument("--claims", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as made:
        bench = Bench((options.keep or Path(made)).absolute(), DIGITS, full=False)
        python = fresh(Path(made) / "environment")
        for name in options.claims:
            for seed in range(options.seeds):
                rows.append(timed(python, bench, name, seed, options))
                row = rows[-1]
                print(f"{name} seed {seed}: {row['ratio']:.3f} of {row['whole_ms']['mean']:.3f} ms; {row['part_ms']}", file=sys.stderr)
    means = {name: statistics.fmean(row["ratio"] for row in rows if row["claim"] == name) for name in options.claims}
    for name, mean in means.items():
        print(f"{name}: {mean:.3f} of the whole network's time over {options.seeds} seeds (at most {CASES[name][2]})")
    options.json.write_text(json.dumps({"rows": rows, "means": means}, indent=1) + "\n")
    return 0 if all(mean <= CASES[name][2] for name, mean in means.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
