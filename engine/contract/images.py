"""How pictures in files become arrays: `metadata.images` of a dataset of JPEG and PNG files."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.contract.base import Params

Side = Annotated[int, Field(ge=1, le=16_384)]
Sides = tuple[Side, Side]


class ImagesSpec(Params):
    """A picture is resized, then cut, then stored as bytes from 0 to 255; `preprocessing` says what becomes of these."""

    resize: Side | Sides | None = None
    """Height and width to which every picture is resized, whatever its own are; one number is the shorter side, and the longer one keeps the
    proportion. Left out together with `crop`: the size of the network's input."""
    crop: Side | Sides | None = None
    """Height and width (one number for both) of the part that is cut out of the middle after that. `resize: 256, crop: 224` is customary."""
    channels: Literal[1, 3] | None = None
    """1 for gray, 3 for red, green, blue; left out, what the network takes."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """Of the resize; a smaller picture's places are means over the places of the larger one, but with `nearest`."""

    @model_validator(mode="after")
    def _one_size(self) -> "ImagesSpec":
        if isinstance(self.resize, int) and self.crop is None:
            raise ValueError("resize to a shorter side leaves pictures of different sizes: add crop, or give resize height and width")
        return self

    @property
    def size(self) -> Sides | None:
        """Height and width of what is stored; None where the network's count."""
        cut = self.crop if self.crop is not None else self.resize
        return (cut, cut) if isinstance(cut, int) else cut
