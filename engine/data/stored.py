"""What a dataset file holds before any network is known: columns of arrays, split by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.contract.errors import EngineError
from engine.contract.metadata import SPLITS

Array = npt.NDArray[Any]
_CHUNK_BYTES = 1 << 23


@dataclass(frozen=True)
class Standardization:
    """What was fitted on the training examples: a network in use has to be fed (value - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Stored:
    """The columns of each split, examples first: `x` (or `x.<input>` for each of several inputs), and `y` where there are targets.

    Arrays of one split have the same length; they may be memory-mapped. Numbers only: what an input or a target means is found out when
    the network is known.
    """

    splits: Mapping[str, Mapping[str, Array]]
    """Of `train`, `validation` and `test` those that the file has."""
    classes: tuple[str, ...] | None = None
    """Names of the classes that `y` numbers, as far as the file has them."""
    naming: str = ""
    """How to name columns in files of this format, as a hint for people whose file lacks one."""
    open_sizes: bool = False
    """Whether the inputs' shapes are made for the network that reads them, so that those seen without one mean nothing."""
    opened: frozenset[str] = frozenset()
    """The same of single columns."""
    named: frozenset[str] = frozenset()
    """Columns of targets whose numbers stand for names that the file has in their place."""
    standardization: Standardization | None = None
    """What the inputs were standardized by, where it was fitted and not stated."""
    notes: tuple[str, ...] = ()
    """Sentences for people about what the reader did to examples, such as texts that it cut."""

    def inputs(self, split: str) -> dict[str, Array]:
        """The input columns of a split by name; none where the file lacks the split."""
        return {name: array for name, array in self.splits.get(split, {}).items() if name == "x" or name.startswith("x.")}

    def targets(self, split: str) -> dict[str, Array]:
        """The target columns of a split by name."""
        return {name: array for name, array in self.splits.get(split, {}).items() if name == "y" or name.startswith("y.")}

    def check(self) -> None:
        """Raise `dataset_invalid` for splits and columns that no dataset may have, and where an example holds NaN or infinity."""
        if not self.splits:
            raise EngineError("dataset_invalid", "The file holds no examples.", hint=self.naming or None)
        for split, columns in self.splits.items():
            if split not in SPLITS:
                raise EngineError("dataset_invalid", f"A dataset has no split {split[:80]!r}.", hint=f"Splits: {', '.join(SPLITS)}.")
            if not self.inputs(split):
                raise EngineError("dataset_invalid", f"The split {split} has no input.", hint=self.naming or None)
            for column, array in columns.items():
                _check(shown(column, split), array)
            counts = {shown(name, split): len(array) for name, array in self.inputs(split).items()}
            if len(set(counts.values())) > 1:
                raise EngineError(
                    "dataset_invalid", f"The inputs of split {split} differ in length: {counts}.", hint="Give each input every example."
                )
            (count,) = set(counts.values())
            for name, array in self.targets(split).items():
                if len(array) != count:
                    detail = f"{shown(name, split)} has targets of {len(array)} examples, and the split has {count}."
                    raise EngineError("dataset_invalid", detail, hint="Give each example its target.")


def shown(column: str, split: str) -> str:
    """How messages call a column of a split: `x_train`, `x_train.<input>`."""
    role, dot, rest = column.partition(".")
    return f"{role}_{split}{dot}{rest}"


def _check(name: str, array: Array) -> None:
    if array.dtype.kind not in "biuf":
        raise EngineError("dataset_invalid", f"{name} is {array.dtype}; numbers are needed.", hint="Store integers or floats.")
    if not array.ndim or 0 in array.shape:
        raise EngineError(
            "dataset_invalid", f"{name} of shape {tuple(array.shape)} has no examples.", hint="Leave the split out, or give it examples."
        )
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows) if array.dtype.kind == "f" else ():
        finite = np.isfinite(array[start : start + rows])
        if not finite.all():
            wrong = start + int(np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))[0])
            raise EngineError(
                "dataset_invalid", f"Example {wrong} of {name!r} holds NaN or infinity.", hint="Clean the data before uploading it."
            )
