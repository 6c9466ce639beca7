"""MobileNetV2 (Sandler et al. 2018, table 2)."""

from __future__ import annotations

import torch
from torch import nn

from engine.architectures.mobilenet_v2.spec import MobileNetV2
from engine.architectures.mobilenets import initialize, rounded

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repeats and stride of each stage."""


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear bottleneck; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        expand = [_convolution(inputs, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same height and width, divided by the stride."""
        result: torch.Tensor = self.conv(features)
        return features + result if self.shortcut else result


class Network(nn.Module):
    """All convolutions in `features`, the head in `classifier`: torchvision's tensor names."""

    def __init__(self, params: MobileNetV2) -> None:
        super().__init__()
        small = params.stem == "cifar"
        channels = rounded(32 * params.width_multiplier)
        last = rounded(1280 * max(1.0, params.width_multiplier))
        layers: list[nn.Module] = [_convolution(params.in_channels, channels, 3, 1 if small else 2)]
        for stage, (expansion, width, repeats, stride) in enumerate(_STAGES):
            outputs = rounded(width * params.width_multiplier)
            for index in range(repeats):
                step = stride if index == 0 and not (small and stage == 1) else 1
                layers.append(InvertedResidual(channels, outputs, step, expansion))
                channels = outputs
        self.features = nn.Sequential(*layers, _convolution(channels, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, params.num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
        features = nn.functional.adaptive_avg_pool2d(self.features(images), 1)
        logits: torch.Tensor = self.classifier(torch.flatten(features, 1))
        return logits


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


def build(params: MobileNetV2) -> nn.Module:
    """The network with He-normal convolutions and a narrow head."""
    network = Network(params)
    initialize(network)
    return network
