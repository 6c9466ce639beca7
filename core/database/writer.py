"""Who holds SQLite's write lock. PostgreSQL ends an idle transaction by itself; with SQLite somebody has to look."""

import fcntl
import os
import struct
from pathlib import Path

_WRITE_LOCK_BYTE = 120
"""The byte of the `-shm` file that a writer locks: "WAL-Index Format", section "WAL Locks", of SQLite's documentation."""
_FLOCK = "hhqqi4x"


def writer(database: Path) -> int | None:
    """The process that is in a writing transaction of a SQLite database in WAL mode; None where there is none.

    Only for a process without connections of its own to the database: closing the file gives up the locks of its process.
    """
    try:
        file = os.open(f"{database}-shm", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _WRITE_LOCK_BYTE, 1, 0)
        kind, _, _, _, holder = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else int(holder)
