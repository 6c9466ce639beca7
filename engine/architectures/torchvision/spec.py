"""Parameters of torchvision's image classifiers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.architectures.spec import Architecture, ImageParams, Library


class TorchvisionParams(ImageParams):
    """An image classifier of torchvision, without its pretrained weights: the uploaded file has them, under torchvision's names."""

    model: str = Field(pattern=r"^[a-z0-9_]{1,100}$")
    """torchvision's name, such as `resnet18` or `mobilenet_v3_small`."""
    in_channels: Literal[3] = 3
    """Channels of the images."""
    num_classes: int = Field(1000, ge=1, le=100_000)
    """Number of outputs."""
    image_size: int = Field(224, ge=8, le=1024)
    """Height and width of the images, in pixels."""


LIBRARY = Library("torchvision", TorchvisionParams, "An image classifier of torchvision", "https://github.com/pytorch/vision")
ARCHITECTURES: tuple[Architecture, ...] = ()
