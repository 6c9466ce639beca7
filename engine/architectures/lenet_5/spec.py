"""Parameters of lenet_5."""

from __future__ import annotations

from pydantic import Field

from engine.architectures.spec import Architecture, ImageParams


class LeNet5(ImageParams):
    """Two 5×5 convolutions with max pooling and three linear layers, ReLU between; images of 28 pixels are padded by two."""

    in_channels: int = Field(1, ge=1, le=64)
    image_size: int = Field(28, ge=16, le=256)


ARCHITECTURES = (Architecture("lenet_5", "LeNet-5", "lenet_5", LeNet5, {}, "https://doi.org/10.1109/5.726791"),)
