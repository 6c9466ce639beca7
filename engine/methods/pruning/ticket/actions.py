"""What kept and pruned weights start a round with (Zhou et al., Deconstructing Lottery Tickets, 2019, sections 4 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.methods.pruning.spec_lottery import KeptWeights, PrunedWeights
from engine.networks.masks import Mask


def kept_values(action: KeptWeights, start: Tensor, wi: Tensor, mask: Mask, *, keep_sign: bool, generator: torch.Generator) -> Tensor:
    """Values of one whole weight, of which the mask's kept entries count.

    Args:
        action: Where kept weights start.
        start: Weights at the point of rewinding.
        wi: Initial weights.
        mask: The entries that are kept.
        keep_sign: Every weight keeps the sign of its initial value.
        generator: Shuffles.
    """
    if action == "rewind":
        return start.clone()
    values = wi.clone()
    if action == "reinit":
        shuffled = wi.reshape(-1)[torch.randperm(wi.numel(), generator=generator)].reshape(wi.shape)
        return shuffled.abs() * torch.sign(wi) if keep_sign else shuffled
    if action == "reshuffle":
        classes = [mask.keep & (wi >= 0), mask.keep & (wi < 0)] if keep_sign else [mask.keep]
        for chosen in classes:
            own = wi[chosen]
            values[chosen] = own[torch.randperm(len(own), generator=generator)]
        return values
    signs = torch.sign(wi[mask.keep])
    if not keep_sign:
        signs = signs[torch.randperm(len(signs), generator=generator)]
    values[mask.keep] = signs * wi.std(correction=0)
    return values


def pruned_values(action: PrunedWeights, wi: Tensor, wf: Tensor, mask: Mask, generator: torch.Generator) -> Tensor | None:
    """Constant values of one whole weight, of which the pruned entries count; None stands for zero."""
    if action == "zero":
        return None
    if action == "freeze_init":
        return wi.clone()
    pruned, toward = ~mask.keep, moved_toward_zero(wi, wf)
    zeroed = pruned & (~toward if action == "freeze_away" else toward)
    if action == "freeze_reshuffled":
        places = pruned.reshape(-1).nonzero().reshape(-1)
        chosen = places[torch.randperm(len(places), generator=generator)[: int(zeroed.sum())]]
        zeroed = torch.zeros_like(pruned).reshape(-1).index_fill(0, chosen, True).reshape(pruned.shape)
    return torch.where(zeroed, 0.0, wi)


def moved_toward_zero(wi: Tensor, wf: Tensor) -> Tensor:
    """Where training made a weight smaller in magnitude."""
    return wi.abs() > wf.abs()
