"""Sequences of different lengths, stored one behind the other, as one array: filled up at the end, or cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.contract.errors import EngineError
from engine.contract.text import Longer
from engine.data.stored import Array
from engine.data.tables import Scratch

_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Ragged:
    """Values of all sequences (values, ...), and the length of each."""

    values: Array
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: Array, lengths: Array, name: str) -> Ragged:
        """Checked. Raises `dataset_invalid` where the lengths are not those of the values; `name` is for messages."""
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
            raise EngineError(
                "dataset_invalid", f"The lengths of {name} are {lengths.dtype} of shape {lengths.shape}.", hint="Store whole numbers (N)."
            )
        counts = lengths.astype(np.int64)
        if int(counts.min()) < 1 or int(counts.max()) > len(values):
            place = int(np.flatnonzero((counts < 1) | (counts > len(values)))[0])
            raise EngineError(
                "dataset_invalid", f"Sequence {place} of {name} has length {int(counts[place])}.", hint="A sequence has at least one value."
            )
        if int(counts.sum()) != len(values):
            raise EngineError(
                "dataset_invalid",
                f"The lengths of {name} add up to {int(counts.sum())}, and it has {len(values)} values.",
                hint="Store all sequences one behind the other: numpy.concatenate(sequences), and their lengths.",
            )
        return cls(values, counts)

    @property
    def longest(self) -> int:
        """Length of the longest sequence."""
        return int(self.lengths.max())


def padded(parts: Mapping[str, Ragged], length: int, *, pad: float, longer: Longer, work: Path, dtype: npt.DTypeLike) -> dict[str, Array]:
    """(sequences, length, ...) of each split, in scratch files that are mapped. Raises `dataset_invalid`, `decompression_limit_exceeded`."""
    first = next(iter(parts.values()))
    with Scratch(work, (length, *first.values.shape[1:]), dtype) as scratch:
        for split, part in parts.items():
            if longer == "refuse" and part.longest > length:
                place = int(np.flatnonzero(part.lengths > length)[0])
                raise EngineError(
                    "dataset_invalid",
                    f"Sequence {place} of split {split} has {int(part.lengths[place])} values, more than {length}.",
                    hint="Raise length, or state longer: cut_end or cut_start.",
                )
            ends = np.cumsum(part.lengths)
            for start in range(0, len(ends), _ROWS):
                rows = range(start, min(start + _ROWS, len(ends)))
                block = np.full((len(rows), length, *part.values.shape[1:]), pad, dtype=dtype)
                for row in rows:
                    count = min(length, int(part.lengths[row]))
                    begin = int(ends[row] - part.lengths[row]) if longer != "cut_start" else int(ends[row]) - count
                    block[row - start, :count] = part.values[begin : begin + count]
                scratch.add(split, block)
    return scratch.mapped()


def mask_of(part: Ragged, length: int) -> Array:
    """(sequences, length): 1 at values, 0 at padding."""
    return (np.arange(length) < part.lengths[:, None]).astype(np.int8)
