"""What tables of every format share: which columns are what, scratch files of features, standardization, and names of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from engine.contract import limits
from engine.contract.arrangement import preprocessing_of_only
from engine.contract.errors import EngineError
from engine.contract.metadata import SPLITS, DatasetMetadata
from engine.contract.table import SPLIT, TARGETS, TableSpec
from engine.data.stored import Array, Standardization
from engine.files.archive import printable
from engine.files.csv import is_number
from engine.files.folders import check_once

_ALIASES = {"val": "validation", "valid": "validation"}
_ROWS = 4096
_FRACTION = re.compile(r"[+-]?\d*[.,]\d+([eE][+-]?\d+)?")
_LOST_OF_SPREAD = 1e-6
"""What single precision may round away of targets, as a share of their standard deviation."""
_MISSING = frozenset({"na", "n/a", "nan", "null", "none", "?", "-", "."})
"""What people write into a cell that has no number, in small letters."""


@dataclass(frozen=True)
class Columns:
    """Places of the columns in a row."""

    names: list[str]
    features: list[int]
    targets: list[int]
    split: int | None

    @property
    def read(self) -> list[int]:
        """All that are read, in the order of the table."""
        return sorted({*self.features, *self.targets, *(() if self.split is None else (self.split,))})

    @classmethod
    def of(cls, names: list[str], spec: TableSpec) -> Self:
        """What `spec` says about columns of these names. Raises `dataset_invalid` for names that are not there."""
        for name in (*spec.features, *spec.targets, *((spec.split,) if spec.split else ())):
            if name not in names:
                raise EngineError(
                    "dataset_invalid",
                    f"metadata.table names the column {printable(name)!r}, which the table does not have.",
                    hint=f"Columns: {', '.join(printable(known) for known in names[:20])}.",
                )
        places = {name: place for place, name in enumerate(names)}
        split = spec.split or (SPLIT if SPLIT in places and SPLIT not in (*spec.features, *spec.targets) and not spec.test_share else None)
        customary = next((name for name in TARGETS if name in places and name not in spec.features), None)
        targets = spec.targets or ((customary,) if customary else ())
        features = spec.features or tuple(name for name in names if name not in targets and name != split)
        if not features:
            raise EngineError("dataset_invalid", "The table has no column of features.", hint="Name them in metadata.table.features.")
        return cls(names, [places[name] for name in features], [places[name] for name in targets], None if split is None else places[split])


class Draw:
    """Rows of the test split where no column says it, the same ones every time."""

    def __init__(self, share: float) -> None:
        self._share, self._rng = share, np.random.default_rng(0)

    def splits(self, count: int) -> list[str]:
        """The splits of the next rows."""
        if not self._share:
            return ["train"] * count
        return ["test" if drawn < self._share else "train" for drawn in self._rng.random(count)]


def stated_split(stated: str, number: int, column: str) -> str:
    """The split that a row of this number states. Raises `dataset_invalid`."""
    split = _ALIASES.get(stated, stated)
    if split not in SPLITS:
        raise EngineError(
            "dataset_invalid",
            f"Row {number} belongs to the split {printable(stated)!r}.",
            hint=f"The column {printable(column)!r} holds {', '.join(SPLITS)}; name another one in metadata.table.split.",
        )
    return split


@dataclass
class _Part:
    path: Path
    file: IO[bytes]
    count: int = 0


@dataclass
class Scratch:
    """Examples of equal shape that are written split by split into files, which are mapped afterwards."""

    work: Path
    shape: tuple[int, ...]
    dtype: npt.DTypeLike = np.float32
    _parts: dict[str, _Part] = field(default_factory=dict)
    _files: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.work.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, split: str, examples: Array) -> None:
        """Append examples of `shape`. Raises `decompression_limit_exceeded`."""
        if split not in self._parts:
            target = self.work / f"{len(list(self.work.iterdir()))}-{split}.raw"
            self._parts[split] = _Part(target, self._files.enter_context(target.open("wb")))
        part = self._parts[split]
        part.file.write(np.ascontiguousarray(examples, dtype=self.dtype).data)
        part.count += len(examples)
        bytes_each = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        if sum(one.count for one in self._parts.values()) * bytes_each > limits.MAX_DATASET_BYTES:
            raise EngineError("decompression_limit_exceeded", "The dataset has too many values.", hint="Upload fewer examples.")

    @property
    def counts(self) -> dict[str, int]:
        """Examples of each split."""
        return {split: part.count for split, part in self._parts.items()}

    def mapped(self) -> dict[str, Array]:
        """The arrays of each split; nothing is added after that."""
        self._files.close()
        return {
            split: np.memmap(self._parts[split].path, dtype=self.dtype, mode="r+", shape=(self._parts[split].count, *self.shape))
            for split in SPLITS
            if split in self._parts
        }


def features_type(metadata: DatasetMetadata) -> type[np.float32 | np.float64]:
    """What features are stored as: numbers from which a mean is subtracted lose digits in single precision, such as those of times."""
    stated = preprocessing_of_only(metadata)
    centered = stated is not None and stated.mean != 0
    return np.float64 if centered or (metadata.table is not None and metadata.table.standardize == "train") else np.float32


def bounded(values: Array) -> Array:
    """The same, infinite where a network's single precision has no such number."""
    return np.where(np.abs(values) <= np.finfo(np.float32).max, values, np.inf)


