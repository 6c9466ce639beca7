"""Parameters of timm's image networks."""

from __future__ import annotations

from pydantic import Field

from engine.architectures.spec import Architecture, ImageParams, Library


class TimmParams(ImageParams):
    """An image network of timm, without its pretrained weights: the uploaded file has them, under timm's names."""

    model: str = Field(pattern=r"^[a-z0-9_.]{1,100}$")
    """timm's name, such as `resnet18` or `vit_tiny_patch16_224`."""
    num_classes: int = Field(1000, ge=1, le=100_000)
    """Number of outputs."""
    image_size: int = Field(224, ge=8, le=1024)
    """Height and width of the images, in pixels."""


LIBRARY = Library("timm", TimmParams, "An image network of timm", "https://github.com/huggingface/pytorch-image-models")
ARCHITECTURES: tuple[Architecture, ...] = ()
