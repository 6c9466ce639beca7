"""ResNet for small images (He et al. 2015, section 4.2), with projection shortcuts (option B) so that pruning may touch every stage."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from engine.architectures.resnet_cifar.spec import ResNetCifar


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same height and width, divided by the stride."""
        inner = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(features))


class Network(nn.Module):
    """Stem `conv1`/`bn1`, stages `layer1` to `layer3`, head `fc`."""

    def __init__(self, params: ResNetCifar) -> None:
        super().__init__()
        blocks, width = (params.depth - 2) // 6, params.width
        self.conv1 = nn.Conv2d(params.in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.fc = nn.Linear(4 * width, params.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
        features = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: torch.Tensor = self.fc(torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def build(params: ResNetCifar) -> nn.Module:
    """The network with He-normal convolutions."""
    network = Network(params)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
