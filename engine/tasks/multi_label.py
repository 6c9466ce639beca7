"""Several labels an example (or place), independent of each other: targets are zeros and ones, or -1 and 1, in the shape of the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.outputs.decisions import left_out, yes_as_one, yes_or_no_head
from engine.outputs.evidence import Array, Column, Output, same_places
from engine.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from engine.contract.heads import Head
    from engine.contract.metadata import OutputMeaning


class MultiLabel(Task):
    """A sigmoid for each label, and cross-entropy."""

    name = "multi_label"
    metrics = ("average_precision", "exact_match", "f1_macro", "cross_entropy")
    more = ("auroc",)
    risk = "cross_entropy"
    order = 35
    keeps_when_moved = True

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """Two logits or probabilities or more, of an example or of each of its places."""
        (output,) = outputs
        if not output.floating or output.sample.ndim < 2 or output.sample.shape[1] < 2:
            return f"{output.described} does not hold several labels"
        if column is None and declared is None:
            return f"nothing about {output.described} shows that it holds labels"
        ignored = None if column is None else left_out(output, column, declared)
        if ignored == -1 and declared is None:
            ignored = "-1, 0 and 1 may be values"
        if column is not None and (isinstance(ignored, str) or not same_places(output, column)):
            return f"the {column.described} is not a 0 or 1 for each value of {output.described}"
        return yes_or_no_head(output, self.name, column, ignored=None if isinstance(ignored, str) else ignored, labels_axis=1)

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """Zeros and ones as float32, in the stored shape."""
        stored = super().prepare(head, targets, inputs)
        return None if stored is None else yes_as_one(stored, head.ignored)

    def loss(self, head: Head, outputs: Sequence[Tensor], target: Tensor, label_smoothing: float) -> Tensor:
        """Binary cross-entropy, the mean over all labels, in nats."""
        from engine.outputs.losses import binary_cross_entropy

        return binary_cross_entropy(head, outputs[0], target, label_smoothing)


TASK = MultiLabel()
