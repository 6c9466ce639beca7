"""Where height, width and channels of a picture are in a network's input, and what was done to its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

CUSTOMARY_CHANNELS = (1, 2, 3, 4)


@dataclass(frozen=True, eq=False)
class Picture:
    """One input whose examples are pictures."""

    shape: tuple[int, ...]
    """Of one example before it is flattened, if it is; the product is the size of an example."""
    height: int
    width: int
    """Axes of height and width in `shape`."""
    channels: int | None
    """Axis of the channels; None where there is none."""
    factor: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    """An input's value is `factor` times the stored one plus `offset`; both can stand beside an array of `shape`."""
    scale: float
    """A pixel is `scale` times the stored value: what color changes are made of."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[self.height], self.shape[self.width]

    @classmethod
    def of(
        cls, letters: str | None, shape: tuple[int, ...], factor: npt.NDArray[Any], offset: npt.NDArray[Any], scale: float
    ) -> Picture | None:
        """From the letters of the axes, where they are stated; else three axes, of which the first or the last counts up to four
        channels, are a picture. None where it is none."""
        if letters is None:
            if len(shape) != 3:
                return None
            letters = "CHW" if shape[0] in CUSTOMARY_CHANNELS or shape[2] not in CUSTOMARY_CHANNELS else "HWC"
        if set(letters) not in ({"H", "W"}, {"C", "H", "W"}):
            return None
        channels = letters.index("C") if "C" in letters else None
        return cls(shape, letters.index("H"), letters.index("W"), channels, factor, offset, scale)


@runtime_checkable
class HasPictures(Protocol):
    """Examples that know which of their inputs are pictures."""

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """By the name of the input."""
