"""Tables in Parquet as a matrix of features and targets, read batch by batch into scratch files that are mapped.

The headers of all pages that are read are looked at before pyarrow decodes one: a page says itself what it inflates to, and a small file
may say much. Types are believed: whole numbers are classes, floating-point ones values, texts names of classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.contract.table import TableSpec
from engine.data.stored import Array, Stored
from engine.data.tables import Columns, Draw, Scratch, bounded, features_type, narrow, numbered, standardize, stated_split, values_of
from engine.files.archive import printable
from engine.files.parquet import HINT, damaged, pages
from engine.networks.network import Signature

_BATCH = 4096
_MOST_COLUMNS = 100_000
_MOST_CELLS = 1 << 22
"""Values of one batch."""


def read(path: Path, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """`x` (N, features) in float32 (float64 where a mean is subtracted from them) and `y`, of the kind that the types of its columns say.

    Raises `dataset_invalid` with the row and the column, `tensor_limit_exceeded`, and `decompression_limit_exceeded`.
    """
    spec = metadata.table or TableSpec()
    try:
        with pq.ParquetFile(path, thrift_string_size_limit=limits.MAX_HEADER_BYTES, thrift_container_size_limit=1_000_000) as file:
            schema = file.schema_arrow
            columns = _columns(schema, spec)
            for place in columns.read:
                _check_type(columns.names[place], schema.field(place).type, feature=place in columns.features)
            _check_pages(path, file.metadata, [columns.names[place] for place in columns.read])
        texts = [columns.names[place] for place in columns.read if _is_text(schema.field(place).type)]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            return _read(file, columns, metadata, work)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(printable(str(error))) from error


def _read(file: pq.ParquetFile, columns: Columns, metadata: DatasetMetadata, work: Path) -> Stored:
    spec = metadata.table or TableSpec()
    wanted = [columns.names[place] for place in columns.read]
    draw = Draw(spec.test_share)
    targets: dict[str, list[list[Array]]] = {}
    seen = 0
    with Scratch(work, (len(columns.features),), features_type(metadata)) as scratch:
        for batch in file.iter_batches(batch_size=max(1, min(_BATCH, _MOST_CELLS // len(wanted))), columns=wanted, use_threads=False):
            own = _splits(batch, columns, draw, seen)
            features = np.stack([_feature(batch, columns.names[place], seen) for place in columns.features], axis=1)
            answers = [_target(batch, columns.names[place], seen) for place in columns.targets]
            for split in dict.fromkeys(own):
                rows = np.flatnonzero(own == split)
                scratch.add(str(split), features[rows])
                targets.setdefault(str(split), []).append([answer[rows] for answer in answers])
            seen += batch.num_rows
    if seen != file.metadata.num_rows:
        raise damaged(f"it says {file.metadata.num_rows} rows and holds {seen}")
    if not seen:
        raise EngineError("dataset_invalid", "The table has no rows.", hint=HINT)
    inputs = scratch.mapped()
    fitted = standardize(inputs) if spec.standardize == "train" else None
    answers_by_split, classes = _joined(targets, columns, metadata.labels)
    splits = {split: {"x": array, **({"y": answers_by_split[split]} if columns.targets else {})} for split, array in inputs.items()}
    return Stored(splits, classes, HINT, standardization=fitted)


def _columns(schema: pa.Schema, spec: TableSpec) -> Columns:
    names = list(schema.names)
    if len(names) > _MOST_COLUMNS:
        raise EngineError("dataset_invalid", f"The table has {len(names)} columns, the limit is {_MOST_COLUMNS}.", hint="Upload npz.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise EngineError("dataset_invalid", f"The table has the column {printable(twice)!r} twice.", hint="Name every column once.")
    index = [name for name in names if name.startswith("__index_level_") and name not in spec.features]
    if index:
        raise EngineError(
            "dataset_invalid",
            f"The table has {index[0]!r}, the row names of pandas, which is no feature.",
            hint="Write it with index=False, or name the features in metadata.table.features.",
        )
    return Columns.of(names, spec)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _names_classes(kind: pa.DataType) -> bool:
    return _is_text(kind) or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))


def _check_type(name: str, kind: pa.DataType, *, feature: bool) -> None:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind)
    if not number and (feature or not _names_classes(kind)):
        raise EngineError(
            "dataset_invalid",
            f"The column {printable(name)!r} holds {printable(str(kind))}, which is no number.",
            hint="Encode it as numbers, or leave the column out by metadata.table.features.",
        )


def _check_pages(path: Path, metadata: pq.FileMetaData, wanted: Sequence[str]) -> None:
    """Raise where the columns that are read inflate to more than they may, or say another number of values than they hold."""
    names = set(wanted)
    total = 0
    with path.open("rb") as file:
        for group in range(metadata.num_row_groups):
            part = metadata.row_group(group)
            if not part.num_rows:
                continue
            for place in range(part.num_columns):
                chunk = part.column(place)
                if not names & set(itertools.accumulate(chunk.path_in_schema.split("."), "{}.{}".format)):
                    continue  # pyarrow takes what stands before a dot for the name of a column, too
                first = chunk.data_page_offset
                if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                    first = min(first, chunk.dictionary_page_offset)
                if min(first, chunk.total_compressed_size) < 0 or first + chunk.total_compressed_size > path.stat().st_size:
                    raise damaged("a column that reaches past the end")
                found = list(pages(file, first, chunk.total_compressed_size))
                values = sum(page.values for page in found if not page.dictionary)
                if values != chunk.num_values or values != part.num_rows:
                    raise damaged(f"a column says {chunk.num_values} values of {part.num_rows} rows, and its pages {values}")
                total += sum(page.uncompressed_bytes for page in found)
    decoded = metadata.num_rows * len(wanted) * 4
    for figure in (total, decoded):
        if figure > limits.MAX_DATASET_BYTES or (
            figure > limits.FREE_INFLATE_BYTES and figure > limits.MAX_INFLATE_RATIO * path.stat().st_size
        ):
            raise EngineError(
                "decompression_limit_exceeded",
                f"The table inflates to {figure} bytes from {path.stat().st_size}.",
                hint="Upload it without compression and dictionaries, or as npz.",
            )


def _splits(batch: pa.RecordBatch, columns: Columns, draw: Draw, seen: int) -> Array:
    if columns.split is None:
        return np.array(draw.splits(batch.num_rows))
    name = columns.names[columns.split]
    stated = _texts(batch, name, seen)
    return np.array([stated_split(text, seen + row, name) for row, text in enumerate(stated.tolist(), 1)])


def _feature(batch: pa.RecordBatch, name: str, seen: int) -> Array:
    column = batch.column(batch.schema.get_field_index(name))
    _refuse_nulls(column, name, seen)
    return bounded(_numbers(column).astype(np.float64))  # infinity is refused later, with the example


def _target(batch: pa.RecordBatch, name: str, seen: int) -> Array:
    column = batch.column(batch.schema.get_field_index(name))
    if _names_classes(column.type):
        return _texts(batch, name, seen)
    _refuse_nulls(column, name, seen)
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
    return _numbers(column).astype(np.float64)


def _numbers(column: pa.Array) -> Array:
    kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _texts(batch: pa.RecordBatch, name: str, seen: int) -> Array:
    column = batch.column(batch.schema.get_field_index(name))
    if not _names_classes(column.type):
        raise EngineError("dataset_invalid", f"The column {printable(name)!r} holds {printable(str(column.type))}, not texts.", hint=HINT)
    _refuse_nulls(column, name, seen)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    names = np.array([str(text).strip() for text in column.dictionary.to_pylist()], dtype=object)
    found: Array = names[np.asarray(column.indices.to_numpy(zero_copy_only=False))]
    if (blank := np.flatnonzero(found == "")).size:
        raise _empty(name, seen + 1 + int(blank[0]))
    return found


def _refuse_nulls(column: pa.Array, name: str, seen: int) -> None:
    if column.null_count:
        raise _empty(name, seen + 1 + int(np.flatnonzero(np.asarray(column.is_null().to_numpy(zero_copy_only=False)))[0]))


def _empty(name: str, row: int) -> EngineError:
    return EngineError(
        "dataset_invalid", f"Row {row} of column {printable(name)!r} is empty.", hint="Fill it, or leave the row or the column out."
    )


def _joined(
    parts: dict[str, list[list[Array]]], columns: Columns, labels: Sequence[str]
) -> tuple[dict[str, Array], tuple[str, ...] | None]:
    """The targets of each split, and names of classes where they are texts."""
    if not columns.targets:
        return {}, None
    joined: dict[str, list[Any]] = {
        split: [np.concatenate([batch[place] for batch in batches]) for place in range(len(columns.targets))]
        for split, batches in parts.items()
    }
    if all(array.dtype != object for arrays in joined.values() for array in arrays):
        whole = all(array.dtype.kind == "i" for arrays in joined.values() for array in arrays)
        stacked = {split: np.stack(arrays, axis=1) for split, arrays in joined.items()}
        kept = {split: array.astype(np.int64) for split, array in stacked.items()} if whole else values_of(stacked)
        return {split: narrow(array) for split, array in kept.items()}, None
    if len(columns.targets) > 1:
        raise EngineError("dataset_invalid", "Several columns of targets have to hold numbers.", hint="Encode texts as numbers.")
    return numbered({split: arrays[0].tolist() for split, arrays in joined.items()}, labels)
