"""How sure an exit is of its answer, as a number that grows without bound, so that rounding does not make sure examples equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.dynamic.spec_exits import ConfidenceKind
from engine.outputs.losses import binary_logits, class_logits

_TINY = 1e-30


class Confidence(nn.Module):
    """The least confidence of all decisions of an exit, at the temperature that was fitted for it.

    max_probability: log odds of the likeliest class. margin: -log(1 - (p1 - p2)). entropy: -log H. A yes or no counts as two classes.
    """

    temperature: Tensor

    def __init__(self, heads: Sequence[Head], kind: ConfidenceKind) -> None:
        super().__init__()
        self.heads, self.kind = tuple(heads), kind
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, *outputs: Tensor) -> Tensor:
        """The outputs of an exit → (batch)."""
        found = [self._of(logits / self.temperature) for head in self.heads for logits in (two_sided(head, outputs[head.index]),)]
        return found[0] if len(found) == 1 else torch.stack(found, 1).amin(1)

    def _of(self, logits: Tensor) -> Tensor:
        """(batch, classes) or (batch, classes, decisions) → (batch)."""
        classes = logits.shape[1]
        ordered = torch.topk(logits, classes, dim=1).values  # written with fewer operators than a sort
        first, others = torch.split(ordered, [1, classes - 1], dim=1)
        if self.kind == "max_probability":
            sure = first.squeeze(1) - torch.logsumexp(others, 1)
        else:
            log_shares = functional.log_softmax(ordered, 1)
            shares = torch.exp(log_shares)
            doubts = {"margin": lambda: shares[:, 1:].sum(1) + shares[:, 1], "entropy": lambda: -(shares * log_shares).sum(1)}
            doubt = doubts[self.kind]()
            sure = -torch.log(doubt.clamp_min(0) + _TINY)
        return sure if sure.ndim == 1 else sure.flatten(1).amin(1)


def two_sided(head: Head, output: Tensor) -> Tensor:
    """Logits with the classes along dimension 1; of a yes or no those of both answers."""
    if head.class_axis is not None:
        return class_logits(head, output)
    logits = binary_logits(head, output).flatten(1)
    return torch.stack([logits / 2, -logits / 2], 1)


def check_confident(heads: Sequence[Head]) -> None:
    """Raise `no_confidence` where an output is no decision about the whole example."""
    for head in heads:
        several = head.class_axis is not None and (head.class_axis != 1 or head.classes_count == 1)
        if not head.decides or several or head.task in ("segmentation", "token_classification", "causal_lm"):
            raise EngineError(
                "no_confidence",
                f"The output {head.name!r} ({head.task}) is no decision about the whole input, by whose confidence the network could stop.",
                hint="Early exits need outputs that classify: one score a class, or a yes or no. Say in metadata.task where they do.",
                details={"output": head.name, "task": head.task},
            )
