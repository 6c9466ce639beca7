"""Drawing the weights of a network anew."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from engine.networks import masks
from engine.networks.layers import PRUNABLE

Scheme = Literal["default", "glorot_normal", "kaiming_normal"]


@torch.no_grad()
def initialize(module: nn.Module, scheme: Scheme, seed: int) -> list[str]:
    """Draw new weights in place, masks kept; returns the names of parameters that no layer knows how to draw, which stay.

    `default` is what torch's layers do (uniform within ±1/√fan_in, biases too); `glorot_normal` has variance 2 / (fan_in + fan_out),
    `kaiming_normal` 2 / fan_in, both with biases of zero. Normalizations start as the identity, with fresh running statistics.
    """
    drawn: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if isinstance(layer, PRUNABLE):
                _draw(layer, scheme)
            elif callable(reset):
                reset()
            else:
                continue
            drawn |= {id(parameter) for parameter in layer.parameters()}
    return [name for name, parameter in module.named_parameters() if id(parameter) not in drawn]


def _draw(layer: nn.Module, scheme: Scheme) -> None:
    weight, bias = masks.stored(layer), layer.bias
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
    if scheme == "glorot_normal":
        _fill(weight, nn.init.xavier_normal_)
    elif scheme == "kaiming_normal":
        _fill(weight, lambda tensor: nn.init.kaiming_normal_(tensor, nonlinearity="relu"))
    else:
        _fill(weight, lambda tensor: nn.init.kaiming_uniform_(tensor, a=math.sqrt(5)))
    if isinstance(bias, Tensor):
        bias.zero_()
        if scheme == "default" and fan_in > 0:
            _fill(bias, lambda tensor: nn.init.uniform_(tensor, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)))


def _fill(parameter: Tensor, function: object) -> None:
    """Draw on the CPU, so that every device gets the same numbers."""
    assert callable(function)
    parameter.copy_(function(torch.empty(parameter.shape, dtype=parameter.dtype)))
