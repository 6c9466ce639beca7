"""Plain values: targets of the shape of the output, in the output's own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.contract.heads import Head
from engine.outputs.evidence import Array, Column, Output, same_places
from engine.tasks import Task

if TYPE_CHECKING:
    from engine.contract.metadata import OutputMeaning


class Regression(Task):
    """Mean squared error."""

    name = "regression"
    metrics = ("r2", "rmse", "mae")
    risk = "rmse"
    order = 60

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """One value or many."""
        (output,) = outputs
        if not output.floating:
            return f"{output.described} holds integers"
        if column is None and declared is None:
            return f"nothing about {output.described} shows what it means"
        if column is not None and column.names_classes:
            return f"the {column.described} numbers named classes, whose order means nothing"
        if column is not None and not same_places(output, column):
            return f"the {column.described} has not the shape of {output.described}"
        return Head(
            name=output.name,
            indices=(output.index,),
            task=self.name,
            target=None if column is None else column.name,
            reason="declared" if column is None else "its targets are values of its own shape",
        )

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """The values, as float64 where they are stored in more than float32 holds: errors are taken in that."""
        stored = super().prepare(head, targets, inputs)
        if stored is None:
            return None
        return np.asarray(stored, dtype=np.float32 if np.can_cast(stored.dtype, np.float32) else np.float64)


TASK = Regression()
