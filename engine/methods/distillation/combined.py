"""A generalist and its specialists as one network (Hinton, Vinyals, Dean, 2015, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.contract.heads import Head
from engine.outputs.losses import class_logits
from engine.training.batches import as_list

_SURE = 1e-7
"""Least probability that a generalist gives: a class that it rules out could not come back."""
_STEPS = 60


def combine(general: Tensor, special: Tensor, dustbin: Tensor, active: Tensor, inside: Tensor, *, steps: int) -> Tensor:
    """The q (N, C) that minimizes KL(general ‖ q) + Σ_m active_m · KL(special_m ‖ q).

    `general` is (N, C); `special` (N, M, C) holds each specialist's probabilities of its own classes and zeros elsewhere, `dustbin` (N, M)
    that of all others together, which is compared with their sum in q; `active` (N, M) and `inside` (M, C) are zeros and ones.

    Expectation maximization: what a dustbin says is divided among its classes as q has them, and q is the mean of all that is said then. The
    function is convex, so this comes to its minimum; where one specialist is active, the first step from the generalist's answer is it.
    """
    outside = 1 - inside
    known = general + (active.unsqueeze(2) * special).sum(dim=1)
    number = 1 + active.sum(dim=1, keepdim=True)
    answer = general
    for _ in range(steps):
        shares = active * dustbin / (answer @ outside.T).clamp_min(_SURE * _SURE)
        answer = (known + answer * (shares @ outside)) / number
    return answer


class Combined(nn.Module):
    """Computes what the generalist computes, with the combined answer in the place of one output."""

    inside: Tensor
    ratios: Tensor

    def __init__(
        self, generalist: nn.Module, specialists: Sequence[nn.Module], head: Head, inside: Tensor, ratios: Tensor, *, active_classes: int
    ) -> None:
        """`inside` (M, C) marks the classes of each specialist; `ratios` (M) make up for how often it saw them (see `oversampling`)."""
        super().__init__()
        self.generalist, self.specialists = generalist, nn.ModuleList(specialists)
        self.register_buffer("inside", inside)
        self.register_buffer("ratios", ratios)
        self._head, self._most_probable = head, active_classes
        alone = active_classes == 1 and float(inside.sum(dim=0).max()) <= 1
        self._steps = 1 if alone else _STEPS

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs; logits are the logarithms of the combined answer."""
        outputs = self.generalist(*inputs)
        given = as_list(outputs)
        output = given[self._head.index]
        general = torch.softmax(class_logits(self._head, output), dim=1).clamp_min(_SURE)
        general = general / general.sum(dim=1, keepdim=True)
        if len(self.specialists):
            general = self._combined(general, inputs)
        answer = general if self._head.scale == "probabilities" else torch.log(general)
        given[self._head.index] = answer.reshape(output.shape)
        return given[0] if isinstance(outputs, Tensor) else tuple(given)

    def _combined(self, general: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        special, dustbin = [], []
        for number, specialist in enumerate(self.specialists):
            logits = class_logits(self._head, as_list(specialist(*inputs))[self._head.index])
            own, rest = specialized(logits, self.inside[number], self.ratios[number])
            special.append(own)
            dustbin.append(rest)
        if self._most_probable == 1:
            least = general.amax(dim=1, keepdim=True)
        else:
            least = torch.topk(general, min(self._most_probable, general.shape[1]), dim=1).values[:, -1:]
        probable = (general >= least).to(general.dtype)
        active = (probable @ self.inside.T).clamp_max(1.0)
        return combine(general, torch.stack(special, dim=1), torch.stack(dustbin, dim=1), active, self.inside, steps=self._steps)


def specialized(logits: Tensor, inside: Tensor, ratio: Tensor | float) -> tuple[Tensor, Tensor]:
    """Probabilities (N, C) of a specialist's own classes, zero elsewhere, and (N) of its dustbin class, whose odds are `ratio` times those
    that it learned."""
    shares = torch.softmax(logits, dim=1)
    own = shares * inside
    rest = ratio * (shares * (1 - inside)).sum(dim=1)
    total = own.sum(dim=1) + rest
    return own / total.unsqueeze(1), rest / total


def reduced(logits: Tensor, classes: Tensor, others: Tensor) -> Tensor:
    """Logits (N, own classes + 1) of a specialist; the last one is that of its dustbin class."""
    return torch.cat([logits[:, classes], torch.logsumexp(logits[:, others], dim=1, keepdim=True)], dim=1)


def oversampling(special: int, total: int, share: float) -> float:
    """By how much a specialist that saw its classes in `share` of its examples has the odds of its dustbin too low, where they are
    `special` of `total`: the exact correction by Bayes' rule."""
    return ((total - special) / special) * (share / (1 - share))
