"""One running job child, as its supervisor sees it, and how it ended."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from engine.process.linux import stat_of
from engine.process.sandbox.namespaces import returncode

REPORT_SECONDS = 2.0
"""How long the parent may take to report a child whose streams have ended; then the kernel is asked."""


class LaunchError(Exception):
    """No child could be started."""


class NoAnswer(Exception):
    """The parent of job children is there and does not answer."""


@dataclass(frozen=True)
class Exit:
    """How a child ended."""

    returncode: int
    """Exit status, or minus the number of the signal that killed it."""
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    parent_lost: bool = False
    """The parent of job children died and took the child along."""


class Child:
    """One running job child.

    Args:
        events: Read end of the event stream.
        log: Read end of standard output and error.
        enclosed: Whether it has namespaces of its own.
        forget: Called when the kernel, and not the parent, reported how it ended.
    """

    def __init__(self, events: int, log: int, *, enclosed: bool = False, forget: Callable[[], None] = lambda: None) -> None:
        self.pid = 0
        self.events = events
        """Read end of the event stream; at its end the whole group is gone."""
        self.log = log
        """Read end of standard output and error."""
        self.exit: Exit | None = None
        self._enclosed = enclosed
        self._forget = forget
        self._ended = threading.Event()

    def wait(self, timeout: float | None = None) -> Exit | None:
        """How the child ended, or None if it still runs after `timeout` seconds, or its parent does not report it."""
        self._ended.wait(timeout)
        return self.exit

    def collect(self, timeout: float) -> Exit | None:
        """The same, for a child whose streams have ended: the kernel is asked where the parent is stopped and reports nothing."""
        if self.wait(min(REPORT_SECONDS, timeout)) is None and (status := dead_status(self.pid)) is not None:
            self.signal(signal.SIGKILL)  # what it started: the dead child still names the group
            self.end(Exit(returncode(status, enclosed=self._enclosed)))
            self._forget()
        return self.wait(max(0.0, timeout - REPORT_SECONDS))

    def signal(self, number: int) -> None:
        """Send a signal to the child's whole group; nothing happens once it has ended."""
        if self.pid and self.exit is None:
            with suppress(ProcessLookupError):  # it ended a moment ago
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Give up both streams."""
        for descriptor in (self.events, self.log):
            os.close(descriptor)

    def end(self, exit_: Exit) -> None:
        """It ended so; what was known before stays."""
        if self.exit is None:
            self.exit = exit_
            self._ended.set()


def dead_status(pid: int) -> int | None:
    """The wait status of a process that is dead and not collected by its parent; None while it lives, or once it is gone."""
    try:
        fields = stat_of(pid)
    except OSError:
        return None
    return int(fields[49]) if fields[0] == "Z" else None
