"""LeNet-5 (LeCun et al. 1998, section II) as it is trained today: ReLU and max pooling."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from engine.architectures.lenet_5.spec import LeNet5


def build(params: LeNet5) -> nn.Sequential:
    """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
    padding = 2 if params.image_size == 28 else 0
    size = ((params.image_size + 2 * padding - 4) // 2 - 4) // 2
    layers = OrderedDict(
        conv1=nn.Conv2d(params.in_channels, 6, 5, padding=padding),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * size * size, 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, params.num_classes),
    )
    return nn.Sequential(layers)
