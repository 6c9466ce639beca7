"""Watching one child: its events, its log, its time, its memory, and whoever wants it to end."""

import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.contract.events import MAX_LINE_BYTES, Event
from engine.process.launcher import Child, Exit
from worker.cgroups import Group
from worker.stop import Reason, Stop
from worker.transcript import ProtocolError, Transcript
from worker.usage import folder_usage, group_usage

MOST_PROCESSES = 256
_DISK_SECONDS = 2.0
_TICK_SECONDS = 0.5
"""How often the bounds are looked at; reading all of /proc costs milliseconds."""
_READ_BYTES = 1 << 16
_END_SECONDS = 10.0
"""How long a killed child may take to disappear; longer means a process that hangs in the kernel."""


@dataclass(frozen=True)
class Bounds:
    """What the kernel's limits on single processes cannot hold."""

    seconds: float
    """Wall-clock time of the child."""
    memory_bytes: int
    """Memory of the child and all that it started; looked at where no control group holds it."""
    processes: int = MOST_PROCESSES
    directory: Path | None = None
    """The job's folder."""
    disk_bytes: int = 1 << 40
    files: int = 1 << 20
    group: Group | None = None
    """The job's control group."""


@dataclass(frozen=True)
class Watched:
    """How a child ended, and what it used."""

    exit: Exit
    seconds: float
    protocol_error: str | None = None


def watch(child: Child, transcript: Transcript, stop: Stop, bounds: Bounds, on_event: Callable[[Event], None]) -> Watched:
    """Follow a child to its end; kill its whole group as soon as `stop` is asked, a bound is passed, or it talks nonsense.

    Args:
        child: The running child; its streams are closed at the end.
        transcript: Takes in its events.
        stop: Asked by others, and by this function for a passed bound.
        bounds: Wall clock, memory and processes of the group.
        on_event: Called with every event, after the transcript.
    """
    started = time.monotonic()
    stream = _Lines()
    problem: str | None = None
    killed_at: float | None = None
    next_tick = started
    disk = _Disk(bounds)
    with selectors.DefaultSelector() as selector:
        for descriptor in (child.events, child.log):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        selector.register(stop, selectors.EVENT_READ)
        open_streams = 2
        while open_streams:
            for key, _ in selector.select(max(0.0, next_tick - time.monotonic())):
                if key.fileobj is stop:
                    selector.unregister(stop)
                    continue
                data = os.read(key.fd, _READ_BYTES)
                if not data:
                    selector.unregister(key.fd)
                    open_streams -= 1
                elif key.fd == child.log:
                    transcript.hear_log(data)
                elif problem is None:
                    try:
                        for line in stream.feed(data):
                            on_event(transcript.read_line(line))
                    except ProtocolError as error:
                        problem = str(error)
                        stop.ask(Reason.PROTOCOL)
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + _TICK_SECONDS
                _check_bounds(child, stop, bounds, now - started)
                disk.check(child, stop)
            if stop.reason is not None and killed_at is None:
                child.signal(signal.SIGKILL)
                killed_at = now
            if killed_at is not None and now > killed_at + _END_SECONDS:
                break
    if problem is None and stream.rest and stop.reason is None:
        problem = f"its last line has no end: {stream.rest[:200]!r}"
    exit_ = child.collect(_END_SECONDS)
    if exit_ is None:  # it closed its streams and goes on
        child.signal(signal.SIGKILL)
        exit_ = child.collect(_END_SECONDS) or Exit(-signal.SIGKILL)
    child.close()
    return Watched(exit_, time.monotonic() - started, problem)


def _check_bounds(child: Child, stop: Stop, bounds: Bounds, seconds: float) -> None:
    if seconds > bounds.seconds:
        stop.ask(Reason.TIMEOUT)
    usage = group_usage(child.pid, bounds.memory_bytes)
    if usage.processes > bounds.processes:
        stop.ask(Reason.TOO_MANY_PROCESSES)
    elif usage.memory_bytes > bounds.memory_bytes or (bounds.group is not None and bounds.group.out_of_memory_kills()):
        stop.ask(Reason.OUT_OF_MEMORY)


class _Disk:
    """Looks at a job's folder, the less often the longer that takes."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._next = time.monotonic() + _DISK_SECONDS

    def check(self, child: Child, stop: Stop) -> None:
        if self._bounds.directory is None or (started := time.monotonic()) < self._next:
            return
        used = folder_usage(self._bounds.directory, child.pid)
        if used.size_bytes > self._bounds.disk_bytes or used.count > self._bounds.files:
            stop.ask(Reason.TOO_MUCH_ON_DISK)
        now = time.monotonic()
        self._next = now + max(_DISK_SECONDS, 20 * (now - started))


class _Lines:
    """Cuts a byte stream into lines of bounded length."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        if any(len(line) > MAX_LINE_BYTES for line in (*lines, self.rest)):
            raise ProtocolError(f"it sent a line of more than {MAX_LINE_BYTES} bytes")
        return lines
