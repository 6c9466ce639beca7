"""Tables in CSV as a matrix of features and targets, read row by row into scratch files that are mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.contract.table import TableSpec
from engine.data.stored import Array, Stored
from engine.data.tables import Columns, Draw, Scratch, bounded, features_type, narrow, numbered, standardize, stated_split, values_of
from engine.files.archive import printable
from engine.files.csv import HINT, is_number, rows_of
from engine.networks.network import Signature


def read(path: Path, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """`x` (N, features) in float32 (float64 where a mean is subtracted from them) and `y`: whole numbers, values, or numbers of the classes that texts name.

    Raises `dataset_invalid` with the line or the column, and `decompression_limit_exceeded`.
    """
    spec = metadata.table or TableSpec()
    cells: dict[str, list[list[str]]] = {}
    with path.open(encoding="utf-8-sig", newline="") as text:
        rows = rows_of(text)
        columns = Columns.of(next(rows), spec)
        with Scratch(work, (len(columns.features),), features_type(metadata)) as scratch:
            for split, number, row in _placed(rows, columns, spec):
                scratch.add(split, _features(row, number, columns))
                cells.setdefault(split, []).append([row[column].strip() for column in columns.targets])
    if not cells:
        raise EngineError("dataset_invalid", "The table has a header and no rows.", hint=HINT)
    inputs = scratch.mapped()
    fitted = standardize(inputs) if spec.standardize == "train" else None
    targets, classes = _targets(cells, columns, metadata.labels)
    splits = {split: {"x": array, **({"y": targets[split]} if columns.targets else {})} for split, array in inputs.items()}
    return Stored(splits, classes, HINT, standardization=fitted)


def _placed(rows: Iterator[list[str]], columns: Columns, spec: TableSpec) -> Iterator[tuple[str, int, list[str]]]:
    """Each row with its split and its number, the first one behind the header being 1."""
    draw = Draw(spec.test_share)
    for number, row in enumerate(rows, 1):
        if columns.split is None:
            yield draw.splits(1)[0], number, row
        else:
            yield stated_split(row[columns.split].strip(), number, columns.names[columns.split]), number, row


def _features(row: list[str], number: int, columns: Columns) -> Array:
    values = np.empty((1, len(columns.features)))
    for place, column in enumerate(columns.features):
        cell = row[column]
        if not is_number(cell):
            what = "is empty" if not cell.strip() else f"holds {printable(cell)!r}, which is no number"
            raise EngineError(
                "dataset_invalid",
                f"Row {number} of column {printable(columns.names[column])!r} {what}.",
                hint="Write numbers with a point and without other marks."
                if is_number(cell.replace(".", "").replace(",", ".").rstrip("%"))
                else "Fill it, encode texts as numbers, or leave the column out by metadata.table.features.",
            )
        values[0, place] = float(cell)
    return bounded(values)


def _targets(cells: dict[str, list[list[str]]], columns: Columns, labels: Sequence[str]) -> tuple[dict[str, Array], tuple[str, ...] | None]:
    """The targets of each split, and names of classes where they are texts, or numbers that `labels` lists."""
    for split, rows in cells.items():
        for number, row in enumerate(rows, 1):
            if "" in row:
                raise EngineError(
                    "dataset_invalid", f"Example {number} of split {split} has no target.", hint="Fill it, or leave the row out."
                )
    known = set(labels)
    if known and len(columns.targets) == 1 and all(row[0] in known for rows in cells.values() for row in rows):
        return numbered({split: [row[0] for row in rows] for split, rows in cells.items()}, labels)
    if all(is_number(cell) for rows in cells.values() for row in rows for cell in row):
        numbers: dict[str, npt.NDArray[Any]] = {split: np.array(rows, dtype=np.float64) for split, rows in cells.items()}
        whole = all(bool((array == np.rint(array)).all()) and bool((np.abs(array) < 2**53).all()) for array in numbers.values())
        kept = {split: array.astype(np.int64) for split, array in numbers.items()} if whole else values_of(numbers)
        return {split: narrow(array) for split, array in kept.items()}, None
    if len(columns.targets) > 1:
        raise EngineError("dataset_invalid", "Several columns of targets have to hold numbers.", hint="Encode texts as numbers.")
    return numbered({split: [row[0] for row in rows] for split, rows in cells.items()}, labels)
