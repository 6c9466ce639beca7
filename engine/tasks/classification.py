"""One class an example: targets are class numbers (or one-hot rows), outputs one score for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.outputs.evidence import Array, Column, Output, class_axis, class_head
from engine.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from engine.contract.heads import Head
    from engine.contract.metadata import OutputMeaning


class Classification(Task):
    """Softmax and cross-entropy."""

    name = "classification"
    metrics = ("top1", "cross_entropy")
    more = ("top5", "f1_macro", "auroc", "average_precision")
    risk = "cross_entropy"
    order = 20
    keeps_when_moved = True

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """A vector of two scores or more an example."""
        (output,) = outputs
        if len(output.shape) != 1 or output.shape[0] < 2 or not output.floating:
            return f"{output.described} is no vector of class scores"
        if column is None:
            found = (1, "declared") if declared else class_axis(output)
            return found if isinstance(found, str) else class_head(output, self.name, found[0], None, reason=found[1])
        if column.one_hot and column.shape == output.shape:
            sigmoids = output.shares and output.scale(1) == "logits"
            if sigmoids and not declared:
                return f"{output.described} gives each class a probability of its own"
            return class_head(output, self.name, 1, column, reason="its targets are one-hot: exactly one class an example")
        if column.shape != ():
            return f"the {column.described} is not one class number an example"
        stated = declared.ignored if declared is not None else None
        ignored = column.classes_up_to(output.shape[0], stated)
        if isinstance(ignored, str):
            return ignored
        if ignored is not None and ignored != stated:
            return (
                f"the {column.described} has negative numbers; classes count from 0"
                if ignored < 0
                else f"the dataset has the label {ignored}"
            )
        return class_head(output, self.name, 1, column, reason="its targets are one class number an example", ignored=ignored)

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """(N) class numbers as int64."""
        stored = super().prepare(head, targets, inputs)
        if stored is None:
            return None
        if stored.ndim > 1 and stored.shape[1] > 1:
            return np.asarray(stored.argmax(axis=1))
        return np.asarray(stored.reshape(len(stored)), dtype=np.int64)

    def loss(self, head: Head, outputs: Sequence[Tensor], target: Tensor, label_smoothing: float) -> Tensor:
        """Cross-entropy, in nats."""
        from engine.outputs.losses import cross_entropy

        return cross_entropy(head, outputs[0], target, label_smoothing)


TASK = Classification()
