"""Digests of stored bytes.

A blob is known by the SHA-256 of all its bytes. Beside it stands a CRC-32 of each MiB, so that any range can be checked for damage
while it is read, without reading the rest: it finds every flipped bit and every burst of up to 32 bits, and costs a fraction of a hash.
"""

import hashlib
import zlib
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.tables import StoredBlob

CHUNK_BYTES = 2**20
CRC_BYTES = 4


@dataclass(frozen=True)
class Blob:
    """Bytes in the store: their identity, length in bytes, and the checksums of their chunks."""

    sha256: str
    size_bytes: int
    chunk_crcs: bytes

    @classmethod
    def load(cls, session: Session, sha256: str | None) -> "Blob":
        """The registered blob of this hash; it is there as long as a row refers to it."""
        statement = select(StoredBlob.sha256, StoredBlob.size_bytes, StoredBlob.chunk_crcs).where(StoredBlob.sha256 == sha256)
        return cls(*session.execute(statement).one())

    def holds(self, chunk: bytes, index: int) -> bool:
        """Whether these are the bytes of chunk `index`."""
        length = min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)
        crc = self.chunk_crcs[index * CRC_BYTES : (index + 1) * CRC_BYTES]
        return len(chunk) == length and zlib.crc32(chunk).to_bytes(CRC_BYTES, "big") == crc


class Digester:
    """Hashes a stream, whole and by chunks. The two may be fed by different threads, each in the order of the bytes."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._crcs = bytearray()
        self._crc = 0
        self._room = CHUNK_BYTES
        self.size_bytes = 0

    def update_whole(self, data: bytes | memoryview) -> None:
        """Feed the hash of the whole; the same data goes to `update_chunks`."""
        self._whole.update(data)

    def update_chunks(self, data: bytes | memoryview) -> None:
        """Feed the checksums of the chunks."""
        self.size_bytes += len(data)
        rest = memoryview(data)
        while rest:
            piece, rest = rest[: self._room], rest[self._room :]
            self._crc = zlib.crc32(piece, self._crc)
            self._room -= len(piece)
            if self._room == 0:
                self._close_chunk()

    def whole_sha256(self) -> str:
        """The hash of all bytes so far, in hexadecimal."""
        return self._whole.hexdigest()

    def finish(self) -> Blob:
        """The digests of everything that was fed."""
        if self._room < CHUNK_BYTES:
            self._close_chunk()
        return Blob(self.whole_sha256(), self.size_bytes, bytes(self._crcs))

    def _close_chunk(self) -> None:
        self._crcs += self._crc.to_bytes(CRC_BYTES, "big")
        self._crc, self._room = 0, CHUNK_BYTES
