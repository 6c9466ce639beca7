"""The npz format: `x_train y_train x_test y_test [x_validation y_validation]`, several inputs as `x_train.<input>`.

Arrays that are stored uncompressed are memory-mapped where they lie in the file; deflated ones are inflated once, into a work
directory, and mapped from there. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.contract.errors import EngineError
from engine.contract.metadata import SPLITS, DatasetMetadata
from engine.contract.text import IGNORED, SequencesSpec
from engine.data.ragged import Ragged, mask_of, padded
from engine.data.stored import Array, Stored, shown
from engine.data.tables import numbered
from engine.files.archive import DAMAGED, open_archive
from engine.files.npz import NAMING, bomb, members_of, read_header
from engine.networks.network import Signature

_CHUNK = 1 << 20
_LENGTHS = "_lengths"


def read(path: Path, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """The arrays of the file by split, memory-mapped and read-only.

    Raises `dataset_invalid`, `unsafe_format`, `archive_limit_exceeded`, `decompression_limit_exceeded`.
    """
    arrays = _arrays(path, work)
    splits: dict[str, dict[str, Array]] = {}
    for split in SPLITS:
        own = {key.replace(f"_{split}", "", 1): array for key, array in arrays.items() if key[2:].partition(".")[0] == split}
        if own:
            splits[split] = own
    names = arrays.get("classes")
    classes = None if names is None or names.ndim != 1 else tuple(map(str, (_text(names) if names.dtype.kind == "S" else names).tolist()))
    splits, named = _numbered(splits, metadata.labels or classes or ())
    classes = named.get("y", classes)
    lengths = {
        split: {
            key.replace(f"_{split}{_LENGTHS}", "", 1): array
            for key, array in arrays.items()
            if key[2:].partition(".")[0] == split + _LENGTHS
        }
        for split in splits
    }
    stored = Stored(splits, classes, NAMING, named=frozenset(named))
    if not any(lengths.values()):
        if metadata.sequences is not None:
            raise EngineError("dataset_invalid", "metadata.sequences is stated, and the file has no x_train_lengths.", hint=NAMING)
        return stored
    return _filled(stored, lengths, metadata.sequences or SequencesSpec(), signature, work)


def _numbered(splits: dict[str, dict[str, Array]], labels: Sequence[str]) -> tuple[dict[str, dict[str, Array]], dict[str, tuple[str, ...]]]:
    """Targets that are names as numbers of classes, in the order that is stated, else in that of the alphabet, as in tables; and the names, by column."""
    named: dict[str, tuple[str, ...]] = {}
    for column in {column for own in splits.values() for column, array in own.items() if array.dtype.kind in "US"}:
        for split, own in splits.items():
            if column in own and own[column].dtype.kind not in "US":
                raise EngineError(
                    "dataset_invalid",
                    f"{shown(column, split)} holds numbers, and in another split these targets are names.",
                    hint="Store names in every split, or numbers in every one.",
                )
        texts = {split: np.char.strip(_text(own[column])).tolist() for split, own in splits.items() if column in own}
        numbers, named[column] = numbered(texts, labels)
        splits = {split: own | ({column: numbers[split]} if column in own else {}) for split, own in splits.items()}
    return splits, named


def _text(names: Array) -> Array:
    return np.char.decode(names, "utf-8", "replace") if names.dtype.kind == "S" else names.astype(np.str_)


def _filled(stored: Stored, lengths: dict[str, dict[str, Array]], spec: SequencesSpec, signature: Signature | None, work: Path) -> Stored:
    """The sequences that lengths are given for, brought to one length; a mask of them where it is asked for."""
    splits = {split: dict(columns) for split, columns in stored.splits.items()}
    columns = sorted({column for own in lengths.values() for column in own})
    known: int | None = None
    for column in columns:  # inputs stand before targets, which have the length of the first of them
        parts = {}
        for split, own in splits.items():
            if column in own and column not in lengths[split]:
                raise EngineError("dataset_invalid", f"{shown(column, split)} has no lengths, which other splits have.", hint=NAMING)
            if column in own:
                parts[split] = Ragged.of(own[column], lengths[split][column], shown(column, split))
        target = not column.startswith("x")
        if target and any(part.values.dtype.kind not in "iub" for part in parts.values()):
            raise EngineError(
                "dataset_invalid",
                f"{column} holds sequences of values: their padding would count as targets.",
                hint="Pad them to one length.",
            )
        length = spec.length or (known if target else _length_of(column, signature)) or max(part.longest for part in parts.values())
        known = known or length
        dtype = np.dtype(np.int64) if target else next(iter(parts.values())).values.dtype
        filled = padded(parts, length, pad=IGNORED if target else _pad(spec.pad, dtype), longer=spec.longer, work=work, dtype=dtype)
        for split, array in filled.items():
            splits[split][column] = array
        if column == columns[0] and spec.mask is not None:
            for split, part in parts.items():
                splits[split][f"x.{spec.mask}"] = mask_of(part, length)
    return replace(stored, splits=splits, opened=frozenset({*columns, *([f"x.{spec.mask}"] if spec.mask else [])}))


def _length_of(column: str, signature: Signature | None) -> int | None:
    """What the network's input takes; None where it is left open, or not known."""
    if signature is None:
        return None
    for tensor in signature.inputs:
        if (column == "x" and len(signature.inputs) == 1) or column == f"x.{tensor.name}":
            return tensor.shape[1] if len(tensor.shape) > 1 else None
    return None


