"""Reproduce the papers' claims.

    python -m benchmarks.claims [T1 T1b T1c T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12 T13] [--quick | --full] [--seeds N] [--data FILE.npz] --json FILE [--table FILE.md]

The quick mode trains on 4,000 digits and stops on 1,000, drawn from FILE (`examples/digits.npz`) with each seed (of fewer, four in five
and the rest), and tests on all test digits. The full mode takes all of FILE (MNIST: 60,000 + 10,000) and the papers' lengths of
training, which takes hours. Exit status 0 only if every claim holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import binary, distillation, exits, removal, rethinking, routes, slimming, supermasks, tickets
from benchmarks.claims.bench import Bench, parser_of
from benchmarks.claims.claim import Claim, Figures
from benchmarks.claims.table import NEW, updated

CLAIMS = (
    *tickets.CLAIMS,
    *supermasks.CLAIMS,
    *rethinking.CLAIMS,
    *removal.CLAIMS,
    *distillation.CLAIMS,
    *binary.CLAIMS,
    *exits.CLAIMS,
    *slimming.CLAIMS,
    *routes.CLAIMS,
)
DIGITS = Path(__file__).parents[2] / "examples" / "digits.npz"
PROCESSES = 2


def main() -> int:
    """Measure, print, write; returns the exit status."""
    options = _parse()
    chosen = [claim for claim in CLAIMS if not options.claims or claim.id in options.claims]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="claims-") as folder:
        bench = Bench(options.keep or Path(folder), options.data, options.full)
        bench.folder.mkdir(parents=True, exist_ok=True)
        rows = measure(chosen, bench, options.seeds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(
            f"{'pass' if row['passed'] else 'FAIL'}  {row['id']:4} {row['claim']}: {row['ours']:.4g} ± {row['spread']:.2g} "
            f"(over {row['seeds']} seeds; needs {row['comparison']} {row['margin']:g}; paper: {row['paper']})"
        )
    print(f"{sum(row['passed'] for row in rows)} of {len(rows)} hold; {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if options.table:
        page = options.table.read_text() if options.table.exists() else NEW
        options.table.write_text(updated(page, rows, [claim.id for claim in CLAIMS]))
    return 0 if all(row["passed"] for row in rows) else 1


def measure(claims: Sequence[Claim], bench: Bench, seeds: int) -> list[dict[str, Any]]:
    """Rows of all checks, in the order of the claims. Jobs run two at a time, those that time things by themselves afterwards."""

    def one(claim: Claim, seed: int) -> Figures:
        begun = time.monotonic()
        figures = claim.measure(bench, seed)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"  {claim.id} seed {seed} ({time.monotonic() - begun:.0f} s): {shown}", file=sys.stderr, flush=True)
        return figures

    measured: dict[str, list[Figures]] = {}
    for alone in (False, True):
        with ThreadPoolExecutor(1 if alone else PROCESSES) as pool:
            jobs = {claim.id: [pool.submit(one, claim, seed) for seed in range(seeds)] for claim in claims if claim.alone == alone}
            measured |= {name: [job.result() for job in waiting] for name, waiting in jobs.items()}
    return [check.result(claim.id, measured[claim.id]) for claim in claims for check in claim.checks]


def _parse() -> argparse.Namespace:
    parser = parser_of("python -m benchmarks.claims", __doc__)
    parser.add_argument("claims", nargs="*", metavar="ID", help="which claims; all by default")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="5,000 digits for training and validation (default)")
    mode.add_argument("--full", action="store_true", help="all digits of --data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DIGITS, help="npz with x_train y_train x_test y_test, 28×28, uint8")
    parser.add_argument("--table", type=Path, help="Markdown page in which the rows of these claims are replaced")
    options = parser.parse_args()
    unknown = set(options.claims) - {claim.id for claim in CLAIMS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(claim.id for claim in CLAIMS)}")
    if options.seeds < 1:
        parser.error("--seeds is at least 1")
    if not options.data.is_file():
        parser.error(f"{options.data}: no such file")
    with np.load(options.data) as stored:
        shapes = {name: stored[name].shape[1:] for name in ("x_train", "x_test") if name in stored.files}
    if shapes != {"x_train": (28, 28), "x_test": (28, 28)}:
        parser.error(f"{options.data}: x_train and x_test hold digits of 28×28 pixels, these are {shapes or 'not there'}")
    return options


if __name__ == "__main__":
    sys.exit(main())
