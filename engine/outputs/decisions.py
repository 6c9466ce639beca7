"""Decisions that are independent of each other: how outputs and targets hold a yes and a no. Numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.contract.heads import Head, Scale
from engine.outputs.evidence import Array, Column, Output

if TYPE_CHECKING:
    from engine.contract.metadata import OutputMeaning


def yes_as_one(stored: Array, ignored: int | None = None) -> Array:
    """Zeros and ones as float32 from decisions that are stored as 0 and 1, or as -1 and 1; `ignored` ones stay."""
    return np.where((stored == -1) & (ignored != -1), 0, stored).astype(np.float32)


def left_out(output: Output, column: Column, declared: OutputMeaning | None) -> int | str | None:
    """Which number of targets that are a yes or no is to be ignored (None: none), or a sentence why they are none.

    Targets of -1 and 1 alone are signs, as hinge losses take them, if outputs go beyond them: those of a tanh are values.
    """
    stated = None if declared is None else declared.ignored
    if column.signs and stated is None:
        if declared is None and not (output.sample.size and np.abs(output.sample).max() > 1):
            return f"{output.described} stays between -1 and 1, as values do; declare its task if it decides"
        return None
    return column.classes_up_to(2, stated)


def yes_or_no_head(output: Output, task: str, column: Column | None, *, ignored: int | None = None, labels_axis: int | None = None) -> Head:
    """A head of decisions that are independent of each other, by the sign of logits or the half of probabilities."""
    scale: Scale = "probabilities" if output.shares else "logits"
    seen = "between 0 and 1: probabilities" if output.shares else "not all between 0 and 1: logits"
    return Head(
        name=output.name,
        indices=(output.index,),
        task=task,
        target=None if column is None else column.name,
        threshold=0.5 if output.shares else 0.0,
        labels_axis=labels_axis,
        scale=scale,
        ignored=ignored,
        reason=f"its values are {seen}",
    )
