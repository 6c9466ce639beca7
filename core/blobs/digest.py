"""Digests of stored bytes.

A blob is known by the SHA-256 of all its bytes. Beside it stands one digest for each MiB (SHA-256 cut to 16 bytes), so that any range
can be verified while it is read, without reading the rest.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database.tables import StoredBlob

CHUNK_BYTES = 2**20
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Blob:
    """Bytes in the store: their identity, length in bytes, and the digests of their chunks."""

    sha256: str
    size_bytes: int
    chunk_digests: bytes

    @classmethod
    def load(cls, session: Session, sha256: str | None) -> "Blob":
        """The registered blob of this hash; it is there as long as a row refers to it."""
        statement = select(StoredBlob.sha256, StoredBlob.size_bytes, StoredBlob.chunk_digests).where(StoredBlob.sha256 == sha256)
        return cls(*session.execute(statement).one())

    def chunk_digest(self, index: int) -> bytes:
        """What the bytes of chunk `index` must hash to."""
        return self.chunk_digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]


def chunk_digest(chunk: bytes | memoryview) -> bytes:
    """The digest of one chunk."""
    return hashlib.sha256(chunk).digest()[:DIGEST_BYTES]


class Digester:
    """Hashes a stream: the whole and its chunks. Not for several threads at a time."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._room = CHUNK_BYTES
        self._digests = bytearray()
        self.size_bytes = 0

    def update_whole(self, data: bytes | memoryview) -> None:
        """Feed the whole's hash; to be paired with `update_chunks` of the same data, which may run in another thread."""
        self._whole.update(data)

    def update_chunks(self, data: bytes | memoryview) -> None:
        """Feed the chunks' hashes."""
        self.size_bytes += len(data)
        for piece in _pieces(memoryview(data), self._room):
            self._chunk.update(piece)
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
        return Blob(self.whole_sha256(), self.size_bytes, bytes(self._digests))

    def _close_chunk(self) -> None:
        self._digests += self._chunk.digest()[:DIGEST_BYTES]
        self._chunk, self._room = hashlib.sha256(), CHUNK_BYTES


def _pieces(data: memoryview, first: int) -> Iterator[memoryview]:
    """Cut `data` at the chunk borders; the first border is `first` bytes ahead."""
    start, stop = 0, first
    while start < len(data):
        yield data[start:stop]
        start, stop = stop, stop + CHUNK_BYTES
