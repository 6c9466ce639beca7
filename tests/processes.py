"""What runs on this machine."""

import os
import time
from contextlib import suppress
from pathlib import Path

from engine.process.linux import stat_of


def descendants(root: int) -> list[int]:
    """Every process below `root`."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parent = int(Path(entry.path, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def outside(pid: int) -> int:
    """The number here of a process below this one that calls itself `pid` in a process namespace of its own; 0 where there is none.

    Processes that wait for a job are left out.
    """
    for found in descendants(os.getpid()):
        with suppress(OSError):
            line = next(line for line in Path(f"/proc/{found}/status").read_text().splitlines() if line.startswith("NSpid:"))
            numbers = line.split()[1:]
            if len(numbers) > 1 and int(numbers[-1]) == pid and Path(f"/proc/{found}/comm").read_text() != "spare\n":
                return found
    return 0


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return stat_of(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second one where it ends between opening and reading
        return False


def gone(*pids: int, seconds: float = 5) -> bool:
    """Wait for processes to end."""
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
