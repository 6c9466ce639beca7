"""What the values of masks mean: `metadata.masks` of a dataset of pictures and masks."""

from typing import Annotated

from pydantic import Field, model_validator

from engine.contract.base import Params

Value = Annotated[int, Field(ge=0, le=255)]
IGNORED = 255
"""What places that do not count are stored as."""


class MasksSpec(Params):
    """A mask is a PNG file of bytes (gray, or the indices of a palette), in the size of its picture; it is resized and cut like that one, without interpolation."""

    values: tuple[Value, ...] = Field((), max_length=255)
    """Stored values of the classes, in the order of their numbers: `[0, 255]` for black and white. Left out, stored values are class numbers."""
    ignored: tuple[Value, ...] = Field((IGNORED,), max_length=256)
    """Stored values of places that do not count, where they are no class."""

    @model_validator(mode="after")
    def _once(self) -> "MasksSpec":
        if len(set(self.values)) != len(self.values):
            raise ValueError("each value stands for one class")
        if "ignored" in self.model_fields_set and set(self.values) & set(self.ignored):
            raise ValueError("a value is either a class or ignored")
        return self
