"""Zip archives of strangers: opened only when their directory is of a size that may be read."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.files.effort import spend

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    UnicodeDecodeError,
    ValueError,
)
"""What zipfile raises on archives that are damaged, encrypted or of a kind that it does not know."""
_MAX_DIRECTORY_BYTES = 32 * 2**20
_ENTRY_BYTES, _ENTRY_EFFORT = 46, 20
"""Least bytes of an entry of the directory, and what reading one costs."""
_END_BYTES = 65_557
"""The end of the central directory with the longest comment."""


def open_archive(stream: IO[bytes]) -> zipfile.ZipFile:
    """The archive. Raises `archive_limit_exceeded`, and what stands in `DAMAGED`."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _END_BYTES))
    tail = stream.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0:
        raise zipfile.BadZipFile("no end of central directory")
    if end + 22 + int.from_bytes(tail[end + 20 : end + 22], "little") != len(tail):
        raise zipfile.BadZipFile("the end is that of an archive inside of this one")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail.rfind(b"PK\x06\x06", 0, end)
    if directory == 0xFFFFFFFF and wide >= 0:
        directory = int.from_bytes(tail[wide + 40 : wide + 48], "little")
    if directory > _MAX_DIRECTORY_BYTES:
        raise EngineError("archive_limit_exceeded", f"The archive's directory has {directory} bytes, the limit is {_MAX_DIRECTORY_BYTES}.")
    spend(directory // _ENTRY_BYTES * _ENTRY_EFFORT)
    stream.seek(0)
    archive = zipfile.ZipFile(stream)
    if len(archive.infolist()) > limits.MAX_ARCHIVE_MEMBERS:
        raise EngineError(
            "archive_limit_exceeded", f"The archive has {len(archive.infolist())} members, the limit is {limits.MAX_ARCHIVE_MEMBERS}."
        )
    if any(info.header_offset < 0 for info in archive.infolist()):
        raise zipfile.BadZipFile("a member begins before the file")  # which zipfile would seek to
    return archive


def first_member(head: bytes) -> str | None:
    """The name of the first member of a zip archive that begins with these bytes; None where it is no archive."""
    if not head.startswith(b"PK\x03\x04"):
        return None
    return head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", "replace")


def printable(text: str) -> str:
    """A name from the archive as it may stand in a message."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:80]
