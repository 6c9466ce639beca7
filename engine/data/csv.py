"""Tables in CSV as a matrix of features and targets, read row by row into scratch files that are mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.metadata import SPLITS, DatasetMetadata
from engine.contract.table import SPLIT, TARGETS, TableSpec
from engine.data.stored import Array, Stored
from engine.files.archive import printable
from engine.files.csv import HINT, is_number, rows_of
from engine.networks.network import Signature

_ALIASES = {"val": "validation", "valid": "validation"}
_ROWS = 4096


@dataclass(frozen=True)
class _Columns:
    """Places of the columns in a row."""

    names: list[str]
    features: list[int]
    targets: list[int]
    split: int | None


@dataclass
class _Part:
    """One split while it is read."""

    path: Path
    file: IO[bytes]
    count: int = 0
    targets: list[list[str]] = field(default_factory=list)


def read(path: Path, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """`x` (N, features) in float32 and `y`: whole numbers, values, or numbers of the classes that texts name.

    Raises `dataset_invalid` with the line or the column, and `decompression_limit_exceeded`.
    """
    spec = metadata.table or TableSpec()
    work.mkdir(parents=True, exist_ok=True)
    parts: dict[str, _Part] = {}
    with ExitStack() as files, path.open(encoding="utf-8-sig", newline="") as text:
        rows = rows_of(text)
        columns = _columns(next(rows), spec)
        for split, line, row in _placed(rows, columns, spec):
            if split not in parts:
                target = work / f"{len(list(work.iterdir()))}-{split}.raw"
                parts[split] = _Part(target, files.enter_context(target.open("wb")))
            _take(parts[split], row, line, columns)
            if sum(part.count for part in parts.values()) * len(columns.features) * 4 > limits.MAX_DATASET_BYTES:
                raise EngineError("decompression_limit_exceeded", "The table has too many values.", hint="Upload fewer rows.")
    if not parts:
        raise EngineError("dataset_invalid", "The table has a header and no rows.", hint=HINT)
    width = len(columns.features)
    inputs: dict[str, Array] = {
        split: np.memmap(part.path, dtype=np.float32, mode="r+", shape=(part.count, width)) for split, part in parts.items()
    }
    if spec.standardize == "train":
        _standardize(inputs)
    targets, classes = _targets({split: part.targets for split, part in parts.items()}, columns, metadata.labels)
    splits = {split: {"x": inputs[split], **({"y": targets[split]} if columns.targets else {})} for split in SPLITS if split in inputs}
    return Stored(splits, classes, HINT)


def _columns(names: list[str], spec: TableSpec) -> _Columns:
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
    return _Columns(
        names, [places[name] for name in features], [places[name] for name in targets], None if split is None else places[split]
    )


def _placed(rows: Iterator[list[str]], columns: _Columns, spec: TableSpec) -> Iterator[tuple[str, int, list[str]]]:
    """Each row with its split and its number, the first one behind the header being 1."""
    rng = np.random.default_rng(0)
    for number, row in enumerate(rows, 1):
        if columns.split is None:
            yield ("test" if spec.test_share and rng.random() < spec.test_share else "train"), number, row
            continue
        stated = row[columns.split].strip()
        split = _ALIASES.get(stated, stated)
        if split not in SPLITS:
            raise EngineError(
                "dataset_invalid",
                f"Row {number} belongs to the split {printable(stated)!r}.",
                hint=f"The column {columns.names[columns.split]!r} holds {', '.join(SPLITS)}; name another one in metadata.table.split.",
            )
        yield split, number, row


def _take(part: _Part, row: list[str], number: int, columns: _Columns) -> None:
    values = np.empty(len(columns.features), dtype=np.float32)
    for place, column in enumerate(columns.features):
        cell = row[column]
        if not is_number(cell):
            what = "is empty" if not cell.strip() else f"holds {printable(cell)!r}, which is no number"
            raise EngineError(
                "dataset_invalid",
                f"Row {number} of column {printable(columns.names[column])!r} {what}.",
                hint="Fill it, encode texts as numbers, or leave the column out by metadata.table.features.",
            )
        values[place] = float(cell)
    part.file.write(values.data)
    part.targets.append([row[column].strip() for column in columns.targets])
    part.count += 1


def _standardize(inputs: dict[str, Array]) -> None:
    """By the training rows, in place; a feature that never changes is only centered."""
    train = inputs.get("train")
    if train is None:
        raise EngineError("dataset_invalid", "standardize: train needs training rows.", hint="State preprocessing.mean and std instead.")
    chunks = [slice(start, start + _ROWS) for start in range(0, len(train), _ROWS)]
    mean = sum(train[rows].astype(np.float64).sum(axis=0) for rows in chunks) / len(train)
    variance = sum(np.square(train[rows].astype(np.float64) - mean).sum(axis=0) for rows in chunks) / len(train)
    deviation = np.sqrt(variance)
    deviation[deviation == 0] = 1
    for array in inputs.values():
        for start in range(0, len(array), _ROWS):
            array[start : start + _ROWS] = (array[start : start + _ROWS] - mean) / deviation


def _targets(
    cells: dict[str, list[list[str]]], columns: _Columns, labels: Sequence[str]
) -> tuple[dict[str, Array], tuple[str, ...] | None]:
    """The targets of each split, and names of classes where they are texts."""
    every = [cell for rows in cells.values() for row in rows for cell in row]
    for split, rows in cells.items():
        for number, row in enumerate(rows, 1):
            if "" in row:
                raise EngineError(
                    "dataset_invalid", f"Example {number} of split {split} has no target.", hint="Fill it, or leave the row out."
                )
    if all(is_number(cell) for cell in every):
        numbers: dict[str, npt.NDArray[Any]] = {split: np.array(rows, dtype=np.float64) for split, rows in cells.items()}
        whole = all(bool((array == np.rint(array)).all()) and bool((np.abs(array) < 2**53).all()) for array in numbers.values())
        kind = np.int64 if whole else np.float32
        return {split: _narrow(array.astype(kind)) for split, array in numbers.items()}, None
    if len(columns.targets) > 1:
        raise EngineError("dataset_invalid", "Several columns of targets have to hold numbers.", hint="Encode texts as numbers.")
    found = sorted(set(every))
    strange = [name for name in found if labels and name not in labels]
    if strange:
        raise EngineError(
            "dataset_invalid", f"The class {printable(strange[0])!r} is none of metadata.labels.", hint="Name every class there."
        )
    classes = tuple(labels) or tuple(found)
    if len(classes) > limits.MAX_CLASSES:
        raise EngineError("dataset_invalid", f"The targets are {len(classes)} different texts.", hint="Is it a column of features?")
    places = {name: place for place, name in enumerate(classes)}
    return {split: np.array([places[row[0]] for row in rows], dtype=np.int64) for split, rows in cells.items()}, classes


def _narrow(array: npt.NDArray[Any]) -> Array:
    """(N) where there is one target."""
    return array[:, 0] if array.ndim > 1 and array.shape[1] == 1 else array
