"""Where the jobs of one worker process live on disk, and that nothing stays behind.

Each worker process has a folder `work/worker-<random>` and holds a lock on the file of that name with `.lock`. A folder whose lock
can be had belongs to a process that is gone, and whoever starts next removes it.
"""

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.blobs.staged import free_bytes

LEAST_FREE_BYTES = 4 << 20
"""With less room than this no job is begun."""


class Workplace:
    """The folder of this process. Make it once; removes the folders of dead processes first. Thread-safe."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._mending = threading.Lock()
        self._make()

    def _make(self) -> None:
        self._work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_abandoned(self._work_dir)
        while True:
            self._lock, name = tempfile.mkstemp(prefix="worker-", suffix=".lock", dir=self._work_dir)
            self._lock_path = Path(name)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self._lock_path.exists():
                break
            os.close(self._lock)  # another process took it for abandoned before it was locked
        self._folder = self._lock_path.with_suffix("")
        self._folder.mkdir(mode=0o700)

    @property
    def path(self) -> Path:
        """The folder of this process."""
        return self._folder

    def mend(self) -> None:
        """Make another folder where somebody removed this one, or the file that names its owner. Raises OSError where none can be made."""
        with self._mending:
            if self._folder.is_dir() and os.fstat(self._lock).st_nlink:
                return
            lost = self._lock
            self._make()
            os.close(lost)

    def trouble(self) -> str | None:
        """Why no job can live here, in a sentence without paths; None where all is well."""
        try:
            self.mend()
            if free_bytes(self._folder) < LEAST_FREE_BYTES:
                return "the disk of the work folder is full"
        except OSError as error:
            return f"there is no work folder: {error.strerror or type(error).__name__}"
        return None

    @contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """A private directory, gone at the end with all that is in it. Raises OSError where none can be made."""
        self.mend()
        directory = self._folder / name
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            remove(directory)

    def close(self) -> None:
        """Remove the folder of this process."""
        remove(self._folder)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)


def remove_abandoned(work_dir: Path) -> None:
    """Remove the folders of worker processes that are gone."""
    for lock_path in work_dir.glob("worker-*.lock"):
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # its process ended just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(lock_path.with_suffix(""))
            lock_path.unlink(missing_ok=True)
        except BlockingIOError:  # its process lives
            pass
        finally:
            os.close(lock)


def remove(directory: Path) -> None:
    """Remove a directory of a job, whatever modes its files have; a file that a dying process still writes is tried again."""
    for last_try in (False, False, True):
        shutil.rmtree(directory, ignore_errors=not last_try, onerror=_make_writable if last_try else None)
        if not directory.exists():
            return


def _make_writable(function: object, path: str, error: object) -> None:
    """What failed to be removed is made removable; a mode that the job took away must not keep its files here."""
    os.chmod(os.path.dirname(path), 0o700)
    os.chmod(path, 0o700)
    (os.rmdir if os.path.isdir(path) else os.unlink)(path)
