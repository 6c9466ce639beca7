"""Prunes 30 % of the channels, distils and quantizes a network of each task, beside the same by hand: `python -m benchmarks.tasks`.

By hand is torch-pruning, a loop with the task's loss and the distance to the teacher's outputs, and ONNX Runtime's static quantization;
both are scored by the service on the very files. `--only WORD` runs the tasks with that word in their name; `--seeds 3` draws data, weights and orders three times.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tasks import by_hand
from benchmarks.tasks.cases import Case, cases
from benchmarks.tasks.job import run, scored
from engine.formats.onnx.export import export_onnx
from engine.networks.network import Signature, TensorSpec

RATIO, EPOCHS = 0.3, 6


def signature(case: Case) -> Signature:
    """Of the network, as its ONNX file names it."""
    arrays = [TensorSpec(name, (None, *value.shape[1:]), str(value.dtype)) for name, value in case.inputs.items()]
    return Signature(tuple(arrays), tuple(TensorSpec(name, (None,)) for name in case.outputs))


def measured(case: Case, work: Path, seed: int) -> dict[str, Any]:
    """One row: the metric before and after, ours and by hand."""
    torch.manual_seed(seed)
    by_hand.train(case.module, case, epochs=case.epochs)
    original = work / "original.onnx"
    export_onnx(case.module.eval(), signature(case), original)
    data = work / "data.npz"
    np.savez(data, **case.dataset())
    alpha = 0.5 if case.targets else 1.0
    steps = [
        {"method": "structured_pruning", "pruning_ratio": RATIO},
        {"method": "distillation", "epochs": EPOCHS, "optimizer": "adam", "learning_rate": 0.002, "schedule": "constant", "alpha": alpha},
        {"method": "int8_quantization"},
    ]
    before, after = run(case, original, data, steps, work / "job", seed)
    theirs: float | None = None
    try:
        made = by_hand.compressed(case, signature(case), work, ratio=RATIO, epochs=EPOCHS, alpha=alpha)
        theirs = scored(case, signature(case), original, made, data, work / "hand")
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    else:
        reason = ""
    return {"before": before, "after": after, "hand": theirs, "reason": reason}


def line(case: Case, rows: list[dict[str, Any]]) -> str:
    """What a task came to: the means over the seeds, beside the spread of what is ours."""
    before, after = (statistics.fmean(row[key] for row in rows) for key in ("before", "after"))
    by_hands = [row["hand"] for row in rows if row["hand"] is not None]
    theirs = statistics.fmean(by_hands) if len(by_hands) == len(rows) else None
    kept = after >= before - case.largest_drop and (theirs is None or after >= theirs - 0.01)
    hand = f"{theirs:.4f}" if theirs is not None else next(row["reason"] for row in rows if row["reason"])
    spread = f"{min(row['after'] for row in rows):.4f} to {max(row['after'] for row in rows):.4f}"
    return f"| {case.name} | {case.metric} | {before:.4f} | {after:.4f} | {spread} | {hand} | {case.largest_drop} | {'yes' if kept else 'NO'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print("| task | metric | original | ours | least to most | by hand | allowed drop | kept |\n|---|---|---|---|---|---|---|---|")
    for name in [case.name for case in cases(0) if asked.only in case.name]:
        rows = []
        for seed in range(asked.seeds):
            case = next(case for case in cases(seed) if case.name == name)
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows.append(measured(case, Path(folder), seed))
        print(line(case, rows), flush=True)


if __name__ == "__main__":
    main()
