"""ResNet for photographs (He et al. 2015, table 1); the stride of a bottleneck stands in its 3×3 convolution, as in torchvision."""

from __future__ import annotations

import torch
from torch import nn

from engine.architectures.resnet.spec import ResNet

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _projection(inputs, planes, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same height and width, divided by the stride."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        shortcut = features if self.downsample is None else self.downsample(features)
        result: torch.Tensor = self.relu(inner + shortcut)
        return result


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU()
        self.downsample = _projection(inputs, 4 * planes, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same height and width, divided by the stride."""
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(inner)))))
        shortcut = features if self.downsample is None else self.downsample(features)
        result: torch.Tensor = self.relu(inner + shortcut)
        return result


class Network(nn.Module):
    """Stem `conv1`/`bn1`, stages `layer1` to `layer4`, head `fc`: torchvision's tensor names."""

    def __init__(self, params: ResNet) -> None:
        super().__init__()
        block = BasicBlock if params.depth < 50 else Bottleneck
        large = params.stem == "imagenet"
        self.conv1 = nn.Conv2d(params.in_channels, 64, 7 if large else 3, 2 if large else 1, padding=3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        channels = 64
        for stage, blocks in enumerate(_STAGES[params.depth]):
            planes = 64 << stage
            layers = []
            for index in range(blocks):
                layers.append(block(channels, planes, 2 if stage and index == 0 else 1))
                channels = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, params.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in range(1, 5):
            features = self.get_submodule(f"layer{stage}")(features)
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def build(params: ResNet) -> nn.Module:
    """The network with He-normal convolutions."""
    network = Network(params)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
