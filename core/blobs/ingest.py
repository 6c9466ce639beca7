"""The way in and the way out: staged, hashed, registered, published; read back with every chunk verified."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import ColumnElement, and_, delete, exists, select, update
from sqlalchemy.orm import Session

from core import failpoints
from core.blobs.digest import CHUNK_BYTES, Blob, Digester, chunk_digest
from core.blobs.staged import Staged, free_bytes
from core.blobs.store import full_disk, open_store
from core.database.clock import db_now
from core.database.db import Database
from core.database.dialect import insert
from core.database.tables import Artifact, Dataset, Job, Model, StoredBlob, Upload
from core.errors import ChecksumMismatch, StorageFull, UploadTooLarge
from core.settings import Settings

BUFFER_BYTES = 4 * 2**20
BUFFERS_BYTES, LEAST_BUFFER_BYTES = 16 * 2**20, 256 * 1024
"""What all uploads of a process gather before they write, together; and each at least."""
_SMALL_BYTES = 16 * 1024


class Blobs:
    """The blob store and its register in the database.

    A blob is registered before it is published, and removed inside the transaction that takes it off the register. So an upload of
    bytes that are being removed waits, and then publishes them anew; a crash in between leaves a row without bytes at worst, which
    nothing refers to.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self.database = database
        self.store = open_store(settings.resolved_blob_url, settings.staging_dir)
        self._receiving = 0
        """Uploads that are being received; counted on the event loop."""

    def stage(self, *, limit_bytes: int | None = None) -> Staged:
        """An empty file on its way in. Raises `storage_full`."""
        return Staged(self.store.staging, limit_bytes=limit_bytes, reserve_bytes=self._settings.min_free_bytes)

    async def receive(self, stream: AsyncIterator[bytes], *, limit_bytes: int, size_bytes: int | None = None) -> Staged:
        """Stage a request's body; receiving, hashing and writing run side by side, in constant memory.

        `size_bytes` is the announced length, so that what cannot fit is refused before it is sent.
        Raises `upload_too_large` and `storage_full`; nothing is left behind then.
        """
        if size_bytes is not None and size_bytes > limit_bytes:
            raise UploadTooLarge(f"{size_bytes} bytes are more than {limit_bytes}", hint="the operator sets MODELPRESS_MAX_UPLOAD_BYTES")
        if size_bytes is not None:
            self.check_room(size_bytes)
        staged = await asyncio.to_thread(self.stage, limit_bytes=limit_bytes)
        writing: asyncio.Task[None] | None = None
        self._receiving += 1
        try:
            async for parts in _buffered(stream, self._buffer_bytes):
                if writing is not None:
                    await writing
                writing = asyncio.create_task(asyncio.to_thread(staged.write, *parts))
            if writing is not None:
                await writing
        except BaseException:
            if writing is not None:
                await asyncio.wait([writing])
            staged.discard()
            raise
        finally:
            self._receiving -= 1
        return staged

    def _buffer_bytes(self) -> int:
        return max(LEAST_BUFFER_BYTES, min(BUFFER_BYTES, BUFFERS_BYTES // max(1, self._receiving)))

    def check_room(self, size_bytes: int) -> None:
        """Raises `storage_full` when the disks would be below their low watermark after `size_bytes` more."""
        rooms = [free_bytes(self.store.staging), self.store.free_bytes()]
        if any(room is not None and room - size_bytes < self._settings.min_free_bytes for room in rooms):
            raise StorageFull(f"there is no room for {size_bytes} bytes", hint="free some space, or add a disk")

    def keep(self, staged: Staged, expected_sha256: str | None = None) -> Blob:
        """Publish a staged file. Raises `digest_mismatch`, `storage_full` and `service_unavailable`."""
        blob = staged.finish(expected_sha256)
        with self.database.unit_of_work() as session:
            register(session, blob)
        failpoints.hit("blob.registered")
        self.store.publish(staged.path, key_of(blob.sha256))
        failpoints.hit("blob.published")
        return blob

    def put_file(self, file: BinaryIO, expected_sha256: str | None = None) -> Blob:
        """Publish a copy of an open file, hashed while it is copied. Raises as `keep`."""
        with self.stage() as staged:
            while data := file.read(BUFFER_BYTES):
                staged.write(data)
            return self.keep(staged, expected_sha256)

    def put_bytes(self, content: bytes) -> Blob:
        """Publish bytes that are in memory. Raises as `keep`."""
        with self.stage() as staged:
            staged.write(content)
            return self.keep(staged)

    def read(self, blob: Blob, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes `start` to `stop`, in pieces of at most one MiB, each verified before it is handed out.

        Raises `checksum_mismatch` when stored bytes were damaged or are gone.
        """
        stop = blob.size_bytes if stop is None else min(stop, blob.size_bytes)
        for index in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES) if stop > start else 0):
            first = index * CHUNK_BYTES
            chunk = self._chunk(blob, index)
            yield chunk[max(0, start - first) : stop - first]

    def read_all(self, blob: Blob) -> bytes:
        """All bytes at once; for small blobs such as reports."""
        return b"".join(self.read(blob))

    def fetch(self, blob: Blob, path: Path) -> None:
        """Write a verified copy to `path`, which must not exist. Raises `checksum_mismatch`; nothing is left behind then."""
        digester = Digester()
        with path.open("xb") as file:
            try:
                for chunk in self.read(blob):
                    digester.update_whole(chunk)
                    with full_disk():
                        file.write(chunk)
                if digester.whole_sha256() != blob.sha256:
                    raise _damaged(blob)
            except BaseException:
                path.unlink()
                raise

    def signed_url(self, blob: Blob, seconds: int = 900) -> str | None:
        """A URL at the store itself, or None where the service serves the bytes."""
        return self.store.sign(key_of(blob.sha256), seconds)

    def collect(self, *, most: int = 100) -> int:
        """Remove blobs that nothing has referred to for `blob_grace_seconds`; returns how many."""
        with self.database.reader() as session:
            candidates = list(session.scalars(select(StoredBlob.sha256).where(_idle(self._settings.blob_grace_seconds)).limit(most)))
        removed = 0
        for sha256 in candidates:
            with self.database.unit_of_work() as session:
                statement = delete(StoredBlob).where(StoredBlob.sha256 == sha256, _idle(self._settings.blob_grace_seconds))
                if session.scalar(statement.returning(StoredBlob.sha256)) is not None:
                    self.store.delete(key_of(sha256))
                    removed += 1
        return removed

    def touch(self, blob: Blob) -> bool:
        """Whether the blob is still there; if so, it is kept for another `blob_grace_seconds`."""
        with self.database.unit_of_work() as session:
            statement = update(StoredBlob).where(StoredBlob.sha256 == blob.sha256).values(touched_at=db_now())
            return session.scalar(statement.returning(StoredBlob.sha256)) is not None

    def sweep_staging(self) -> int:
        """Remove staged files that a dead process left behind; returns how many.

        A file's time of modification is anyone's to set who may name it, and clocks jump: what counts is that nobody holds its lock.
        """
        removed = 0
        for path in self.store.staging.iterdir():
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                removed += self._remove_if_abandoned(path)
        return removed

    def _remove_if_abandoned(self, path: Path) -> bool:
        """Raises BlockingIOError where its process is alive. The time of the last change of its state (ctime) is the kernel's alone."""
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(file).st_ctime < self._settings.staging_expiry_seconds:
                return False
            path.unlink()
            return True
        finally:
            os.close(file)

    def _chunk(self, blob: Blob, index: int) -> bytes:
        first = index * CHUNK_BYTES
        try:
            chunk = self.store.read(key_of(blob.sha256), first, min(first + CHUNK_BYTES, blob.size_bytes))
        except FileNotFoundError as error:
            raise _damaged(blob) from error
        if chunk_digest(chunk) != blob.chunk_digest(index):
            raise _damaged(blob)
        return chunk


def key_of(sha256: str) -> str:
    """The name of a blob in the store."""
    return f"sha256/{sha256[:2]}/{sha256}"


def register(session: Session, blob: Blob) -> None:
    """Note that the blob is about to be used; waits for a removal of the same bytes that is under way."""
    statement = insert(session, StoredBlob).values(sha256=blob.sha256, size_bytes=blob.size_bytes, chunk_digests=blob.chunk_digests)
    session.execute(statement.on_conflict_do_update(index_elements=[StoredBlob.sha256], set_={"touched_at": db_now()}))


def _idle(grace_seconds: float) -> ColumnElement[bool]:
    uses = [Model.blob_sha256, Dataset.blob_sha256, Artifact.blob_sha256, Job.checkpoint_sha256, Upload.blob_sha256]
    used = [exists().where(column == StoredBlob.sha256) for column in uses]
    return and_(StoredBlob.touched_at < db_now(-grace_seconds), *(~use for use in used))


def _damaged(blob: Blob) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"the stored bytes of sha256:{blob.sha256} are damaged or gone, so they are not served",
        hint="upload the file again, or run the job again",
    )


async def _buffered(stream: AsyncIterator[bytes], buffer_bytes: Callable[[], int]) -> AsyncIterator[list[bytes]]:
    """The same bytes in lists of about `buffer_bytes()`; small pieces are joined, large ones are left as they came."""
    parts: list[bytes] = []
    size = 0
    async for part in stream:
        if parts and len(parts[-1]) < _SMALL_BYTES:
            parts[-1] += part
        else:
            parts.append(part)
        size += len(part)
        if size >= buffer_bytes():
            yield parts
            parts, size = [], 0
    if parts:
        yield parts
