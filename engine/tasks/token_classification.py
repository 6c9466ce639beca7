"""A class for every position of a sequence: targets are class numbers, one a position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.outputs.evidence import Array, Column, Output, class_axis, class_head, dense_axis
from engine.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from engine.contract.heads import Head
    from engine.contract.metadata import OutputMeaning


class TokenClassification(Task):
    """Cross-entropy at every position; -100, -1 and 255 are numbers of positions that do not count, where they are no classes."""

    name = "token_classification"
    metrics = ("token_accuracy", "cross_entropy")
    more = ("f1_macro", "exact_match", "perplexity")
    risk = "cross_entropy"
    order = 22

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """(N, positions, classes), or (N, classes, positions)."""
        (output,) = outputs
        if output.sample.ndim != 3 or not output.floating:
            return f"{output.described} is no sequence"
        stated = declared.class_axis if declared is not None else None
        axes = (stated,) if stated is not None else (2, 1)
        if column is None:
            found = (axes[0], "declared") if declared else class_axis(output)
            return found if isinstance(found, str) else class_head(output, self.name, found[0], None, reason=found[1])
        axis = dense_axis(output, column, axes)
        if axis is None:
            return f"the {column.described} is not one class number for every position of {output.described}"
        ignored = column.classes_up_to(output.sample.shape[axis], declared.ignored if declared is not None else None)
        if isinstance(ignored, str):
            return ignored
        reason = f"its targets are its own shape without dimension {axis}"
        return class_head(output, self.name, axis, column, reason=reason, ignored=ignored)

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """(N, positions) class numbers as int64."""
        stored = super().prepare(head, targets, inputs)
        return None if stored is None else np.asarray(stored, dtype=np.int64)

    def loss(self, head: Head, outputs: Sequence[Tensor], target: Tensor, label_smoothing: float) -> Tensor:
        """Cross-entropy, the mean over the positions that count, in nats."""
        from engine.outputs.losses import cross_entropy

        return cross_entropy(head, outputs[0], target, label_smoothing)


TASK = TokenClassification()
