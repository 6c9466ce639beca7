"""Zip archives of many files in folders, such as `train/cat/1.jpg`: which files belong to which split and class; the standard library only."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.metadata import SPLITS
from engine.files.archive import printable
from engine.files.effort import spend

ALIASES = {"val": "validation", "valid": "validation"}
SPLIT_FOLDERS = frozenset({*SPLITS, *ALIASES})
_LIKE_SPLITS = SPLIT_FOLDERS | {"training", "testing", "eval", "evaluation", "dev"}
_CUSTOMARY = re.compile(r"(^|/)(__MACOSX/|\.|Thumbs\.db$|desktop\.ini$)")
"""What operating systems put into archives."""
_LOCAL_HEADER = b"PK\x03\x04"
_MEMBER_EFFORT = 10


@dataclass(frozen=True)
class Entry:
    """One file."""

    split: str
    label: str | None
    """Name of its folder; None where it lies in the split's own."""
    info: zipfile.ZipInfo


@dataclass(frozen=True)
class Kind:
    """What kind of files an archive holds, for checks and messages."""

    endings: tuple[str, ...]
    one: str
    """Such as `JPEG or PNG file`."""
    many: str
    """Such as `pictures`."""
    largest_bytes: int
    naming: str

    def holds(self, name: str) -> bool:
        """Whether a member of this name is such a file."""
        return name.lower().endswith(self.endings)


def first_names(head: bytes) -> list[str]:
    """Names of the first members of an archive, as far as these bytes reach, without what operating systems add."""
    names = []
    place = 0 if head.startswith(_LOCAL_HEADER) else -1
    while place >= 0:
        length = int.from_bytes(head[place + 26 : place + 28], "little")
        name = head[place + 30 : place + 30 + length].decode("utf-8", "replace").replace("\\", "/")
        if len(name) == length and not _CUSTOMARY.search(name):
            names.append(name)
        place = head.find(_LOCAL_HEADER, place + 30 + length)
    return names


def files_of(archive: zipfile.ZipFile, kind: Kind) -> dict[str, zipfile.ZipInfo]:
    """All files by name, sorted; other files, and what exceeds the limits on archives, are refused.

    Raises `dataset_invalid`, `decompression_limit_exceeded`.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in members(archive):
        name = info.filename
        _check_member(name, info, kind)
        if name in found:
            raise EngineError("dataset_invalid", f"The archive holds {printable(name)!r} twice.", hint="Give every file its own name.")
        total += info.file_size
        found[name] = info
    if total > limits.MAX_DATASET_BYTES:
        raise bomb(f"all {kind.many} together", f"{total} bytes, the limit is {limits.MAX_DATASET_BYTES}")
    if not found:
        raise EngineError("dataset_invalid", f"The archive holds no {kind.one}.", hint=kind.naming)
    return dict(sorted(found.items()))


def members(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """The files of an archive, without folders and what operating systems add."""
    for info in archive.infolist():
        spend(_MEMBER_EFFORT)
        info.filename = info.filename.replace("\\", "/")  # older programs of Windows part folders so
        if not info.filename.endswith("/") and not _CUSTOMARY.search(info.filename):
            yield info


def entries_of(archive: zipfile.ZipFile, kind: Kind) -> list[Entry]:
    """All files by split and name. Raises what `files_of` does."""
    files = files_of(archive, kind)
    root = root_of(list(files))
    entries = [_entry(name, PurePosixPath(name).parts[root:], info, kind) for name, info in files.items()]
    _check_labels(entries, kind)
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
    check_once(found, labels)
    return tuple(labels) or tuple(found)


def check_once(names: Iterable[str], labels: Sequence[str]) -> None:
    """Raise `dataset_invalid` where a name of examples stands in `labels` twice: which of the two classes is meant is not clear."""
    counts = Counter(labels)
    if twice := next((name for name in names if counts[name] > 1), None):
        raise EngineError(
            "dataset_invalid",
            f"metadata.labels has the class {printable(twice)!r} {counts[twice]} times: which of them examples of this name belong to is not clear.",
            hint="Give every class a name of its own.",
        )


def root_of(names: Sequence[str]) -> int:
    """1 where everything lies in one folder around those of splits or classes, else 0."""
    parts = [PurePosixPath(name).parts for name in names]
    first = {own[0] for own in parts}
    around = len(first) == 1 and min(len(own) for own in parts) > 2
    return int(around and not first & SPLIT_FOLDERS)


def bomb(name: str, figures: str) -> EngineError:
    """The refusal of a file that becomes too large."""
    return EngineError("decompression_limit_exceeded", f"{printable(name)!r} has {figures}.", hint="Upload smaller files.")


def _check_member(name: str, info: zipfile.ZipInfo, kind: Kind) -> None:
    shown = printable(name)
    if not kind.holds(name):
        raise EngineError("dataset_invalid", f"{shown!r} is no {kind.one}.", hint="Leave other files out of the archive.")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise EngineError("dataset_invalid", f"{shown!r} is encrypted or compressed in an unusual way.", hint="Zip the folder as usual.")
    if max(info.file_size, info.compress_size) > kind.largest_bytes:
        raise bomb(name, f"{info.file_size} bytes, the limit for one file is {kind.largest_bytes}")


def _entry(name: str, parts: tuple[str, ...], info: zipfile.ZipInfo, kind: Kind) -> Entry:
    split = ALIASES.get(parts[0], parts[0])
    folders = parts[1:-1] if split in SPLITS and len(parts) > 1 else parts[:-1]
    if len(folders) > 1:
        raise EngineError(
            "dataset_invalid",
            f"{printable(name)!r} lies deeper than a split and a class: what its class is is not clear.",
            hint=kind.naming,
        )
    own = split if split in SPLITS and len(parts) > 1 else "train"
    return Entry(own, folders[0] if folders else None, info)


def _check_labels(entries: Sequence[Entry], kind: Kind) -> None:
    free = root_of([entry.info.filename for entry in entries]) == 0
    stated = {entry.info.filename.split("/")[0] in SPLIT_FOLDERS for entry in entries} if free else {True}
    if len(stated) > 1:
        raise EngineError("dataset_invalid", "Some folders are those of splits and others are not.", hint=kind.naming)
    labels = sorted({entry.label for entry in entries if entry.label is not None})
    if len(labels) > 1 and all(label.lower() in _LIKE_SPLITS for label in labels):
        shown = " and ".join(printable(repr(label)) for label in labels)
        raise EngineError(
            "dataset_invalid", f"The folders {shown} would be classes, and are called like splits.", hint=f"Splits: {', '.join(SPLITS)}."
        )
    for split in SPLITS:
        labelled = {entry.label is not None for entry in entries if entry.split == split}
        if len(labelled) > 1:
            raise EngineError(
                "dataset_invalid", f"Some {kind.many} of the split {split} lie in class folders and others do not.", hint=kind.naming
            )
