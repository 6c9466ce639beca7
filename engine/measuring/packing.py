"""How large a file is after gzip: what deflate at its default level makes of it, reckoned from samples where nothing repeats."""

import zlib
from pathlib import Path

LEVEL = 6
"""The default of gzip."""
SMALL_FILE_BYTES = 8 << 20
"""Files up to here are compressed as gzip does it, byte for byte."""
BLOCK_BYTES = 1 << 20
_WINDOW_BYTES = 1 << 15
_PIECES, _PIECE_BYTES = 4, 1 << 15
_ALIKE = 0.003
"""Weights without repetitions come out so much smaller, at most, where no matches are searched for."""
_EVEN = 0.02
"""Pieces of one tensor differ by less."""
_FRAME_BYTES = 18
"""Header, checksum and size of a gzip stream."""


def gzip_bytes(path: Path) -> int:
    """Size of a file after gzip at its default level, to within half a percent and a few bytes a block; exact up to 8 MiB.

    Weights hardly repeat themselves: deflate's search for matches takes most of the time and finds nothing, and the codes of bytes alone come to the
    same in all of a tensor. So a larger file's block of 1 MiB is compressed only where the search changes the size of a sample of it, or its pieces
    differ.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= SMALL_FILE_BYTES:
            packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
            return len(packer.compress(file.read())) + len(packer.flush())
        total, before = _FRAME_BYTES, b""
        while block := file.read(BLOCK_BYTES):
            total += block_bytes(block, before)
            before = block[-_WINDOW_BYTES:]
        return total


def block_bytes(block: bytes, before: bytes = b"") -> int:
    """Size of one block of a large file, which follows the bytes `before`."""
    pieces = [block[start : start + _PIECE_BYTES] for start in range(0, len(block), max(1, len(block) // _PIECES))]
    found = sum(len(_all(piece, searching=True)) for piece in pieces)
    plain = [len(_all(piece, searching=False)) for piece in pieces]
    if abs(found - sum(plain)) > _ALIKE * found:
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, zdict=before)
        return len(packer.compress(block)) + len(packer.flush(zlib.Z_SYNC_FLUSH))
    shares = [size / len(piece) for size, piece in zip(plain, pieces, strict=True)]
    if max(shares) - min(shares) > _EVEN * max(shares):
        return len(_all(block, searching=False))
    return round(sum(plain) * len(block) / sum(map(len, pieces)))


def _all(data: bytes, *, searching: bool) -> bytes:
    strategy = zlib.Z_DEFAULT_STRATEGY if searching else zlib.Z_HUFFMAN_ONLY
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, strategy=strategy)
    return packer.compress(data) + packer.flush()