def _pad(value: float, dtype: np.dtype[Any]) -> float | int:
    if dtype.kind == "f":
        return value
    if value != int(value) or not (dtype.kind == "b" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max):
        raise EngineError(
            "dataset_invalid", f"metadata.sequences.pad is {value:g}, which sequences of {dtype} cannot hold.", hint="State another."
        )
    return int(value)


def _arrays(path: Path, work: Path) -> dict[str, Array]:
    """Every array of the file that belongs to a split, and `classes`."""
    try:
        with path.open("rb") as file, open_archive(file) as archive:
            members = members_of(archive)
            return {name: _map(path, archive, info, work) for name, info in members.items()}
    except DAMAGED as error:
        raise EngineError("dataset_invalid", "The file is not a whole npz archive.", hint="Write it with numpy.savez.") from error


def _map(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, work: Path) -> Array:
    name = info.filename.removesuffix(".npy")
    header = read_header(archive, name, info)
    with archive.open(info) as stream:
        stream.read(header.header_bytes)
        dtype, order = np.dtype(header.descr), "F" if header.fortran_order else "C"
        if name == "classes" or header.data_bytes == 0:
            raw = stream.read(header.data_bytes)
            return np.frombuffer(raw, dtype=dtype).reshape(header.shape, order=order)  # type: ignore[call-overload,no-any-return]  # the type of its elements is the file's
        if info.compress_type == zipfile.ZIP_STORED:
            source, offset = path, _data_offset(path, info) + header.header_bytes
        else:
            work.mkdir(parents=True, exist_ok=True)
            source, offset = work / f"{len(list(work.iterdir()))}-{info.CRC:08x}.raw", 0
            _inflate(stream, source, header.data_bytes, name)
    return np.memmap(source, dtype=dtype, mode="r", offset=offset, shape=header.shape, order=order)  # type: ignore[call-overload,no-any-return]  # the type of its elements is the file's


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: its local header has lengths of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)
    if local[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    offset = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if offset + info.compress_size > path.stat().st_size:
        raise zipfile.BadZipFile("member reaches past the end")
    return offset


def _inflate(stream: Any, target: Path, expected: int, name: str) -> None:
    """Write exactly `expected` bytes; what the archive claims about itself is not believed."""
    written = 0
    with target.open("wb") as file:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > expected:
                raise bomb(name, f"more than the {expected} bytes of its shape")
            file.write(chunk)
    if written != expected:
        raise EngineError("dataset_invalid", f"Array {name!r} ends after {written} of {expected} bytes.")
