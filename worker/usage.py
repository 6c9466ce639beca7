"""What a job has in use: processes and memory of its group, space and files of its folder."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_BLOCK_BYTES = 512
_IN_MEMORY = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV")  # noqa: S108 - how the kernel calls shared memory


@dataclass(frozen=True)
class Usage:
    """Of a process group."""

    processes: int
    memory_bytes: int


@dataclass(frozen=True)
class Files:
    """Of a folder and of files that were removed and are still open."""

    count: int
    size_bytes: int


def group_usage(group: int, bound_bytes: int) -> Usage:
    """Processes of a group and the memory that is theirs.

    Resident memory counts what they share for each of them, and what a parent shares with them. Where it passes the bound, pages are
    asked for by who has them (PSS), which takes the kernel longer. Memory in files without a name that nobody has mapped is counted, too.
    """
    pids, pages = [], 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
                continue
            if int(fields[2]) == group:
                pids.append(int(entry.name))
                pages += int(fields[21])
    shared = sum(size for size in _open_files(pids, in_memory=True).values())
    resident = pages * _PAGE_BYTES
    if resident + shared <= bound_bytes:
        return Usage(len(pids), resident + shared)
    private = mapped = 0
    for pid in pids:
        own, of_others = _proportional(pid)
        private += own
        mapped += of_others
    return Usage(len(pids), private + max(mapped, shared))


def folder_usage(folder: Path, group: int | None) -> Files:
    """Files below a folder, and those that processes of a group (if any) have open and that have no name any more."""
    count = size = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    status = entry.stat(follow_symlinks=False)
                    size += status.st_blocks * _BLOCK_BYTES
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(entry.path)
        except OSError:  # it was removed, or its mode was taken away
            continue
    nameless = {} if group is None else _open_files(_members(group), in_memory=False)
    return Files(count + len(nameless), size + sum(nameless.values()))


def _members(group: int) -> list[int]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if int(Path(entry.path, "stat").read_text().rpartition(")")[2].split()[2]) == group:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _open_files(pids: Sequence[int], *, in_memory: bool) -> dict[tuple[int, int], int]:
    """Bytes of files without a name that the processes have open, each once: those in memory, or those on a disk."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                status = os.stat(path := f"/proc/{pid}/fd/{name}")
                if not stat.S_ISREG(status.st_mode) or os.readlink(path).startswith(_IN_MEMORY) != in_memory:
                    continue
            except OSError:
                continue
            if in_memory or status.st_nlink == 0:
                sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
    return sizes


def _proportional(pid: int) -> tuple[int, int]:
    """Private memory of a process and its part of shared memory, swapped pages included; all that is resident where it is not reported."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES, 0
        except OSError:
            return 0, 0
    except OSError:
        return 0, 0
    figures = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines[1:])}
    return figures.get("Pss_Anon", 0) + figures.get("SwapPss", 0), figures.get("Pss_Shmem", 0)
