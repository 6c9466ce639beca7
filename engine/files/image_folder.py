"""Zip archives of JPEG and PNG files in folders of splits and classes: `train/cat/1.jpg`, or `cat/1.jpg`; the standard library only."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.contract.metadata import SPLITS
from engine.files.archive import open_archive, printable
from engine.files.effort import spend

NAMING = "Put the files into folders: train/<class>/<file>.jpg, test/<class>/<file>.jpg; or <class>/<file>.jpg for training examples alone."
ENDINGS = (".jpg", ".jpeg", ".png")
_ALIASES = {"val": "validation", "valid": "validation"}
_CUSTOMARY = re.compile(r"(^|/)(__MACOSX/|\.|Thumbs\.db$|desktop\.ini$)")
"""What operating systems put into archives."""
_LOCAL_HEADER = b"PK\x03\x04"
_MEMBER_EFFORT = 10


@dataclass(frozen=True)
class Entry:
    """One picture."""

    split: str
    label: str | None
    """Name of its folder; None where it lies in the split's own."""
    info: zipfile.ZipInfo


def recognizes(head: bytes) -> bool:
    """Whether the first members of an archive, as far as these bytes reach, are folders and pictures, and one is a picture or a split."""
    names = []
    place = 0 if head.startswith(_LOCAL_HEADER) else -1
    while place >= 0:
        length = int.from_bytes(head[place + 26 : place + 28], "little")
        name = head[place + 30 : place + 30 + length].decode("utf-8", "replace")
        if len(name) == length:
            names.append(name)
        place = head.find(_LOCAL_HEADER, place + 30 + length)
    ours = [name for name in names if name.endswith("/") or name.lower().endswith(ENDINGS) or _CUSTOMARY.search(name)]
    pictures = [name for name in names if name.lower().endswith(ENDINGS) or name.split("/")[0] in (*SPLITS, *_ALIASES)]
    return bool(pictures) and len(ours) == len(names)


def check(stream: IO[bytes], size: int) -> None:
    """Check names and sizes of all members; nothing is inflated.

    Raises `dataset_invalid`, `archive_limit_exceeded`, `decompression_limit_exceeded`, and `archive.DAMAGED`.
    """
    with open_archive(stream) as archive:
        entries_of(archive)


def entries_of(archive: zipfile.ZipFile) -> list[Entry]:
    """All pictures by split and name; the limits on archives are checked here."""
    pictures: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in archive.infolist():
        spend(_MEMBER_EFFORT)
        name = info.filename
        if name.endswith("/") or _CUSTOMARY.search(name):
            continue
        _check_member(name, info)
        if name in pictures:
            raise EngineError("dataset_invalid", f"The archive holds {printable(name)!r} twice.", hint="Give every picture its own name.")
        total += info.file_size
        pictures[name] = info
    if total > limits.MAX_DATASET_BYTES:
        raise _bomb("all pictures together", f"{total} bytes, the limit is {limits.MAX_DATASET_BYTES}")
    if not pictures:
        raise EngineError("dataset_invalid", "The archive holds no JPEG or PNG file.", hint=NAMING)
    root = _root(list(pictures))
    entries = [_entry(name, PurePosixPath(name).parts[root:], info) for name, info in sorted(pictures.items())]
    _check_labels(entries)
    return entries


def class_names(entries: Sequence[Entry], labels: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers: `labels` where they are stated, else in alphabetical order.

    Raises `dataset_invalid` where a folder is none of the stated ones.
    """
    found = sorted({entry.label for entry in entries if entry.label is not None})
    strange = [name for name in found if labels and name not in labels]
    if strange:
        raise EngineError(
            "dataset_invalid",
            f"The folder {printable(strange[0])!r} is none of the classes that metadata.labels names.",
            hint="Name every folder there, in the order of the network's classes, or leave labels out.",
        )
    return tuple(labels) or tuple(found)


def _check_member(name: str, info: zipfile.ZipInfo) -> None:
    shown = printable(name)
    if not name.lower().endswith(ENDINGS):
        raise EngineError("dataset_invalid", f"{shown!r} is no JPEG or PNG file.", hint="Leave other files out of the archive.")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise EngineError("dataset_invalid", f"{shown!r} is encrypted or compressed in an unusual way.", hint="Zip the folder as usual.")
    if max(info.file_size, info.compress_size) > limits.MAX_IMAGE_BYTES:
        raise _bomb(name, f"{info.file_size} bytes, the limit for one picture is {limits.MAX_IMAGE_BYTES}")


def _root(names: Sequence[str]) -> int:
    """1 where everything lies in one folder around those of splits or classes, else 0."""
    parts = [PurePosixPath(name).parts for name in names]
    first = {own[0] for own in parts}
    around = len(first) == 1 and min(len(own) for own in parts) > 2
    return int(around and not first & {*SPLITS, *_ALIASES})


def _entry(name: str, parts: tuple[str, ...], info: zipfile.ZipInfo) -> Entry:
    split = _ALIASES.get(parts[0], parts[0])
    folders = parts[1:-1] if split in SPLITS and len(parts) > 1 else parts[:-1]
    if len(folders) > 1:
        raise EngineError(
            "dataset_invalid", f"{printable(name)!r} lies deeper than a split and a class: what its class is is not clear.", hint=NAMING
        )
    own = split if split in SPLITS and len(parts) > 1 else "train"
    return Entry(own, folders[0] if folders else None, info)


def _check_labels(entries: Sequence[Entry]) -> None:
    stated = {entry.info.filename.split("/")[0] in (*SPLITS, *_ALIASES) for entry in entries} if _root_free(entries) else {True}
    if len(stated) > 1:
        raise EngineError("dataset_invalid", "Some folders are those of splits and others are not.", hint=NAMING)
    for split in SPLITS:
        labelled = {entry.label is not None for entry in entries if entry.split == split}
        if len(labelled) > 1:
            raise EngineError("dataset_invalid", f"Some pictures of the split {split} lie in class folders and others do not.", hint=NAMING)


def _root_free(entries: Sequence[Entry]) -> bool:
    return _root([entry.info.filename for entry in entries]) == 0


def _bomb(name: str, figures: str) -> EngineError:
    return EngineError("decompression_limit_exceeded", f"{printable(name)!r} has {figures}.", hint="Upload smaller pictures.")


FORMAT = FileFormat("image_folder", "dataset", (".zip",), recognizes, check)
