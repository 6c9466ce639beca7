"""LeNet-300-100 (LeCun et al. 1998): a multilayer perceptron on pixels."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from engine.architectures.lenet_300_100.spec import LeNet300


def build(params: LeNet300) -> nn.Sequential:
    """(batch, in_channels, image_size, image_size) → (batch, num_classes); tensors are called `1.weight`, `3.weight`, …"""
    widths = [params.in_channels * params.image_size**2, *params.hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], params.num_classes))
