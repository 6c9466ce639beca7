"""A vector an example, by whose direction like things are found; targets are numbers of things that are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.contract.heads import Head
from engine.outputs.evidence import Array, Column, Output, unit_length
from engine.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from engine.contract.metadata import OutputMeaning

_NAMES = ("embed", "feature", "latent", "vector")


class Embedding(Task):
    """The supervised contrastive loss (Khosla et al., 2020)."""

    name = "embedding"
    metrics = ("recall_at_1", "recall_at_k")
    order = 10
    keeps_when_moved = True

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """(N, dimensions)."""
        (output,) = outputs
        if len(output.shape) != 1 or output.shape[0] < 2 or not output.floating:
            return f"{output.described} is no vector an example"
        named = next((name for name in _NAMES if name in output.name.lower()), None)
        if not declared and not unit_length(output) and named is None:
            return f"nothing about {output.described} shows that it is an embedding"
        if column is not None and (column.shape != () or not column.whole):
            return f"the {column.described} is not a number of what is alike"
        seen = "declared" if declared else "its rows have length 1" if unit_length(output) else f"its name is {output.name!r}"
        return Head(name=output.name, indices=(output.index,), task=self.name, target=None if column is None else column.name, reason=seen)

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """(N) numbers as int64."""
        stored = super().prepare(head, targets, inputs)
        return None if stored is None else np.asarray(stored.reshape(len(stored)), dtype=np.int64)

    def loss(self, head: Head, outputs: Sequence[Tensor], target: Tensor, label_smoothing: float) -> Tensor:
        """Contrast of each example with the others of its batch; examples without another one of their class give nothing."""
        from engine.outputs.losses import contrast

        return contrast(outputs[0], target)


TASK = Embedding()
