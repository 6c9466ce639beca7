"""Batch normalization for a convolutional network that has none while it is tuned, which is folded into the weights afterwards.

Exporters fold normalization into the convolutions before it. Removing channels then shifts every mean and scale behind them, which a
short tuning without normalization hardly wins back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from engine.methods.context import Context
from engine.networks.layers import CONVOLUTIONS
from engine.structure.channels import Inputs
from engine.training.batch_norm import recalibrate

FEWEST = 3
"""Convolutions of a network whose missing normalization is worth a warning."""
NAME = "own_normalization"
KINDS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def lacks_normalization(module: nn.Module) -> bool:
    """Whether this is a convolutional network without a layer that normalizes."""
    layers = list(module.modules())
    normalized = any(isinstance(layer, _NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm) for layer in layers)
    return not normalized and sum(isinstance(layer, CONVOLUTIONS) for layer in layers) >= FEWEST


@contextmanager
def own_normalization(module: nn.Module, inputs: Inputs, context: Context) -> Iterator[None]:
    """While active, every convolution but the last layer has a batch normalization behind it.

    Each begins with the statistics of training examples and computes nothing new; afterwards it is folded into its convolution.
    """
    layers = normalizable(module, inputs)
    hooks = []
    for layer in layers:
        kind = KINDS[len(layer.kernel_size)]
        layer.add_module(NAME, kind(layer.out_channels, device=layer.weight.device))
        hooks.append(layer.register_forward_hook(_normalize))
    try:
        recalibrate(module, context.split("train"), context.input_names, context.device)
        for layer in layers:
            _as_identity(layer)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            _fold(layer)


def _normalize(layer: nn.Module, received: tuple[Tensor, ...], output: Tensor) -> Tensor:
    result: Tensor = getattr(layer, NAME)(output)
    return result


@torch.no_grad()
def normalizable(module: nn.Module, inputs: Inputs) -> list[Any]:
    """Convolutions that ran once, over more than one position, and that another layer with weights came behind."""
    ran: list[tuple[nn.Module, bool]] = []

    def look(layer: nn.Module, received: tuple[Tensor, ...], output: Tensor) -> None:
        ran.append((layer, isinstance(layer, CONVOLUTIONS) and output[0, 0].numel() > 1))

    hooks = [layer.register_forward_hook(look) for layer in module.modules() if isinstance(layer, (*CONVOLUTIONS, nn.Linear))]
    try:
        module.forward(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    layers = [layer for layer, _ in ran]
    return [layer for layer, fits in ran[:-1] if fits and layers.count(layer) == 1]


@torch.no_grad()
def _as_identity(layer: Any) -> None:
    """Scale and shift that undo the normalization, by the statistics that were measured without it."""
    norm = getattr(layer, NAME)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean)


@torch.no_grad()
def _fold(layer: Any) -> None:
    norm = getattr(layer, NAME)
    delattr(layer, NAME)
    factors = norm.weight / (norm.running_var + norm.eps).sqrt()
    shape = [1] * layer.weight.dim()
    if not layer.transposed:
        shape[0] = -1
        layer.weight.mul_(factors.reshape(shape))
    else:
        # (in, out / groups, …): the outputs of a group lie in the second dimension.
        cells = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:])
        scaled = cells * factors.reshape(layer.groups, 1, -1, *shape[2:])
        layer.weight.copy_(scaled.reshape(layer.weight.shape))
    before = torch.zeros_like(norm.running_mean) if layer.bias is None else layer.bias
    bias = (before - norm.running_mean) * factors + norm.bias
    if layer.bias is None:
        layer.bias = nn.Parameter(bias)
    else:
        layer.bias.copy_(bias)
