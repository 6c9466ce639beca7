"""Parameters of densenet_cifar."""

from __future__ import annotations

from pydantic import Field, model_validator

from engine.architectures.spec import Architecture, ImageParams


class DenseNetCifar(ImageParams):
    """The densely connected network for small images: three dense blocks without bottlenecks."""

    depth: int = Field(40, ge=7, le=400)
    """Number of layers with weights, 3n + 4."""
    growth: int = Field(12, ge=1, le=256)
    """Channels that each layer adds."""

    @model_validator(mode="after")
    def _depth_fits(self) -> DenseNetCifar:
        if (self.depth - 4) % 3:
            raise ValueError("depth is 3n + 4: 7, 22, 40, 100, ...")
        return self


ARCHITECTURES = (
    Architecture("densenet40", "DenseNet-40 (growth 12)", "densenet_cifar", DenseNetCifar, {}, "https://arxiv.org/abs/1608.06993"),
)
