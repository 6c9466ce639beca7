"""Where the jobs of one worker process live on disk, and that nothing stays behind.

Each worker process has a folder `work/<random>` and holds a lock in it. A folder whose lock can be had belongs to a process
that is gone, and whoever starts next removes it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = "lock"


class Workplace:
    """The folder of this process. Make it once; removes the folders of dead processes first."""

    def __init__(self, work_dir: Path) -> None:
        work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_abandoned(work_dir)
        self._folder = Path(tempfile.mkdtemp(prefix="worker-", dir=work_dir))
        self._lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def path(self) -> Path:
        """The folder of this process."""
        return self._folder

    @contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """A private directory, gone at the end with all that is in it."""
        directory = self._folder / name
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            remove(directory)

    def close(self) -> None:
        """Remove the folder of this process."""
        remove(self._folder)
        os.close(self._lock)


def remove_abandoned(work_dir: Path) -> None:
    """Remove the folders of worker processes that are gone."""
    for folder in work_dir.iterdir():
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # being made just now, or no folder of a worker
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(folder)
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
