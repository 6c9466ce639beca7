"""From stored arrays to what the network's input expects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.contract.arrangement import Arrangement, arrange, check_type, check_unscaled
from engine.contract.metadata import PreprocessingSpec
from engine.data.pictures import Picture
from engine.networks.network import TensorSpec

Array = npt.NDArray[Any]


class Preprocessing:
    """A prepared `PreprocessingSpec`: batch of stored values (n, ...) to batch of the input's layout and type."""

    def __init__(self, spec: PreprocessingSpec, stored: tuple[int, ...], target: TensorSpec) -> None:
        """`stored` is the shape of one example as stored. Raises `shape_mismatch` where it cannot become `target`."""
        check_type(target.name, target.dtype)
        self.dtype = np.dtype(target.dtype)
        self.scalar = target.shape == ()
        """Whether the input is one number for a whole batch, such as a sampling rate."""
        if self.scalar:
            target = TensorSpec(target.name, (None, *([1] * len(stored))), target.dtype)
        floating = self.dtype.kind == "f"
        arrangement = arrange(spec, stored, target.name, target.shape)
        self._order, self._arranged, self.shape = arrangement.order, arrangement.arranged, arrangement.shape
        check_unscaled(spec, target.name, target.dtype)
        mean, std = (_per_channel(item, arrangement) for item in (spec.mean, spec.std))
        factor, offset = np.asarray(spec.scale / std, dtype=np.float32), np.asarray(-mean / std, dtype=np.float32)
        self._plain = not floating or (bool((factor == 1).all()) and bool((offset == 0).all()))
        # The mean is taken off first: beside a large one, what is left has fewer digits otherwise.
        self._mean = np.asarray(mean / spec.scale if spec.scale else mean)
        self._factor = np.asarray((spec.scale or 1.0) / std)
        self._zero = not spec.scale
        self.picture = Picture.of(arrangement.letters, self._arranged, factor, offset, spec.scale) if floating and not self.scalar else None
        """How the input shows a picture; None where it shows none."""

    def __call__(self, stored: Array) -> Array:
        """The batch, contiguous."""
        moved = stored.transpose((0, *(1 + axis for axis in self._order))).reshape((len(stored), *self._arranged))
        if not self._plain:
            wide = np.float64 if moved.dtype.itemsize > (4 if moved.dtype.kind == "f" else 2) else np.float32
            if self._zero:
                moved = np.zeros(moved.shape, wide)
            moved = np.subtract(moved, self._mean.astype(wide), dtype=wide)
            moved *= self._factor.astype(wide)
        ready = np.ascontiguousarray(moved, dtype=self.dtype).reshape((len(stored), *self.shape))
        return np.asarray(ready.reshape(-1)[0]) if self.scalar else ready


def _per_channel(stated: float | tuple[float, ...], arrangement: Arrangement) -> npt.NDArray[np.float64]:
    """A number, or numbers shaped to stand beside the channels: the first axis of an example, or the last where only that fits."""
    if isinstance(stated, int | float):
        return np.array(float(stated))
    values = np.array(stated, dtype=np.float64)
    if arrangement.channel_axis(len(values)) == 0:
        return values.reshape((-1, *[1] * (len(arrangement.arranged) - 1)))
    return values
