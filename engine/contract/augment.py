"""Changes at random that training makes of its examples: the same fields wherever a method trains."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.contract.base import OpenRatio, Params


class ColorJitter(Params):
    """Factors drawn evenly from 1 - v to 1 + v, one a picture, for values before mean and std of the preprocessing; nothing is clipped."""

    brightness: float = Field(0.0, ge=0, le=1)
    """Of the factor on all values."""
    contrast: float = Field(0.0, ge=0, le=1)
    """Of the factor on differences from the picture's mean."""
    saturation: float = Field(0.0, ge=0, le=1)
    """Of the factor on differences from the gray of the same place; pictures of three channels only."""

    @model_validator(mode="after")
    def _something(self) -> "ColorJitter":
        if not (self.brightness or self.contrast or self.saturation):
            raise ValueError("give brightness, contrast or saturation")
        return self


class TokenDropout(Params):
    """Tokens that are replaced, each with the same probability (Iyyer et al., Deep Unordered Composition, 2015)."""

    ratio: OpenRatio
    """Probability of each token."""
    replacement: int = Field(ge=0)
    """Token that stands in the place of a dropped one: the vocabulary's number for unknown or masked words."""
    keep: tuple[Annotated[int, Field(ge=0)], ...] = Field((), max_length=1000)
    """Tokens that are never dropped, such as padding and separators."""
    input: str | None = Field(None, min_length=1, max_length=256)
    """Name of the input of tokens; without it, the first input of integers."""


def _jitter(value: Any) -> Any:
    # A number is short for the same strength of brightness, contrast and saturation.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"brightness": value, "contrast": value, "saturation": value}
    return value


class Augment(Params):
    """Changes of training examples, drawn anew each time that an example is seen; the draws depend on seed and optimizer step alone.

    Teachers see the very tensors that the student sees. Pictures are moved first, then jittered, cut out and mixed. Targets that are
    pictures themselves (segmentation) move along.
    """

    flip: Literal["horizontal", "vertical", "both"] | None = None
    """Mirror every other picture: left to right, top to bottom, or each of the two independently."""
    crop: OpenRatio | None = None
    """Cut out a part of the picture, of this share of its area at least and with sides of 3:4 to 4:3 of the picture's, and resize it to
    the whole, bilinearly (Szegedy et al., 2015)."""
    shift: int = Field(0, ge=0, le=1024)
    """Move the picture by up to so many pixels in each direction; what comes in repeats the border."""
    cutout: OpenRatio | None = None
    """Replace a square around a random place, whose side is this share of the shorter side, by the mean of the picture's channels
    (DeVries, Taylor, 2017); it may reach beyond the border."""
    mixup: float | None = Field(None, gt=0, le=100)
    """Mix each example with another one of its batch, in inputs and losses, by a share drawn from Beta(mixup, mixup) (Zhang et al.,
    2018)."""
    color_jitter: Annotated[ColorJitter, BeforeValidator(_jitter)] | None = None
    """Change brightness, contrast and saturation; one number is short for all three."""
    token_dropout: TokenDropout | None = None
    """Replace some tokens of a text."""
    keep_targets: bool = False
    """Values that a network is trained on (regression) stay right when the picture moves. Without this, they are refused together with
    flip, crop and shift."""

    @property
    def moves(self) -> bool:
        """Whether pictures are moved, and with them what is shown where."""
        return bool(self.flip or self.crop or self.shift)

    @property
    def pictures(self) -> bool:
        """Whether it needs inputs that are pictures."""
        return self.moves or self.cutout is not None or self.color_jitter is not None

    @model_validator(mode="after")
    def _something(self) -> "Augment":
        if not (self.pictures or self.mixup or self.token_dropout):
            raise ValueError("give flip, crop, shift, cutout, mixup, color_jitter or token_dropout")
        return self
