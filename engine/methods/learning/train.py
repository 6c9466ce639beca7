"""Plain training on labels, from the present weights or from new ones."""

from __future__ import annotations

import copy

import torch
from torch import nn

from engine.methods.context import Context
from engine.methods.learning.spec import Train
from engine.networks import masks
from engine.networks.initialization import initialize
from engine.networks.layers import PRUNABLE
from engine.networks.masks import Mask
from engine.networks.network import Network


def apply(network: Network, params: Train, context: Context) -> Network:
    """Train a copy of the network; the zeros that `hold_zeros` holds are those of the weights before new ones are drawn."""
    context.phase("training")
    module = copy.deepcopy(network.module)
    if params.hold_zeros:
        masks.hold(module, zero_masks(module))
    if params.initialization != "keep":
        kept = initialize(module, params.initialization, context.new_seed())
        if kept:
            context.warn(
                "not_initialized", f"No layer knows how to draw these parameters, so they stay: {', '.join(kept)}.", parameters=kept
            )
    context.stage("before", module)
    context.train(module, params)
    context.stage("trained", module)
    return network.with_module(module.cpu())


def zero_masks(module: nn.Module) -> dict[str, Mask]:
    """Masks of the weights of convolutions and linear layers that have zeros among others."""
    found = {}
    for name, layer in module.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, PRUNABLE) and isinstance(weight, torch.Tensor) and 0 < int((weight == 0).sum()) < weight.numel():
            found[f"{name}.weight" if name else "weight"] = Mask(weight.detach() != 0)
    return found
