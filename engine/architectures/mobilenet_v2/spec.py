"""Parameters of mobilenet_v2."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.architectures.spec import Architecture, ImageParams


class MobileNetV2(ImageParams):
    """Inverted residuals with linear bottlenecks, with torchvision's tensor names."""

    num_classes: int = Field(1000, ge=1, le=100_000)
    image_size: int = Field(224, ge=8, le=1024)
    width_multiplier: float = Field(1.0, gt=0, le=4)
    """Factor on all numbers of channels, rounded to multiples of eight."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: overall stride 32; `cifar`: the stem and the second stage keep the size, overall stride 8."""


ARCHITECTURES = (Architecture("mobilenet_v2", "MobileNetV2", "mobilenet_v2", MobileNetV2, {}, "https://arxiv.org/abs/1801.04381"),)
