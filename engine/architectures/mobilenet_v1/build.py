"""MobileNetV1 (Howard et al. 2017, table 1)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from engine.architectures.mobilenet_v1.spec import MobileNetV1
from engine.architectures.mobilenets import initialize, rounded

_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
"""Channels, repeats and stride of each stage."""


class Separable(nn.Module):
    """A depthwise 3×3 convolution and a pointwise one, each with normalization and ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same height and width, divided by the stride."""
        inner = functional.relu6(self.bn1(self.conv_dw(features)))
        return functional.relu6(self.bn2(self.conv_pw(inner)))


class Network(nn.Module):
    """Stem `conv_stem`/`bn1`, stages in `blocks`, head `classifier`."""

    def __init__(self, params: MobileNetV1) -> None:
        super().__init__()
        small, channels = params.stem == "cifar", rounded(32 * params.width_multiplier)
        self.conv_stem = nn.Conv2d(params.in_channels, channels, 3, 1 if small else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for stage, (width, repeats, stride) in enumerate(_STAGES):
            outputs = rounded(width * params.width_multiplier)
            strides = [1 if small and stage == 1 else stride] + [1] * (repeats - 1)
            stages.append(nn.Sequential(*(Separable(channels if i == 0 else outputs, outputs, step) for i, step in enumerate(strides))))
            channels = outputs
        self.blocks = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, params.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
        features = self.blocks(functional.relu6(self.bn1(self.conv_stem(images))))
        logits: torch.Tensor = self.classifier(torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1))
        return logits


def build(params: MobileNetV1) -> nn.Module:
    """The network with He-normal convolutions and a narrow head."""
    network = Network(params)
    initialize(network)
    return network
