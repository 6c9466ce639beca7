"""Parameters of lenet_300_100."""

from __future__ import annotations

from pydantic import Field

from engine.architectures.spec import Architecture, ImageParams


class LeNet300(ImageParams):
    """A multilayer perceptron on flattened pixels: two hidden layers with ReLU."""

    in_channels: int = Field(1, ge=1, le=64)
    image_size: int = Field(28, ge=8, le=256)
    hidden: tuple[int, ...] = Field((300, 100), min_length=1, max_length=16)
    """Widths of the hidden layers."""


ARCHITECTURES = (Architecture("lenet_300_100", "LeNet-300-100", "lenet_300_100", LeNet300, {}, "https://doi.org/10.1109/5.726791"),)
