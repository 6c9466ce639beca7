"""How important each channel is: one number per unit of a group, from the slices that a channel ties.

Summing over all layers of a group is what makes scores comparable where channels are tied together (DepGraph, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.methods.channels import thinet
from engine.methods.channels.gradients import backpropagated
from engine.methods.context import Context
from engine.structure.channels import ChannelGroup, Part

COMPARABLE = frozenset({"taylor", "hessian", "bn_scale", "lamp", "thinet", "random"})
"""Importances whose values mean the same in every layer; the others are divided by their group's mean for a global ranking."""


def unit_scores(module: nn.Module, groups: Sequence[ChannelGroup], importance: str, context: Context, *, together: bool) -> list[Tensor]:
    """Scores of every group's units, on the CPU; higher means more important."""
    if importance == "random":
        generator = context.generator()
        return [torch.rand(len(group.units), generator=generator) for group in groups]
    if importance == "thinet":
        return [values.float() for values in thinet.scores(module, groups, context)]
    if importance in ("taylor", "hessian"):
        channels = (_taylor if importance == "taylor" else _hessian)(module, groups, context)
    else:
        with torch.no_grad():
            channels = [_WEIGHT_BASED[importance](group) for group in groups]
    scores = [group.unit_sums(values).float().cpu() for group, values in zip(groups, channels, strict=True)]
    if together and importance not in COMPARABLE:
        scores = [values / values.mean().clamp_min(1e-30) for values in scores]
    return scores


def _powers(group: ChannelGroup, power: int, parts: Sequence[Part]) -> Tensor:
    return group.per_channel((part, part.powers(power)) for part in parts if part.weight is not None)


def _producers(group: ChannelGroup) -> list[Part]:
    return [part for part in group.parts if part.producing]


def magnitude_l1(group: ChannelGroup) -> Tensor:
    """Σ|w| of the filters that produce the channel (Li et al., 2017)."""
    return _powers(group, 1, _producers(group))


def magnitude_l2(group: ChannelGroup) -> Tensor:
    """Euclidean norm of the filters that produce the channel."""
    return _powers(group, 2, _producers(group)).sqrt()


def group_norm(group: ChannelGroup) -> Tensor:
    """Euclidean norm of every slice that the channel ties, consumers and normalization included (DepGraph, equation 5)."""
    return _powers(group, 2, group.parts).sqrt()


def bn_scale(group: ChannelGroup) -> Tensor:
    """|γ| of the batch normalizations behind the channel (Liu et al., Network Slimming, 2017)."""
    return _powers(group, 1, [part for part in group.parts if isinstance(part.layer, _BatchNorm)])


def fpgm(group: ChannelGroup) -> Tensor:
    """Sum of distances to all other filters of the layer: a filter near the geometric median is replaceable (He et al., 2019)."""
    rows = [(part, part.rows(part.weight)) for part in _producers(group) if part.weight is not None]
    return group.per_channel((part, torch.cdist(values, values).sum(1)) for part, values in rows)


def lamp(group: ChannelGroup) -> Tensor:
    """Squared norm over the sum of the squared norms that are not smaller (Lee et al., 2021), for channels."""
    squares = _powers(group, 2, _producers(group))
    order = torch.sort(squares, stable=True)
    rest = order.values.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order.indices] = order.values / rest.clamp_min(1e-30)
    return scores


_WEIGHT_BASED: dict[str, Callable[[ChannelGroup], Tensor]] = {
    "magnitude_l1": magnitude_l1,
    "magnitude_l2": magnitude_l2,
    "group_norm": group_norm,
    "bn_scale": bn_scale,
    "fpgm": fpgm,
    "lamp": lamp,
}


def _taylor(module: nn.Module, groups: Sequence[ChannelGroup], context: Context) -> list[Tensor]:
    """(Σ gradient · weight)² over the slices that read the channel, averaged over batches of training examples.

    The sum is the exact first-order change of the loss when the channel is removed (Molchanov et al., 2019, equations 7 and 8).
    """
    totals = [torch.zeros(group.channels_count, device=context.device) for group in groups]
    for size in backpropagated(module, context, size=32):
        for total, group in zip(totals, groups, strict=True):
            total.add_(_read(group, lambda weight, gradient: weight * gradient).square(), alpha=size)
    return totals


def _hessian(module: nn.Module, groups: Sequence[ChannelGroup], context: Context) -> list[Tensor]:
    """½ Σ h·w² over the slices that read the channel, h the diagonal of the empirical Fisher matrix: its mean squared gradient of
    single examples stands for the Hessian's diagonal (LeCun et al., Optimal Brain Damage, 1990).
    """
    totals = [torch.zeros(group.channels_count, device=context.device) for group in groups]
    for _ in backpropagated(module, context, size=1, count=256):
        for total, group in zip(totals, groups, strict=True):
            total.add_(_read(group, lambda weight, gradient: (weight * gradient).square()), alpha=0.5)
    return totals


@torch.no_grad()
def _read(group: ChannelGroup, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Sum per channel of a function of weight and gradient over the slices that read the channel."""
    return group.per_channel(
        (part, part.rows(function(part.weight, part.weight.grad)).sum(1))
        for part in group.parts
        if (part.consuming or part.recurrent) and part.weight is not None and part.weight.grad is not None
    )
