"""One file on its way in: written, hashed and bounded, and removed unless it was kept."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from core.blobs import writeback
from core.blobs.digest import CHUNK_BYTES, Blob, Digester
from core.blobs.store import full_disk
from core.errors import DigestMismatch, StorageFull, UploadTooLarge

HEAD_BYTES = 4096
_hashers = ThreadPoolExecutor(2, thread_name_prefix="sha256")


class Staged:
    """A file on its way in. Use it as a context manager: what was not kept is removed.

    It is locked for as long as its process has it open, so that nobody takes it for abandoned, whatever its times are.
    """

    def __init__(self, folder: Path, *, limit_bytes: int | None, reserve_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._digester = Digester()
        self.head = b""
        """The first bytes, for magic numbers."""
        with full_disk():
            fd, name = tempfile.mkstemp(dir=folder, prefix="in-")
        self.path = Path(name)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._size = self._started = 0

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.discard()

    def write(self, *parts: bytes | memoryview) -> None:
        """Append; hashing runs beside writing. Raises `upload_too_large` and `storage_full`."""
        added = sum(map(len, parts))
        if self._limit_bytes is not None and self._size + added > self._limit_bytes:
            raise UploadTooLarge(f"more than {self._limit_bytes} bytes", hint="the operator sets MODELPRESS_MAX_UPLOAD_BYTES")
        for part in parts:
            if len(self.head) < HEAD_BYTES:
                self.head += bytes(part[: HEAD_BYTES - len(self.head)])
        if added < CHUNK_BYTES:
            _feed(self._digester.update_whole, parts)
            _feed(self._digester.update_chunks, parts)
            self._append(parts, added)
            return
        hashes = [_hashers.submit(_feed, update, parts) for update in (self._digester.update_whole, self._digester.update_chunks)]
        try:
            self._append(parts, added)
        finally:
            for future in hashes:
                future.result()

    def finish(self, expected_sha256: str | None = None) -> Blob:
        """The file is whole. Raises `digest_mismatch` when the bytes are not the expected ones."""
        blob = self._digester.finish()
        if expected_sha256 is not None and expected_sha256 != blob.sha256:
            raise DigestMismatch(f"the bytes that arrived have the SHA-256 {blob.sha256}, not {expected_sha256}", hint="send them again")
        return blob

    def discard(self) -> None:
        """Remove the file unless it was kept."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _append(self, parts: Sequence[bytes | memoryview], added: int) -> None:
        with full_disk():
            if free_bytes(self.path.parent) - added < self._reserve_bytes:
                raise StorageFull("the disk for uploads is almost full", hint="free some space, or add a disk")
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[self._file.write(view) :]
        self._size += added
        if self._size - self._started >= writeback.STRIDE_BYTES:
            writeback.start(self._file.fileno(), self._started, self._size - self._started)
            self._started = self._size


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder, for an unprivileged process."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _feed(update: Callable[[bytes | memoryview], None], parts: Sequence[bytes | memoryview]) -> None:
    for part in parts:
        update(part)
