"""A control group for each job, where the system lets this process make one: the kernel itself then bounds all memory of the job.

Version 2 and the memory controller of version 1. Groups are made below the one that this process is in, which must be its to divide
(a systemd unit with `Delegate=yes`, a container with a writable hierarchy, or root). Version 2 wants no process in a group that is
divided, so the service's own move into a group `service` beside the jobs'; where others are there too, nothing is done.
"""

import functools
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.process.linux import stat_of

_ROOT = Path("/")
_SERVICE = "service"
_PREFIX = "modelpress-"
_REMOVE_SECONDS = 2.0


@dataclass(frozen=True)
class Base:
    """The group below which those of jobs are made."""

    folder: Path
    version: Literal[1, 2]

    def make(self) -> "Group | None":
        """A group without bounds; None where the kernel refuses it."""
        group = Group(self.folder / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}", self.version)
        try:
            group.folder.mkdir()
        except OSError:
            return None
        return group

    def remove_abandoned(self) -> None:
        """Remove the groups of processes that are gone."""
        for folder in self.folder.glob(f"{_PREFIX}*-*"):
            if not Path(f"/proc/{folder.name.removeprefix(_PREFIX).split('-')[0]}").exists():
                Group(folder, self.version).close()


@dataclass(frozen=True)
class Group:
    """The group of one job."""

    folder: Path
    version: Literal[1, 2]

    @property
    def entrance(self) -> Path:
        """Whoever writes 0 here is in it."""
        return self.folder / "cgroup.procs"

    def bound(self, *, memory_bytes: int, processes: int) -> None:
        """Hold it to so much memory, swap included, and where the system counts them to so many processes and threads. Raises OSError."""
        if self.version == 2:
            _write(self.folder / "memory.max", memory_bytes)
            for file, value in (("memory.swap.max", 0), ("memory.oom.group", 1), ("pids.max", processes)):
                if (self.folder / file).exists():
                    _write(self.folder / file, value)
        else:
            _write(self.folder / "memory.limit_in_bytes", memory_bytes)
            if (self.folder / "memory.memsw.limit_in_bytes").exists():
                _write(self.folder / "memory.memsw.limit_in_bytes", memory_bytes)

    def out_of_memory_kills(self) -> int:
        """How often the kernel ended a process of the job for its memory."""
        try:
            text = (self.folder / ("memory.events" if self.version == 2 else "memory.oom_control")).read_text()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == "oom_kill")

    def close(self) -> None:
        """Remove it; a process that is still dying keeps it for a moment."""
        with suppress(OSError):
            _write(self.folder / "cgroup.kill", 1)  # version 2 only
        deadline = time.monotonic() + _REMOVE_SECONDS
        while self.folder.exists():
            try:
                self.folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.02)


@functools.cache
def base() -> Base | None:
    """Where groups of jobs can be made, found by making one; None where nowhere. Asked once a process."""
    for version, folder in _own_groups(_ROOT):
        try:
            found = Base(divided(folder) if version == 2 else folder, version)
        except OSError:
            continue
        found.remove_abandoned()
        if (trial := found.make()) is not None:
            try:
                trial.bound(memory_bytes=1 << 30, processes=16)
            except OSError:
                continue
            finally:
                trial.close()
            return found
    return None


@dataclass(frozen=True)
class JobGroups:
    """The group of a job, and the one in which the process of the next can be made ready; None where there can be none."""

    own: Group | None
    following: Group | None


class Groups:
    """Makes the groups of jobs, one after another or at once. Thread-safe."""

    def __init__(self) -> None:
        self._ready: list[Group] = []
        """Made for jobs to come."""

    @contextmanager
    def of_job(self, memory_bytes: int, processes: int) -> Iterator[JobGroups]:
        """The groups of one job; its own is gone at the end."""
        own, following = self._taken(), self._made()
        if following is not None:
            self._ready.append(following)
        try:
            if own is not None:
                try:
                    own.bound(memory_bytes=memory_bytes, processes=processes)
                except OSError:
                    own.close()
                    own = None
            yield JobGroups(own, following)
        finally:
            if own is not None:
                own.close()

    def close(self) -> None:
        """Remove what no job has taken."""
        while self._ready:
            with suppress(IndexError):  # a job took it
                self._ready.pop().close()

    def _taken(self) -> Group | None:
        try:
            return self._ready.pop()
        except IndexError:
            return self._made()

    @staticmethod
    def _made() -> Group | None:
        found = base()
        return None if found is None else found.make()


def divided(folder: Path) -> Path:
    """Have a group of version 2 hand its controllers down, and the service's processes leave it; returns the group to divide.

    Raises OSError where it cannot be, or holds processes that are not the service's.
    """
    if folder.name == _SERVICE and "memory" in _words(folder.parent / "cgroup.subtree_control"):
        return folder.parent  # `modelpress serve` did it before
    if "memory" not in _words(folder / "cgroup.controllers"):
        raise OSError("the group has no memory controller")
    if "memory" in _words(folder / "cgroup.subtree_control"):
        return folder
    inside = _words(folder / "cgroup.procs")
    if any(not _is_ours(int(pid)) for pid in inside):
        raise OSError("the group has processes that are not the service's")
    (folder / _SERVICE).mkdir(exist_ok=True)
    for pid in inside:
        _write(folder / _SERVICE / "cgroup.procs", int(pid))
    _write(folder / "cgroup.subtree_control", "+memory")
    if "pids" in _words(folder / "cgroup.controllers"):
        _write(folder / "cgroup.subtree_control", "+pids")
    return folder


def memory_limit_bytes(root: Path = _ROOT) -> int:
    """Memory of this machine, or the least that a control group around this process allows."""
    least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for version, folder in _own_groups(root):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        for place in (folder, *folder.parents):
            with suppress(OSError):
                text = (place / name).read_text().strip()
                least = min(least, int(text)) if text.isdigit() else least
    return least


def _own_groups(root: Path) -> list[tuple[Literal[1, 2], Path]]:
    """The groups that this process is in: of version 2, and of the memory controller of version 1."""
    try:
        lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return []
    found: list[tuple[Literal[1, 2], Path]] = []
    for fields in mounts:
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        for _, controllers, path in lines:
            is_two = kind == "cgroup2" and not controllers
            if is_two or (kind == "cgroup" and "memory" in options and "memory" in controllers.split(",")):
                inside = os.path.relpath(path, fields[3]) if path.startswith(fields[3]) else "."
                found.append((2 if is_two else 1, Path(os.path.normpath(root / fields[4].lstrip("/") / inside))))
    return found


def _is_ours(pid: int) -> bool:
    """Whether a process is this one or was started by it."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(stat_of(pid)[1])
        except OSError:
            return True  # it is gone
    return False


def _words(file: Path) -> list[str]:
    return file.read_text().split()


def _write(file: Path, value: int | str) -> None:
    with file.open("w") as stream:  # one write, as the kernel wants it
        stream.write(str(value))
