"""What readers of archives of many files share."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np

from engine.contract.errors import EngineError
from engine.data.stored import Array
from engine.files.archive import DAMAGED, printable
from engine.files.folders import Entry


def content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, as many as the archive states. Raises `dataset_invalid`."""
    name = printable(info.filename)
    try:
        with archive.open(info) as stream:
            data = stream.read(info.file_size + 1)
    except DAMAGED as error:
        raise unreadable(name, "damaged in the archive") from error
    if len(data) != info.file_size:
        raise unreadable(name, "its size is not the one that the archive states")
    return data


def labels_of(entries: Sequence[Entry], classes: Sequence[str]) -> dict[str, Array]:
    """`y` with the class number of every entry; nothing where they have no classes."""
    if entries[0].label is None:
        return {}
    numbers = {name: number for number, name in enumerate(classes)}
    return {"y": np.array([numbers[entry.label] for entry in entries if entry.label is not None], dtype=np.int64)}


def unreadable(name: str, why: str) -> EngineError:
    """The refusal of a member that cannot be decoded."""
    return EngineError("dataset_invalid", f"{name!r} cannot be decoded: {why[:200]}.", hint="Replace the file, or leave it out.")
