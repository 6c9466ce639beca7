"""Parameters of digit_cnn."""

from __future__ import annotations

from pydantic import Field, model_validator

from engine.architectures.spec import Architecture, ImageParams


class DigitCNN(ImageParams):
    """Three 3×3 convolutions (32, 64, 128 channels), each with ReLU and 2×2 max pooling, then two linear layers (256, outputs)."""

    in_channels: int = Field(1, ge=1, le=64)
    image_size: int = Field(28, ge=8, le=256)
    channels: tuple[int, ...] = Field((32, 64, 128), min_length=1, max_length=8)
    """Channels of the convolutions."""
    hidden: int = Field(256, ge=1, le=65_536)
    """Width of the hidden linear layer."""

    @model_validator(mode="after")
    def _pools_fit(self) -> DigitCNN:
        if self.image_size >> len(self.channels) < 1:
            raise ValueError(f"{len(self.channels)} poolings leave nothing of {self.image_size} pixels")
        return self


ARCHITECTURES = (Architecture("digit_cnn", "Digit CNN", "digit_cnn", DigitCNN, {}, "https://doi.org/10.1109/5.726791"),)
