"""Quantization-aware training beside static quantization of the same network of each task: `python -m benchmarks.tasks.rounding --seeds 3`."""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from benchmarks.tasks import by_hand
from benchmarks.tasks.__main__ import signature
from benchmarks.tasks.cases import Case, cases
from benchmarks.tasks.job import run
from engine.formats.onnx.export import export_onnx


def measured(case: Case, work: Path, seed: int) -> tuple[float, float, float]:
    """The metric on test examples: of the original, quantized, and trained under its rounding."""
    torch.manual_seed(seed)
    by_hand.train(case.module, case, epochs=case.epochs)
    export_onnx(case.module.eval(), signature(case), work / "original.onnx")
    np.savez(work / "data.npz", **case.dataset())
    teaching = {} if case.targets else {"teacher": "baseline", "alpha": 1.0}
    trained = {"method": "quantization_aware_training", "epochs": 3, **teaching}
    before, static = run(case, work / "original.onnx", work / "data.npz", [{"method": "static_quantization"}], work / "static", seed)
    return before, static, run(case, work / "original.onnx", work / "data.npz", [trained], work / "trained", seed)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print("| task | metric | seed | original | static | trained |\n|---|---|---|---|---|---|")
    for seed in range(asked.seeds):
        for case in cases(seed):
            if asked.only not in case.name:
                continue
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figures = measured(case, Path(folder), seed)
            print(f"| {case.name} | {case.metric} | {seed} | {' | '.join(f'{value:.4f}' for value in figures)} |", flush=True)


if __name__ == "__main__":
    main()
