"""The npz format: `x_train y_train x_test y_test [x_validation y_validation]`, several inputs as `x_train.<input>`.

Arrays that are stored uncompressed are memory-mapped where they lie in the file; deflated ones are inflated once, into a work
directory, and mapped from there. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from engine.contract.errors import EngineError
from engine.contract.metadata import SPLITS, DatasetMetadata
from engine.data.stored import Array, Stored
from engine.files.archive import DAMAGED, open_archive
from engine.files.npz import NAMING, bomb, members_of, read_header
from engine.networks.network import Signature

_CHUNK = 1 << 20


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
    classes = None if names is None or names.ndim != 1 else tuple(str(item) for item in names.tolist())
    return Stored(splits, classes, NAMING)


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
            return np.frombuffer(raw, dtype=dtype).reshape(header.shape, order=order)  # type: ignore[call-overload,no-any-return]
        if info.compress_type == zipfile.ZIP_STORED:
            source, offset = path, _data_offset(path, info) + header.header_bytes
        else:
            work.mkdir(parents=True, exist_ok=True)
            source, offset = work / f"{len(list(work.iterdir()))}-{info.CRC:08x}.raw", 0
            _inflate(stream, source, header.data_bytes, name)
    return np.memmap(source, dtype=dtype, mode="r", offset=offset, shape=header.shape, order=order)  # type: ignore[call-overload,no-any-return]


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