def values_of(splits: Mapping[str, Array]) -> dict[str, Array]:
    """Targets that are values, by split: in float32, or in float64 where float32 would round away what tells them apart, such as of times."""
    found = {split: bounded(array.astype(np.float64)) for split, array in splits.items()}
    every = np.concatenate([array.reshape(len(array), -1) for array in found.values()])
    with np.errstate(invalid="ignore"):
        lost = np.abs(every.astype(np.float32) - every).max(axis=0, initial=0)
        kept = bool((lost <= _LOST_OF_SPREAD * every.std(axis=0)).all())
    return {split: array.astype(np.float32) for split, array in found.items()} if kept else found


def standardize(inputs: Mapping[str, Array]) -> Standardization:
    """By the training examples, in place, along the last dimension; a feature that never changes is only centered.

    Raises `dataset_invalid` where there are no training examples.
    """
    train = inputs.get("train")
    if train is None:
        raise EngineError("dataset_invalid", "standardize: train needs training rows.", hint="State preprocessing.mean and std instead.")
    chunks = [slice(start, start + _ROWS) for start in range(0, len(train), _ROWS)]
    others = tuple(range(train.ndim - 1))
    count = train.size // train.shape[-1]
    mean = sum(train[rows].astype(np.float64).sum(axis=others) for rows in chunks) / count
    variance = sum(np.square(train[rows].astype(np.float64) - mean).sum(axis=others) for rows in chunks) / count
    deviation = np.asarray(np.sqrt(variance))
    lowest, highest = (np.stack([bound(train[rows], axis=others) for rows in chunks]) for bound in (np.min, np.max))
    constant = lowest.min(axis=0) == highest.max(axis=0)  # its deviation is what rounding left of it
    mean = np.where(constant, lowest.min(axis=0), mean)
    deviation[constant | (deviation == 0)] = 1
    for array in inputs.values():
        for start in range(0, len(array), _ROWS):
            array[start : start + _ROWS] = (array[start : start + _ROWS] - mean) / deviation
    return Standardization(tuple(np.asarray(mean).tolist()), tuple(deviation.tolist()))


def numbered(texts: Mapping[str, Sequence[str]], labels: Sequence[str]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Texts as numbers of classes, and their names: `labels` where they are stated, else all texts in alphabetical order.

    Raises `dataset_invalid` for a text that is none of the stated ones, or that stands among them twice.
    """
    found = sorted({text for rows in texts.values() for text in rows})
    if not labels:
        _refuse_numbers(found)
    strange = [name for name in found if labels and name not in labels]
    if strange:
        raise EngineError(
            "dataset_invalid", f"The class {printable(strange[0])!r} is none of metadata.labels.", hint="Name every class there."
        )
    check_once(found, labels)
    classes = tuple(labels) or tuple(found)
    if len(classes) > limits.MAX_CLASSES:
        raise EngineError("dataset_invalid", f"The targets are {len(classes)} different texts.", hint="Is it a column of features?")
    places = {name: place for place, name in enumerate(classes)}
    return {split: np.array([places[text] for text in rows], dtype=np.int64) for split, rows in texts.items()}, classes


def _refuse_numbers(names: Sequence[str]) -> None:
    """Raise `dataset_invalid` where texts are numbers some of which are missing, or written with a comma: they name no classes."""
    others = [name for name in names if not is_number(name)]
    fractions = any(_FRACTION.fullmatch(name) for name in names)
    missing = len(others) < len(names) and all(name.lower() in _MISSING for name in others)
    if others and (fractions or missing):
        raise EngineError(
            "dataset_invalid",
            f"Targets are numbers, and one is {printable(others[0])!r}.",
            hint="Write numbers with a point, and leave rows without a target out; if these are names of classes, list them in metadata.labels.",
        )


def narrow(array: npt.NDArray[Any]) -> Array:
    """(N) where there is one target."""
    return array[:, 0] if array.ndim > 1 and array.shape[1] == 1 else array
