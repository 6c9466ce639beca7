"""Prunes 30 % of the channels, distils and quantizes a network of each task, beside the same by hand: `python -m benchmarks.tasks`.

By hand is torch-pruning, a loop with the task's loss and the distance to the teacher's outputs, and ONNX Runtime's static quantization;
both are scored by the service on the very files. `--only WORD` runs the tasks with that word in their name; `--seeds 3` draws data, weights and orders three times.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.tasks import by_hand
from benchmarks.tasks.cases import Case
from benchmarks.tasks.job import run, scored
from benchmarks.tasks.originals import each, options, signature, written

RATIO, EPOCHS = 0.3, 6


def measured(case: Case, work: Path, seed: int) -> dict[str, Any]:
    """One row: the metric before and after, ours and by hand."""
    original, data = written(case, work, seed)
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
    asked = options(__doc__)
    print("| task | metric | original | ours | least to most | by hand | allowed drop | kept |\n|---|---|---|---|---|---|---|---|")
    for case, rows in each(asked, measured):
        print(line(case, rows), flush=True)


if __name__ == "__main__":
    main()
