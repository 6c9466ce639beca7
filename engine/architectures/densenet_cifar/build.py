"""DenseNet for small images (Huang et al. 2016, section 3), without bottlenecks and compression."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from engine.architectures.densenet_cifar.spec import DenseNetCifar


class DenseLayer(nn.Module):
    """Normalization, ReLU and a 3×3 convolution whose channels are put behind those that came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, c, h, w) → (batch, c + growth, h, w)."""
        return torch.cat([features, self.conv(functional.relu(self.norm(features)))], 1)


class Transition(nn.Module):
    """Normalization, ReLU, a 1×1 convolution and 2×2 average pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, c, h, w) → (batch, c, h / 2, w / 2)."""
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(features))), 2)


class Network(nn.Module):
    """Stem `conv`, dense blocks and transitions in `blocks`, `norm`, head `fc`."""

    def __init__(self, params: DenseNetCifar) -> None:
        super().__init__()
        channels = 16
        self.conv = nn.Conv2d(params.in_channels, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for block in range(3):
            layers = (params.depth - 4) // 3
            blocks.append(nn.Sequential(*(DenseLayer(channels + index * params.growth, params.growth) for index in range(layers))))
            channels += layers * params.growth
            if block < 2:
                blocks.append(Transition(channels))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, params.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
        features = functional.relu(self.norm(self.blocks(self.conv(images))))
        logits: torch.Tensor = self.fc(torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1))
        return logits


def build(params: DenseNetCifar) -> nn.Module:
    """The network with He-normal convolutions."""
    network = Network(params)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return network
