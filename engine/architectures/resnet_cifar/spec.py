"""Parameters of resnet_cifar."""

from __future__ import annotations

from pydantic import Field, model_validator

from engine.architectures.spec import Architecture, ImageParams


class ResNetCifar(ImageParams):
    """The residual network for small images: 3×3 stem, three stages of 16, 32 and 64 channels, projections where the size changes."""

    depth: int = Field(20, ge=8, le=1202)
    """Number of layers with weights, 6n + 2."""
    width: int = Field(16, ge=4, le=512)
    """Channels of the first stage."""

    @model_validator(mode="after")
    def _depth_fits(self) -> ResNetCifar:
        if (self.depth - 2) % 6:
            raise ValueError("depth is 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...")
        return self


ARCHITECTURES = (
    Architecture("resnet8", "ResNet-8 (small images)", "resnet_cifar", ResNetCifar, {"depth": 8}, "https://arxiv.org/abs/1512.03385"),
    Architecture("resnet20", "ResNet-20 (small images)", "resnet_cifar", ResNetCifar, {"depth": 20}, "https://arxiv.org/abs/1512.03385"),
    Architecture("resnet56", "ResNet-56 (small images)", "resnet_cifar", ResNetCifar, {"depth": 56}, "https://arxiv.org/abs/1512.03385"),
)
