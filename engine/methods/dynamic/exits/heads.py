"""Classifiers that are attached to the inside of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, fx, nn

from engine.contract.heads import Head
from engine.networks.layers import CONVOLUTIONS

_SMALLEST = 4
"""Height and width from which feature maps are worth convolutions of stride 2."""
_NARROWEST = 8
MOST_OF_WHOLE = 0.1
"""What an exit may cost where its form is chosen, as a share of the network."""
_BY_CHANNEL = (
    *CONVOLUTIONS,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
)
"""Layers behind which the channels stand in dimension 1; behind all others in the last one."""


class ExitHead(nn.Module):
    """Features of any form → the form of one of the network's outputs.

    (batch, channels, …) or, with `channels_last`, (batch, …, channels): convolutions, the mean over all places, a linear layer.
    """

    def __init__(self, shape: Sequence[int | None], head: Head, output: Sequence[int | None], *, last: bool, width: int | None) -> None:
        """`shape` of the features and `output` of the network without their batch; `width` of the convolutions, None for none."""
        super().__init__()
        channels = shape[-1 if last else 0]
        assert channels is not None
        self.channels_last = last and len(shape) > 1
        self.probabilities: Literal["softmax", "sigmoid"] | None = None
        if head.scale == "probabilities":
            self.probabilities = "softmax" if head.class_axis is not None else "sigmoid"
        layers: list[nn.Module] = []
        for _ in range(2 if width is not None else 0):
            assert width is not None
            layers += [nn.Conv2d(channels, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.normalization: nn.Module = nn.LayerNorm(channels) if self.channels_last else nn.Identity()
        self.output = tuple(1 if size is None else size for size in output)
        self.linear = nn.Linear(channels, math.prod(self.output))

    def forward(self, features: Tensor) -> Tensor:
        """Scores, or probabilities where the network gives those."""
        if self.channels_last:
            pooled = self.normalization(features).flatten(1, -2).mean(1)
        else:
            found = self.features(features)
            pooled = found.flatten(2).mean(2) if found.ndim > 2 else found
        scores: Tensor = self.linear(pooled)
        if self.probabilities == "softmax":
            scores = torch.softmax(scores, 1)
        elif self.probabilities == "sigmoid":
            scores = torch.sigmoid(scores)
        return scores if len(self.output) == 1 else scores.reshape(-1, *self.output)


def channels_last(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the channels of a value stand in its last dimension, as the nearest layer with weights before it shows."""
    waiting, seen = [node], {node}
    while waiting:
        node = waiting.pop(0)
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if isinstance(layer, _BY_CHANNEL):
                return False
            if any(True for _ in layer.parameters(recurse=False)):
                return True
        waiting += [item for item in node.all_input_nodes if item not in seen]
        seen.update(node.all_input_nodes)
    return False


def head_width(kind: Literal["auto", "linear", "conv"], shape: Sequence[int], *, last: bool, width: int, whole: float) -> int | None:
    """Channels of a head's convolutions; None where it has none. Convolutions need (channels, height, width).

    Where the choice is free, they are as many as `width` halved until the head costs a tenth of the `whole` network's multiply-accumulates.
    """
    if last or len(shape) != 3 or kind == "linear":
        return None
    if kind == "conv":
        return width
    if min(shape[1:]) < _SMALLEST:
        return None
    channels, height, breadth = shape
    places = [math.ceil(height / step) * math.ceil(breadth / step) for step in (2, 4)]
    while width >= _NARROWEST:
        if 9 * width * (places[0] * channels + places[1] * width) <= MOST_OF_WHOLE * whole:
            return width
        width //= 2
    return None
