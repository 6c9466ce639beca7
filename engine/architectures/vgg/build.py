"""VGG with batch normalization (Simonyan & Zisserman 2014, table 1, configurations A, B, D, E)."""

from __future__ import annotations

import torch
from torch import nn

from engine.architectures.vgg.spec import VGG

_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


class Network(nn.Module):
    """Convolutions in `features`, linear layers in `classifier`: torchvision's tensor names for the classic head."""

    def __init__(self, params: VGG) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = params.in_channels
        for repeats, width in zip(_STAGES[params.depth], _CHANNELS, strict=True):
            for _ in range(repeats):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        classic = params.head == "classic"
        self.avgpool = nn.AdaptiveAvgPool2d(7 if classic else 1)
        if classic:
            hidden = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
            self.classifier = nn.Sequential(*hidden, nn.Linear(4096, params.num_classes))
        else:
            self.classifier = nn.Sequential(nn.Linear(512, params.num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


def build(params: VGG) -> nn.Module:
    """The network with He-normal convolutions and narrow linear layers."""
    network = Network(params)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias) if layer.bias is not None else None
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
    return network
