"""Zip archives of pictures and masks: `train/images/1.jpg` beside `train/masks/1.png`; the standard library only."""

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
from engine.files import folders
from engine.files.archive import open_archive, printable

NAMING = "Put pictures and masks of the same names into folders: train/images/<name>.jpg and train/masks/<name>.png, and so for test."
PICTURES = folders.Kind((".jpg", ".jpeg", ".png"), "JPEG or PNG file", "pictures", limits.MAX_IMAGE_BYTES, NAMING)
_ROLES = {"images": "images", "masks": "masks", "annotations": "masks"}
"""Singular names are left to classes: pictures with and without a mask are a customary task."""
_YEAR = re.compile(r"^(train|val)20\d\d$")
_MASK_SUFFIX = re.compile(r"[_-]mask$")


@dataclass(frozen=True)
class Pair:
    """One picture with its mask."""

    split: str
    picture: zipfile.ZipInfo
    mask: zipfile.ZipInfo | None
    """None where the split has no masks."""


def has_role(name: str) -> bool:
    """Whether a member lies in a folder of images or masks, directly in the archive or in that of a split."""
    parts = PurePosixPath(name).parts
    folder = parts if name.endswith("/") else parts[:-1]
    return any(part in _ROLES for part in folder[:3]) and all(part in _ROLES or _split_of(part) for part in folder[1:])


def is_masks(names: Sequence[str]) -> bool:
    """Whether every file lies in a folder of images or masks, and both are there."""
    roles = {_ROLES[part] for name in names for part in PurePosixPath(name).parts[:-1] if part in _ROLES}
    return roles == {"images", "masks"} and all(map(has_role, names))


def recognizes(head: bytes) -> bool:
    """Whether the first members of an archive are pictures in folders of images or masks."""
    names = folders.first_names(head)
    return any(map(has_role, names)) and all(name.endswith("/") or PICTURES.holds(name) for name in names)


def check(stream: IO[bytes], size: int) -> None:
    """Check names and sizes of all members, and that every picture has its mask; nothing is inflated.

    Raises `dataset_invalid`, `archive_limit_exceeded`, `decompression_limit_exceeded`, and `archive.DAMAGED`.
    """
    with open_archive(stream) as archive:
        pairs_of(archive)


def pairs_of(archive: zipfile.ZipFile) -> list[Pair]:
    """All pictures with their masks, by split and name."""
    sides: dict[str, dict[tuple[str, str], zipfile.ZipInfo]] = {"images": {}, "masks": {}}
    for name, info in folders.files_of(archive, PICTURES).items():
        split, role, stem = _placed(name)
        if role == "masks" and not name.lower().endswith(".png"):
            raise EngineError(
                "dataset_invalid", f"The mask {printable(name)!r} is no PNG file: JPEG changes class numbers.", hint="Save masks as PNG."
            )
        if (split, stem) in sides[role]:
            raise EngineError("dataset_invalid", f"The archive holds {printable(name)!r} twice, with another ending.", hint=NAMING)
        sides[role][split, stem] = info
    masked = {split for split, _ in sides["masks"]}
    for key in sides["masks"].keys() - sides["images"].keys():
        raise EngineError("dataset_invalid", f"The mask {printable(key[1])!r} of {key[0]} has no picture of its name.", hint=NAMING)
    for split, stem in sorted(sides["images"]):
        if split in masked and (split, stem) not in sides["masks"]:
            raise EngineError("dataset_invalid", f"The picture {printable(stem)!r} of {split} has no mask of its name.", hint=NAMING)
    return [Pair(key[0], info, sides["masks"].get(key)) for key, info in sorted(sides["images"].items())]


def _placed(name: str) -> tuple[str, str, str]:
    """Split, role and name without ending of a member."""
    parts = list(PurePosixPath(name).parts)
    folder, file = parts[:-1], parts[-1]
    if len(folder) > 1 and folder[0] not in _ROLES and _split_of(folder[0]) is None:
        folder = folder[1:]  # one folder around everything
    roles = [_ROLES[part] for part in folder if part in _ROLES]
    splits = [split for part in folder if part not in _ROLES and (split := _split_of(part)) is not None]
    if len(roles) != 1 or len(roles) + len(splits) != len(folder):
        raise EngineError("dataset_invalid", f"{printable(name)!r} lies in no folder of images or masks of a split.", hint=NAMING)
    stem = PurePosixPath(file).stem
    return splits[0] if splits else "train", roles[0], _MASK_SUFFIX.sub("", stem) if roles[0] == "masks" else stem


def _split_of(folder: str) -> str | None:
    year = _YEAR.match(folder)
    plain = year[1] if year else folder
    split = folders.ALIASES.get(plain, plain)
    return split if split in SPLITS else None


FORMAT = FileFormat("image_masks", "dataset", (".masks.zip",), recognizes, check, special=True)
