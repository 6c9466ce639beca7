"""Why an attempt should end before its child does."""

import os
import threading
from enum import StrEnum


class Reason(StrEnum):
    """Who or what wants the attempt to end."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    DRAINED = "drained"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    TOO_MANY_PROCESSES = "too_many_processes"
    TOO_MUCH_ON_DISK = "too_much_on_disk"
    PROTOCOL = "protocol"


class Stopped(Exception):
    """Raised where the attempt's own thread notices that it should end."""


class Stop:
    """A flag that any thread may raise and the attempt's thread can select on; the first reason counts."""

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self._lock = threading.Lock()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ask(self, reason: Reason) -> None:
        """Have the attempt end for `reason`, unless something asked before."""
        with self._lock:
            if self.reason is None:
                self.reason = reason
                if self._event >= 0:
                    os.eventfd_write(self._event, 1)

    def check(self, *but: Reason) -> None:
        """Raise Stopped if something asked for a reason that is not among `but`."""
        if self.reason is not None and self.reason not in but:
            raise Stopped

    def fileno(self) -> int:
        """Readable for good once something asked."""
        return self._event

    def close(self) -> None:
        """Free the descriptor; a late `ask` does no harm."""
        with self._lock:
            os.close(self._event)
            self._event = -1
