"""Parameters of mobilenet_v1."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.architectures.spec import Architecture, ImageParams


class MobileNetV1(ImageParams):
    """Depthwise separable convolutions in a chain without shortcuts, with timm's tensor names."""

    num_classes: int = Field(1000, ge=1, le=100_000)
    image_size: int = Field(224, ge=8, le=1024)
    width_multiplier: float = Field(1.0, gt=0, le=4)
    """Factor on all numbers of channels, rounded to multiples of eight."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: overall stride 32; `cifar`: the stem and the second stage keep the size, overall stride 8."""


ARCHITECTURES = (Architecture("mobilenet_v1", "MobileNetV1", "mobilenet_v1", MobileNetV1, {}, "https://arxiv.org/abs/1704.04861"),)
