"""Zip archives of JPEG and PNG files in folders of splits and classes: `train/cat/1.jpg`, or `cat/1.jpg`; the standard library only."""

from __future__ import annotations

import zipfile
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.files import folders
from engine.files.archive import open_archive
from engine.files.image_masks import is_masks

NAMING = "Put the files into folders: train/<class>/<file>.jpg, test/<class>/<file>.jpg; or <class>/<file>.jpg for training examples alone."
PICTURES = folders.Kind((".jpg", ".jpeg", ".png"), "JPEG or PNG file", "pictures", limits.MAX_IMAGE_BYTES, NAMING)


def recognizes(head: bytes) -> bool:
    """Whether the first members of an archive, as far as these bytes reach, are folders and pictures, and one is a picture or a split."""
    names = folders.first_names(head)
    pictures = [name for name in names if PICTURES.holds(name) or name.split("/")[0] in folders.SPLIT_FOLDERS]
    return bool(pictures) and all(name.endswith("/") or PICTURES.holds(name) for name in names)


def check(stream: IO[bytes], size: int) -> None:
    """Check names and sizes of all members; nothing is inflated.

    Raises `dataset_invalid`, `archive_limit_exceeded`, `decompression_limit_exceeded`, and `archive.DAMAGED`.
    """
    with open_archive(stream) as archive:
        entries_of(archive)


def entries_of(archive: zipfile.ZipFile) -> list[folders.Entry]:
    """All pictures by split and name; the limits on archives are checked here."""
    entries = folders.entries_of(archive, PICTURES)
    if is_masks([entry.info.filename for entry in entries]):
        raise EngineError(
            "dataset_invalid",
            "The folders of images and masks are no classes: this is an archive for segmentation.",
            hint="Upload it with format=image_masks.",
        )
    return entries


FORMAT = FileFormat("image_folder", "dataset", (".zip",), recognizes, check)
