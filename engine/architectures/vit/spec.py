"""Parameters of vit."""

from __future__ import annotations

from pydantic import Field, model_validator

from engine.architectures.spec import Architecture, ImageParams


class ViT(ImageParams):
    """A vision transformer: patch embedding, class token, pre-norm encoder blocks, a linear head."""

    patch_size: int = Field(4, ge=1, le=64)
    """Height and width of a patch, in pixels."""
    width: int = Field(192, ge=8, le=2048)
    """Width of the token embedding."""
    depth: int = Field(6, ge=1, le=48)
    """Number of encoder blocks."""
    heads: int = Field(3, ge=1, le=64)
    """Attention heads of a block."""
    mlp_ratio: float = Field(4.0, gt=0, le=16)
    """Width of a block's hidden layer, as a multiple of `width`."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability in training."""

    @model_validator(mode="after")
    def _fits(self) -> ViT:
        if self.image_size % self.patch_size:
            raise ValueError("image_size is a multiple of patch_size")
        if self.width % self.heads:
            raise ValueError("width is a multiple of heads")
        return self


ARCHITECTURES = (
    Architecture("vit_small_images", "Vision transformer for small images", "vit", ViT, {}, "https://arxiv.org/abs/2010.11929"),
)
