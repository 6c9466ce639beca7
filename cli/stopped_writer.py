"""A process that is stopped within a transaction must not hold up all others for ever."""

import os
import signal
import time
from pathlib import Path

from cli.supervisor import children_of
from core.database.writer import writer
from core.logging import logger
from engine.process.linux import stat_of

_STOPPED_SECONDS = 3.0
"""Shorter than others wait for the lock (`lock_wait_seconds`), so that they wait instead of being refused."""
_LONGEST_GAP_SECONDS = 1.0
"""Who looks less often than this was stopped itself, with the whole service."""
_log = logger(__name__)


class StoppedWriter:
    """Kills a child of this process that stays stopped (SIGSTOP, Ctrl-Z) while it holds SQLite's write lock.

    The database takes its transaction back, and the supervisor starts it again: what it did is tried anew, as after any other death. A
    process under a debugger (state `t`) is left alone.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._holder: int | None = None
        self._since = self._looked = time.monotonic()

    def look(self) -> None:
        """Call this several times a second."""
        holder, now = writer(self._database), time.monotonic()
        if holder is None or not _stopped(holder) or holder not in children_of(os.getpid()):
            self._holder = None
        elif holder != self._holder or now - self._looked > _LONGEST_GAP_SECONDS:
            self._holder, self._since = holder, now
        elif now - self._since >= _STOPPED_SECONDS:
            _log.error("killed a process that was stopped within a transaction", pid=holder, seconds=round(now - self._since, 1))
            os.kill(holder, signal.SIGKILL)
            self._holder = None
        self._looked = now


def _stopped(pid: int) -> bool:
    try:
        return stat_of(pid)[0] == "T"
    except OSError:
        return False
