"""A yes or no an example: targets are 0 and 1, or -1 and 1; the output is one logit, margin or probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.outputs.decisions import left_out, yes_as_one, yes_or_no_head
from engine.outputs.evidence import Array, Column, Output
from engine.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from engine.contract.heads import Head
    from engine.contract.metadata import OutputMeaning


class Binary(Task):
    """Sigmoid and cross-entropy."""

    name = "binary"
    metrics = ("top1", "cross_entropy")
    more = ("auroc", "average_precision", "f1_macro")
    risk = "cross_entropy"
    order = 30
    keeps_when_moved = True

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """A single value an example."""
        (output,) = outputs
        if any(size != 1 for size in output.sample.shape[1:]) or not output.floating:
            return f"{output.described} is not one value an example"
        if column is None and declared is None:
            return f"nothing about {output.described} shows that it decides between yes and no"
        if column is not None and (column.shape != () or not (column.yes_or_no or column.signs)):
            return f"the {column.described} is not a 0 or 1 an example"
        if column is not None and isinstance(reason := left_out(output, column, declared), str):
            return reason
        return yes_or_no_head(output, self.name, column)

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """(N) zeros and ones as float32."""
        stored = super().prepare(head, targets, inputs)
        return None if stored is None else yes_as_one(stored.reshape(len(stored)))

    def loss(self, head: Head, outputs: Sequence[Tensor], target: Tensor, label_smoothing: float) -> Tensor:
        """Binary cross-entropy, in nats."""
        from engine.outputs.losses import binary_cross_entropy

        return binary_cross_entropy(head, outputs[0], target, label_smoothing)


TASK = Binary()
