"""Parameters of resnet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.architectures.spec import Architecture, ImageParams


class ResNet(ImageParams):
    """The residual network for photographs, with torchvision's tensor names."""

    num_classes: int = Field(1000, ge=1, le=100_000)
    image_size: int = Field(224, ge=8, le=1024)
    depth: Literal[18, 34, 50, 101] = 18
    """Number of layers with weights."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: 7×7 with stride 2 and max pooling; `cifar`: 3×3 for small images."""


ARCHITECTURES = (
    Architecture("resnet18", "ResNet-18", "resnet", ResNet, {"depth": 18}, "https://arxiv.org/abs/1512.03385"),
    Architecture("resnet34", "ResNet-34", "resnet", ResNet, {"depth": 34}, "https://arxiv.org/abs/1512.03385"),
    Architecture("resnet50", "ResNet-50", "resnet", ResNet, {"depth": 50}, "https://arxiv.org/abs/1512.03385"),
)
