"""Parameters of vgg."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.architectures.spec import Architecture, ImageParams


class VGG(ImageParams):
    """Stacks of 3×3 convolutions with batch normalization, with torchvision's tensor names for `head: classic`."""

    num_classes: int = Field(1000, ge=1, le=100_000)
    image_size: int = Field(224, ge=32, le=1024)
    depth: Literal[11, 13, 16, 19] = 16
    """Number of layers with weights."""
    head: Literal["classic", "small"] = "classic"
    """`classic`: 7×7 pooling and three linear layers (4096, 4096, outputs); `small`: global pooling and one, for small images."""


ARCHITECTURES = (
    Architecture("vgg11_bn", "VGG-11 with batch normalization", "vgg", VGG, {"depth": 11}, "https://arxiv.org/abs/1409.1556"),
    Architecture("vgg16_bn", "VGG-16 with batch normalization", "vgg", VGG, {"depth": 16}, "https://arxiv.org/abs/1409.1556"),
)
