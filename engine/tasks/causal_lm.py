"""The next token: targets are the network's own integer input, moved by one position; it has to be declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.outputs.evidence import Array, Column, Output, class_head, dense_axis
from engine.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from engine.contract.heads import Head
    from engine.contract.metadata import OutputMeaning

IGNORED = -100
_MASK = "attention_mask"
"""Input by whose zeros padding is known."""


class CausalLM(Task):
    """Cross-entropy with the token that follows each position. Targets in the dataset, where it has them, are taken as they are."""

    name = "causal_lm"
    metrics = ("token_accuracy", "perplexity", "cross_entropy")
    risk = "cross_entropy"

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """(N, positions, tokens) beside an input of (N, positions) token numbers."""
        (output,) = outputs
        if declared is None:
            return "the task causal_lm has to be declared"
        tokens = {name: given for name, given in output.inputs.items() if given.dtype.kind in "iu" and given.ndim == 2}
        if output.sample.ndim != 3 or not tokens:
            return f"{output.described} gives no scores of tokens for every position of an integer input"
        axes = (2, 1) if declared.class_axis is None else (declared.class_axis,)
        if column is not None:
            axis, ignored = dense_axis(output, column, axes), column.classes_up_to(max(output.sample.shape[1:]), declared.ignored)
            if axis is None or isinstance(ignored, str):
                return (
                    ignored
                    if isinstance(ignored, str)
                    else f"the {column.described} is not one token for every position of {output.described}"
                )
            return class_head(output, self.name, axis, column, reason="declared; its targets are the dataset's", ignored=ignored)
        name, given = next(iter(tokens.items()))
        axis = next((axis for axis in axes if output.sample.shape[3 - axis] == given.shape[1]), None)
        if axis is None:
            return f"{output.described} has not the positions of the input {name!r}"
        head = class_head(
            output, self.name, axis, None, reason=f"declared; its targets are the input {name!r}, a position later", ignored=IGNORED
        )
        return head.model_copy(update={"from_input": name})

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """(N, positions) token numbers as int64; the last position has none, nor has one before padding that an attention mask shows."""
        if head.from_input is None:
            stored = super().prepare(head, targets, inputs)
            return None if stored is None else np.asarray(stored, dtype=np.int64)
        following = np.full(inputs[head.from_input].shape, IGNORED, dtype=np.int64)
        following[:, :-1] = inputs[head.from_input][:, 1:]
        mask = inputs.get(_MASK)
        if mask is not None and mask.shape == following.shape:
            following[:, :-1][mask[:, 1:] == 0] = IGNORED
        return following

    def loss(self, head: Head, outputs: Sequence[Tensor], target: Tensor, label_smoothing: float) -> Tensor:
        """Cross-entropy, the mean over the positions that count, in nats."""
        from engine.outputs.losses import cross_entropy

        return cross_entropy(head, outputs[0], target, label_smoothing)


TASK = CausalLM()
