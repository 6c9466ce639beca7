"""Did SQLite's write-ahead log lose what was committed to it? SQLite itself ends the log at the first frame that is not whole, and says nothing.

A process that is killed leaves three files: the database, its log (`-wal`) and the log's index (`-shm`), which says how many frames had been
committed. A log that holds fewer of them than the index counts was cut short or damaged by something other than a crash of ours. After
a power failure the index may be older than the log, or gone: then nothing can be said, and nothing is said. The formats are those of
https://www.sqlite.org/walformat.html.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER_BYTES = 24
_LITTLE_ENDIAN_CHECKSUMS, _BIG_ENDIAN_CHECKSUMS = 0x377F0682, 0x377F0683
_INDEX_HEADER = struct.Struct("=3I2BH2I2I8s2I")
"""Version, unused, change counter; initialized, checksum order, page size; last frame, pages; checksums of that frame; salts; own checksums."""
_INDEX_VERSION = 3007000
_BACKFILL_OFFSET = 2 * _INDEX_HEADER.size
_MOST_CHECKED_BYTES = 64 * 2**20
"""Of a longer log only the length is compared."""


@dataclass(frozen=True)
class _Index:
    """What the log's index says of it."""

    frames: int
    copied: int
    """Frames that stand in the database already."""
    salts: bytes


def lost_frames(database: Path) -> int:
    """How many committed pages of the log are gone; 0 where none are, or where nothing can be said."""
    index = _read_index(database.with_name(f"{database.name}-shm"))
    if index is None or index.frames <= index.copied:
        return 0
    log = database.with_name(f"{database.name}-wal")
    header = b""
    if log.exists():
        with log.open("rb") as file:
            header = file.read(_WAL_HEADER.size)
    if len(header) == _WAL_HEADER.size and header[16:24] != index.salts:
        return 0  # the log was begun anew after the index was written down
    whole = _whole_frames(log, header, index.frames) if len(header) == _WAL_HEADER.size else 0
    return max(0, index.frames - max(whole, index.copied))


def _read_index(path: Path) -> _Index | None:
    if not path.exists():
        return None
    content = path.read_bytes()[: _BACKFILL_OFFSET + 4]
    if len(content) < _BACKFILL_OFFSET + 4:
        return None
    first, second = content[: _INDEX_HEADER.size], content[_INDEX_HEADER.size : _BACKFILL_OFFSET]
    version, _, _, initialized, _, _, frames, _, _, _, salts, _, _ = _INDEX_HEADER.unpack(first)
    if first != second or version != _INDEX_VERSION or not initialized:
        return None
    (copied,) = struct.unpack_from("=I", content, _BACKFILL_OFFSET)
    return _Index(frames, copied, salts)


def _whole_frames(log: Path, header: bytes, expected: int) -> int:
    """Frames from the log's start, up to `expected`, that are there and whose chain of checksums holds."""
    words: tuple[int, ...] = _WAL_HEADER.unpack(header)
    magic, page_bytes = words[0], words[2]
    if magic not in (_LITTLE_ENDIAN_CHECKSUMS, _BIG_ENDIAN_CHECKSUMS):
        return 0
    frame_bytes = _FRAME_HEADER_BYTES + page_bytes
    present = min(expected, (log.stat().st_size - _WAL_HEADER.size) // frame_bytes)
    if present * frame_bytes > _MOST_CHECKED_BYTES:
        return present
    order = "<" if magic == _LITTLE_ENDIAN_CHECKSUMS else ">"
    sums = _checksum(header[:24], order, (0, 0))
    with log.open("rb") as file:
        file.seek(_WAL_HEADER.size)
        for number in range(present):
            frame = file.read(frame_bytes)
            sums = _checksum(frame[:8] + frame[_FRAME_HEADER_BYTES:], order, sums)
            if frame[8:16] != header[16:24] or struct.unpack(">2I", frame[16:24]) != sums:
                return number
    return present


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's running checksum over pairs of 32-bit words."""
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
