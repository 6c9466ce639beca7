"""A small convolutional network for digits."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from engine.architectures.digit_cnn.spec import DigitCNN


class Network(nn.Module):
    """Convolutions in `conv_layers`, linear layers in `fc_layers`."""

    def __init__(self, params: DigitCNN) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        for before, after in pairwise((params.in_channels, *params.channels)):
            convolutions += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.conv_layers = nn.Sequential(*convolutions)
        features = params.channels[-1] * (params.image_size >> len(params.channels)) ** 2
        self.fc_layers = nn.Sequential(nn.Linear(features, params.hidden), nn.ReLU(), nn.Linear(params.hidden, params.num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
        logits: torch.Tensor = self.fc_layers(torch.flatten(self.conv_layers(images), 1))
        return logits


def build(params: DigitCNN) -> nn.Module:
    """The network with random weights."""
    return Network(params)
