"""Quantization-aware training beside static quantization of the same network of each task: `python -m benchmarks.tasks.rounding --seeds 3`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tasks.cases import Case
from benchmarks.tasks.job import run
from benchmarks.tasks.originals import each, options, written


def measured(case: Case, work: Path, seed: int) -> tuple[float, float, float]:
    """The metric on test examples: of the original, quantized, and trained under its rounding."""
    original, data = written(case, work, seed)
    teaching = {} if case.targets else {"teacher": "baseline", "alpha": 1.0}
    trained = {"method": "quantization_aware_training", "epochs": 3, **teaching}
    before, static = run(case, original, data, [{"method": "static_quantization"}], work / "static", seed)
    return before, static, run(case, original, data, [trained], work / "trained", seed)[1]


def main() -> None:
    asked = options(__doc__)
    print("| task | metric | seed | original | static | trained |\n|---|---|---|---|---|---|")
    for case, rows in each(asked, measured):
        for seed, figures in enumerate(rows):
            print(f"| {case.name} | {case.metric} | {seed} | {' | '.join(f'{value:.4f}' for value in figures)} |", flush=True)


if __name__ == "__main__":
    main()
