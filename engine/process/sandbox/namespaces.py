"""Namespaces of a job's own (tier 2): it sees no process, no System V object, no network and no file but its own and what it may read.

Made with no privilege where the kernel gives user namespaces to everybody. The first process of the new process namespace builds the
root, forks the job, and waits for it: when it ends, the kernel ends whatever is left in there. The job moves in when it is known what it
is and where it lives: until then the machine's files are reachable below `OLD`.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.process import linux

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_KEPT = _NODEV | _NOEXEC | _RDONLY
"""Flags that stand on a mount already may not be taken off."""
_SIGNALLED = 128
FIRST = 1
"""Process id of the first process of a namespace, in there."""
FLAGS = linux.CLONE_NEWUSER | linux.CLONE_NEWPID
"""Of the fork; the other namespaces are made inside."""


OLD = "/old"
"""The machine's root, between `make` and `enter`."""


def make(readable: Iterable[Path], devices: Iterable[Path]) -> None:
    """Make namespaces, and a root with `readable` and `devices` in it. Raises OSError.

    For the first process of a new user and process namespace.
    """
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET)
    linux.raise_loopback()
    places = _places(readable)
    device_files = [path for path in devices if path.exists() and not _below(path, "/proc")]
    linux.mount("none", "/", None, _REC | _PRIVATE)
    base = next(folder for folder in ("/tmp", "/run", "/mnt", "/var") if Path(folder).is_dir())  # noqa: S108 - only a place to mount on
    linux.mount("tmpfs", base, "tmpfs", _NOSUID | _NODEV, "mode=0755,size=4m,nr_inodes=16k")
    os.chdir(base)
    for folder in ("old", "new"):
        os.mkdir(folder)
    linux.pivot_root(base, f"{base}/old")
    os.chdir("/")
    linux.mount("/new", "/new", None, _BIND)
    for path, real in places:
        if path != real:
            link = Path(f"/new{path}")
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(real)
        else:
            _bind(real, _RDONLY | _NOSUID)
    for path in device_files:
        _bind(path.resolve(), None)
    os.makedirs("/new/proc")
    linux.mount("proc", "/new/proc", "proc", _NOSUID | _NODEV | _NOEXEC)


@contextmanager
def outside() -> Iterator[None]:
    """Between `make` and `enter`: the machine's files where they are."""
    inside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.chroot(OLD)
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(inside)
        os.chroot(".")
        os.close(inside)


def enter(own: Path) -> None:
    """Leave everything behind but what `make` put there, and `own` (to write, never to execute). Raises OSError.

    For a process of these namespaces; the others there leave with it.
    """
    _bind(own, _NOSUID | _NODEV | _NOEXEC)
    _leave_old_root()
    linux.mount(None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    os.chdir(own)


def keep(job: int) -> int:
    """Collect what ends in this namespace until the `job` does; returns the status by which `returncode` knows how."""
    os.closerange(0, 1024)  # the streams are the job's alone: they end with it
    while True:
        pid, status = os.wait()
        if pid == job:
            code = os.waitstatus_to_exitcode(status)
            return _SIGNALLED - code if code < 0 else min(code, _SIGNALLED - 1)


def returncode(status: int, *, enclosed: bool) -> int:
    """How a job ended, by the wait status of its first process: exit status, or minus the number of the signal that killed it."""
    code = os.waitstatus_to_exitcode(status)
    return _SIGNALLED - code if enclosed and code > _SIGNALLED else code


def _places(paths: Iterable[Path]) -> list[tuple[Path, Path]]:
    """What to bind: the path and what it really is, outermost first; nothing that lies in another one already."""
    pairs = sorted(
        {(path, path.resolve()) for path in paths if path.exists() and not _below(path, "/proc")}, key=lambda pair: len(pair[1].parts)
    )
    bound: list[Path] = []
    places = []
    for path, real in pairs:
        if not any(real.is_relative_to(other) for other in bound):
            bound.append(real)
            places.append((real, real))
        if path != real and not any(path.is_relative_to(other) for other in bound):
            places.append((path, real))
    return places


def _below(path: Path, folder: str) -> bool:
    return path.is_relative_to(folder)


def _bind(real: Path, flags: int | None) -> None:
    source, target = f"/old{real}", f"/new{real}"
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    linux.mount(source, target, None, _BIND | _REC)
    if flags is not None:
        linux.mount(None, target, None, _REMOUNT | _BIND | flags | (os.statvfs(target).f_flag & _KEPT))


def _leave_old_root() -> None:
    linux.mount("/old", "/old", None, _REC | _PRIVATE)
    linux.unmount("/old", _DETACH)
    before = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.chdir("/new")
    linux.pivot_root(".", ".")
    os.fchdir(before)
    linux.unmount(".", _DETACH)
    os.close(before)
    os.chdir("/")
