"""Where blobs lie. Two stores behind one Protocol; both are spoken to through `obstore`, but a local file is published by a rename."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store

from core.errors import StorageFull, Unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

PART_BYTES = 8 * 2**20


class BlobStore(Protocol):
    """Named immutable objects. Names are made by the service, never by a client."""

    staging: Path
    """Folder for files that are not published yet."""

    def publish(self, staged: Path, key: str) -> None:
        """Make the bytes of a staged file appear under `key`, all at once; the staged file is gone afterwards."""

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`. Raises `FileNotFoundError`."""

    def size(self, key: str) -> int | None:
        """Length in bytes, or None when there is no such object."""

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""

    def names(self, folder: str) -> list[str]:
        """Keys of the objects below `folder`."""

    def folders(self, folder: str) -> list[str]:
        """The folders right below `folder`."""

    def free_bytes(self) -> int | None:
        """Room that is left, where the store knows it."""

    def sign(self, key: str, seconds: int) -> str | None:
        """A URL under which a client may read the object for a while, where the store offers one."""


def open_store(url: str, staging: Path) -> BlobStore:
    """The store at `file:///folder` or `s3://bucket/prefix`; S3 stages uploads in `staging`. Raises ValueError for any other URL."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        return S3BlobStore(url, staging)
    raise ValueError(f"MODELPRESS_BLOB_URL must begin with file:/// or s3://, got {url!r}")


class _ObjectStore:
    def __init__(self, store: LocalStore | S3Store, staging: Path) -> None:
        self._store = store
        self.staging = staging
        staging.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read(self, key: str, start: int, stop: int) -> bytes:
        with _answers():
            return obstore.get_range(self._store, key, start=start, end=stop).to_bytes()

    def size(self, key: str) -> int | None:
        try:
            with _answers():
                return int(obstore.head(self._store, key)["size"])
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        with _answers(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def names(self, folder: str) -> list[str]:
        with _answers():
            return [str(item["path"]) for batch in obstore.list(self._store, folder) for item in batch]

    def folders(self, folder: str) -> list[str]:
        with _answers():
            return [str(path) for path in obstore.list_with_delimiter(self._store, folder)["common_prefixes"]]


class LocalBlobStore(_ObjectStore):
    """A folder. Staged files lie on the same disk, so that publishing is a rename, which also heals a damaged copy."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(LocalStore(str(root), automatic_cleanup=True), root / "staging")
        self._root = root

    def publish(self, staged: Path, key: str) -> None:
        """Rename into place; file and folder reach the disk before this returns."""
        target = self._root / key
        with full_disk():
            _sync(staged)
            while True:
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                try:
                    os.replace(staged, target)
                    return _sync(target.parent)
                except FileNotFoundError:
                    # Removing the folder's last file removes the folder; that may have happened just now.
                    if not staged.exists() and not target.exists():
                        raise

    def free_bytes(self) -> int | None:
        """Room on the folder's disk."""
        return shutil.disk_usage(self._root).free

    def sign(self, key: str, seconds: int) -> str | None:
        """A folder has no URLs."""
        return None


class S3BlobStore(_ObjectStore):
    """A bucket, reached with the usual `AWS_*` variables."""

    def __init__(self, url: str, staging: Path) -> None:
        retry: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
        client: ClientConfig = {"connect_timeout": "5s", "timeout": "120s"}
        if os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
            client["allow_http"] = True
        self._bucket = S3Store.from_url(url, client_options=client, retry_config=retry)
        super().__init__(self._bucket, staging)

    def publish(self, staged: Path, key: str) -> None:
        """Upload in parts unless an object of this size is there: the key is the hash of the bytes."""
        if self.size(key) != staged.stat().st_size:
            with _answers(), staged.open("rb") as file:
                obstore.put(self._store, key, file, chunk_size=PART_BYTES, max_concurrency=4)
        staged.unlink()

    def free_bytes(self) -> int | None:
        """A bucket has no end."""
        return None

    def sign(self, key: str, seconds: int) -> str | None:
        """A presigned GET."""
        return obstore.sign(self._bucket, "GET", key, timedelta(seconds=seconds))


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """The store's errors as the service's; a missing object stays FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, NotFoundError) as error:
        if "NoSuchBucket" in str(error):
            raise Unavailable(
                "the bucket of the blob store does not exist", hint="create the bucket that MODELPRESS_BLOB_URL names"
            ) from error
        raise FileNotFoundError("no such object") from error
    except BaseError as error:
        if "No space left on device" in str(error):
            raise StorageFull("the disk of the blob store is full", hint="free some space, or add a disk") from error
        raise Unavailable(f"the blob store does not answer: {type(error).__name__}", hint="try again", retry_after_seconds=5) from error


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Turns the operating system's "no space left" into `storage_full`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the disk of the blob store is full", hint="free some space, or add a disk") from error
        raise


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
