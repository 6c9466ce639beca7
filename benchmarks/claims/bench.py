"""Digits, models, and jobs run the way a user runs them: `python -m engine run spec.json --model … --data … --out …`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUICK = 5000
"""Digits for training and validation, four to one, of the quick mode, drawn with the seed; all test digits are used in any case."""
PIXELS = {"preprocessing": {"scale": 1 / 255, "layout": "NHW"}}
"""Inputs from 0 to 1, as in the papers."""
EXACT = {"latency": {"repeats": 5}}


@dataclass(frozen=True)
class Outcome:
    """What a job left behind."""

    report: dict[str, Any]
    folder: Path

    def step(self, index: int = 0) -> dict[str, Any]:
        """Metrics and report of a step."""
        found: dict[str, Any] = self.report["steps"][index]
        return found

    def file(self, kind: str, format: str = "safetensors") -> Path:
        """The published file of this kind and format."""
        found = [item["filename"] for item in self.report["artifacts"] if (item["kind"], item["format"]) == (kind, format)]
        return self.folder / found[0]


@dataclass
class Bench:
    """A folder to work in, the digits, and the mode."""

    folder: Path
    data: Path
    full: bool
    all_digits: bool = False
    """All digits in the quick mode, too: its lengths of training, on more of them."""
    _lock: Lock = field(default_factory=Lock)
    _running: dict[Path, Lock] = field(default_factory=dict)
    """One for each job's folder: what several claims need is run once."""

    def digits(self, seed: int, *, size: int = 28) -> Path:
        """An npz of digits, size×size: 5,000 for training and validation in the quick mode, all of them in the full mode."""
        path = self.folder / f"digits{size}-{seed}.npz"
        with self._lock:
            if not path.exists():
                stored = np.load(self.data)
                images, labels = shrunk(stored["x_train"], size), stored["y_train"]
                arrays = {"x_test": shrunk(stored["x_test"], size), "y_test": stored["y_test"]}
                order = np.random.default_rng(seed).permutation(len(images))
                if self.full or self.all_digits:
                    splits = {"train": order}
                else:
                    order = order[:QUICK]
                    splits = {"train": order[: len(order) * 4 // 5], "validation": order[len(order) * 4 // 5 :]}
                for split, chosen in splits.items():
                    arrays |= {f"x_{split}": images[chosen], f"y_{split}": labels[chosen]}
                np.savez(path, **arrays)
        return path

    def run(
        self,
        name: str,
        steps: Sequence[dict[str, Any]],
        *,
        seed: int,
        model: Path,
        size: int = 28,
        evaluation: dict[str, Any] = EXACT,
        **spec: Any,
    ) -> Outcome:
        """Run a spec on the digits, unless the folder holds the report of the very same job already (a long run that was cut off goes on).

        Raises RuntimeError with the job's last words where it fails.
        """
        folder = self.folder / f"{name}-{seed}"
        with self._lock:
            running = self._running.setdefault(folder, Lock())
        with running:
            return self._run(folder, {"seed": seed, "steps": list(steps), "evaluation": evaluation, **spec}, model=model, size=size)

    def _run(self, folder: Path, spec: dict[str, Any], *, model: Path, size: int) -> Outcome:
        folder.mkdir(exist_ok=True)
        stated, written = folder / "spec.json", json.dumps(spec)
        report = folder / "out" / "report.json"
        if report.exists() and stated.read_text() == written:
            return Outcome(json.loads(report.read_text()), report.parent)
        report.unlink(missing_ok=True)
        stated.write_text(written)
        command = [sys.executable, "-m", "engine", "run", str(stated), "--model", str(model), "--out", str(folder / "out")]
        command += ["--data", str(self.digits(spec["seed"], size=size)), "--data-metadata", json.dumps(PIXELS)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{folder.name}: exit status {done.returncode}\n{done.stderr[-2000:]}")
        return Outcome(json.loads(report.read_text()), report.parent)


def parser_of(program: str, description: str | None) -> argparse.ArgumentParser:
    """Options of all that run jobs on digits: where the figures and the jobs' files go."""
    made = argparse.ArgumentParser(prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, required=True)
    made.add_argument("--keep", type=Path, help="work in this folder and leave the jobs' files there; a second run goes on from them")
    return made


def shrunk(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Means of square patches: 28×28 becomes size×size."""
    side = images.shape[1] // size
    patches = images.reshape(len(images), size, side, size, side)
    return patches.mean((2, 4)).round().astype(np.uint8)
