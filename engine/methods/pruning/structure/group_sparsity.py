"""Sparse training before channels are removed (Fang et al., DepGraph, CVPR 2023, section 3.4).

The penalty Σ γ_k·|g_k|² draws every slice that channel k ties towards zero, weak channels up to sixteen times as fast as the
strongest: γ_k = 2^(4·(I_max - I_k) / (I_max - I_min)), I_k the norm of the channel's slices. It acts on the weights themselves, as
decoupled weight decay does, so that its strength means the same with every optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.methods.channels.importance import group_norm
from engine.methods.context import Context
from engine.methods.pruning.spec import Regularization
from engine.structure.channels import ChannelGroup, Part
from engine.training.loop import Hooks, Moment, iterations_of, learning_rate

CONTRAST = 4.0
"""Two to this power is how much faster the weakest channel of a layer shrinks than the strongest."""


def train_sparsely(module: nn.Module, groups: Sequence[ChannelGroup], params: Regularization, context: Context) -> None:
    """Train the module in place with the penalty on the channels of `groups`."""
    # Constants of the network are none of them: no gradient would win back what they lose.
    parameters = set(module.parameters())
    slices = [(group, [_Slices.of(part, group.channels_count) for part in group.parts if part.weight in parameters]) for group in groups]

    @torch.no_grad()
    def shrink(moment: Moment) -> None:
        rate = learning_rate(params, moment.iteration - 1, moment.iterations) * params.strength
        # All norms are taken before any is changed: a weight is a row of one group and a column of another.
        speeds = [speed(group) for group, _ in slices]
        for (group, parts), per_unit in zip(slices, speeds, strict=True):
            factors = torch.ones(group.channels_count + 1, device=per_unit.device)
            factors[group.units.to(per_unit.device)] = (1 - rate * per_unit).clamp_min(0)[:, None]
            for part in parts:
                part.scale(factors)

    _warn_where_weak(params, context)
    context.train(module, params, hooks=Hooks(on_step=(shrink,)))


@torch.no_grad()
def speed(group: ChannelGroup) -> Tensor:
    """γ of every unit of the group, from 1 to 2^`CONTRAST`; 1 where all are equally strong."""
    norms = group.unit_sums(group_norm(group).square()).sqrt()
    spread = norms.max() - norms.min()
    if not spread > 0:
        return torch.ones_like(norms)
    return torch.pow(2.0, CONTRAST * (norms.max() - norms) / spread)


@dataclass(frozen=True)
class _Slices:
    """Slices of one weight, with the number of the channel at each entry, or of nobody; broadcastable."""

    weight: nn.Parameter
    index: Tensor

    @classmethod
    def of(cls, part: Part, nobody: int) -> _Slices:
        weight: Any = part.weight
        bare = isinstance(part.layer, nn.Parameter)
        shape = tuple(weight.shape) if bare else (*weight.shape[:2], *(1 for _ in weight.shape[2:]))
        rows = part.rows(torch.arange(math.prod(shape)).reshape(shape))
        index = torch.full(shape, nobody)
        index.view(-1)[rows] = part.channels[:, None].expand_as(rows)
        for dimension in range(index.dim()):
            first = index.narrow(dimension, 0, 1)
            if bool((index == first).all()):
                index = first
        return cls(weight, index.to(weight.device))

    def scale(self, factors: Tensor) -> None:
        self.weight.mul_(factors[self.index])


def _warn_where_weak(params: Regularization, context: Context) -> None:
    total = iterations_of(params, context.labelled("train").count)
    way = params.strength * 2**CONTRAST * sum(learning_rate(params, iteration, total) for iteration in range(total))
    if way < 1:
        context.warn(
            "regularization_weak",
            f"By itself the regularization shrinks the weakest channels to {math.exp(-way):.2g} of their size, by far not to zero.",
            shrinkage=math.exp(-way),
        )
