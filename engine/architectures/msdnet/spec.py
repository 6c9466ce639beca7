"""Parameters of msdnet."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from engine.architectures.spec import Architecture, ImageParams


class MSDNet(ImageParams):
    """The multi-scale dense network: features of several scales in every layer, each connected with all earlier ones of its scale and
    of the next finer one, and classifiers on the coarsest. It gives the last classifier's scores; `early_exit` trains and uses them all.
    """

    classifiers: int = Field(5, ge=2, le=32)
    """Number of classifiers, the last one included."""
    base: int = Field(4, ge=1, le=64)
    """Layers before the first classifier, besides the one that makes the scales."""
    step: int = Field(2, ge=1, le=64)
    """Layers from each classifier to the next one."""
    spacing: Literal["even", "growing"] = "even"
    """`even`: `step` layers each time; `growing`: 1 + `step`, 1 + 2 · `step`, … layers."""
    channels: int = Field(16, ge=1, le=512)
    """Channels of the finest scale in the first layer."""
    growth: int = Field(6, ge=2, le=256)
    """Channels that each layer adds to the finest scale; even."""
    scale_factors: tuple[int, ...] = Field((1, 2, 4), min_length=1, max_length=6)
    """One entry a scale, from fine to coarse: its factor on `channels` and `growth`. Each scale has half the height and width of the one before."""
    bottleneck_factors: tuple[int, ...] = (1, 2, 4)
    """One entry a scale: 1×1 convolutions before the 3×3 ones give at most so many times the channels that the layer adds; empty: none."""
    reduction: float = Field(0.5, gt=0, le=1)
    """Where depth drops a scale, a 1×1 convolution keeps this share of the channels; 1: no such convolution."""
    reduced: bool = True
    """Network reduction: of equal parts of the depth, as many as there are scales, each but the first drops the finest scale left."""
    classifier_channels: int = Field(128, ge=1, le=2048)
    """Channels of the two convolutions of a classifier."""

    @model_validator(mode="after")
    def _fits(self) -> MSDNet:
        if any(factor < 1 for factor in (*self.scale_factors, *self.bottleneck_factors)):
            raise ValueError("scale_factors and bottleneck_factors are at least 1")
        if self.bottleneck_factors and len(self.bottleneck_factors) != len(self.scale_factors):
            raise ValueError("bottleneck_factors has one entry for each of scale_factors, or none")
        if self.growth % 2:
            raise ValueError("growth is even: half of it comes from the next finer scale")
        if self.image_size < 2 ** (len(self.scale_factors) - 1):
            raise ValueError("image_size is too small for so many scales")
        return self

    def steps(self) -> tuple[int, ...]:
        """Layers of each block, which ends with a classifier."""
        later = range(1, self.classifiers)
        return (self.base, *(self.step if self.spacing == "even" else self.step * number + 1 for number in later))

    def finest(self, layer: int) -> int:
        """The finest scale, from 0, that is left after `layer`, from 1."""
        scales, depth = len(self.scale_factors), sum(self.steps())
        return min(scales - 1, (layer - 1) // math.ceil(depth / scales)) if self.reduced else 0


ARCHITECTURES = (Architecture("msdnet", "Multi-scale dense network", "msdnet", MSDNet, {}, "https://arxiv.org/abs/1703.09844"),)
