"""A class for every place of an image or a volume: targets are class numbers in the shape of the output without its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.outputs.decisions import left_out, yes_as_one, yes_or_no_head
from engine.outputs.evidence import Array, Column, Output, class_axis, class_head, dense_axis, same_places
from engine.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from engine.contract.heads import Head
    from engine.contract.metadata import OutputMeaning


class Segmentation(Task):
    """Cross-entropy at every place; 255, -1 and -100 are numbers of places that do not count, where they are no classes."""

    name = "segmentation"
    metrics = ("miou", "pixel_accuracy", "cross_entropy")
    more = ("f1_macro",)
    risk = "cross_entropy"
    order = 25

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """(N, C, height, width …), channels last, or one channel that decides between two classes."""
        (output,) = outputs
        if output.sample.ndim < 4 or not output.floating:
            return f"{output.described} has no places in two dimensions"
        stated = declared.class_axis if declared is not None else None
        axes = (stated,) if stated is not None else (1, output.sample.ndim - 1)
        if column is None:
            found = (axes[0], "declared") if declared else class_axis(output)
            return found if isinstance(found, str) else class_head(output, self.name, found[0], None, reason=found[1])
        if 1 in output.sample.shape[1:] and same_places(output, column):
            ignored = left_out(output, column, declared)
            if not isinstance(ignored, str):
                return yes_or_no_head(output, self.name, column, ignored=ignored)
        axis = dense_axis(output, column, axes)
        if axis is None:
            return f"the {column.described} is not one class number for every place of {output.described}"
        ignored = column.classes_up_to(output.sample.shape[axis], declared.ignored if declared is not None else None)
        if isinstance(ignored, str):
            return ignored
        reason = f"its targets are its own shape without dimension {axis}"
        return class_head(output, self.name, axis, column, reason=reason, ignored=ignored)

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """Class numbers as int64, or zeros and ones as float32."""
        stored = super().prepare(head, targets, inputs)
        if stored is None:
            return None
        return yes_as_one(stored, head.ignored) if head.class_axis is None else np.asarray(stored, dtype=np.int64)

    def loss(self, head: Head, outputs: Sequence[Tensor], target: Tensor, label_smoothing: float) -> Tensor:
        """Cross-entropy, the mean over the places that count, in nats."""
        from engine.outputs.losses import binary_cross_entropy, cross_entropy

        return (binary_cross_entropy if head.class_axis is None else cross_entropy)(head, outputs[0], target, label_smoothing)


TASK = Segmentation()
