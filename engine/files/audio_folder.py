"""Zip archives of WAV files in folders of splits and classes: `train/yes/1.wav`, or `yes/1.wav`; the standard library only."""

from __future__ import annotations

import zipfile
from typing import IO

from engine.contract import limits
from engine.contract.file_format import FileFormat
from engine.files import folders
from engine.files.archive import open_archive

NAMING = "Put the files into folders: train/<class>/<file>.wav, test/<class>/<file>.wav; or <class>/<file>.wav for training examples alone."
SOUNDS = folders.Kind((".wav",), "WAV file", "sounds", limits.MAX_SOUND_BYTES, NAMING)


def recognizes(head: bytes) -> bool:
    """Whether the first members of an archive are folders and WAV files, and one is such a file."""
    names = folders.first_names(head)
    return any(map(SOUNDS.holds, names)) and all(name.endswith("/") or SOUNDS.holds(name) for name in names)


def check(stream: IO[bytes], size: int) -> None:
    """Check names and sizes of all members; nothing is inflated.

    Raises `dataset_invalid`, `archive_limit_exceeded`, `decompression_limit_exceeded`, and `archive.DAMAGED`.
    """
    with open_archive(stream) as archive:
        entries_of(archive)


def entries_of(archive: zipfile.ZipFile) -> list[folders.Entry]:
    """All sounds by split and name; the limits on archives are checked here."""
    return folders.entries_of(archive, SOUNDS)


FORMAT = FileFormat("audio_folder", "dataset", (".wav.zip",), recognizes, check)
