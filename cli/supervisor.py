"""Keeps processes running, and lets none of them outlive it: a small init for one service."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from core.logging import logger
from engine.process.linux import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl, read_signal, signal_file

_TICK_SECONDS = 0.2
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_STEADY_SECONDS = 10.0
"""A process that lived this long starts again without a pause."""
_HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_log = logger(__name__)


@dataclass
class Program:
    """One process that should run."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of the supervisor."""
    descriptors: Sequence[int] = ()
    """Open files that it inherits."""
    stop_seconds: float = 5.0
    """How long it may take to end after SIGTERM."""
    stop_order: int = 0
    """Programs of a lower order are ended first."""
    once: bool = False
    """Whether it is done when it ends."""
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause: float = 0.0
    not_before: float = 0.0


class Supervisor:
    """Starts programs, restarts what dies, and ends them all.

    Must be made and run in the main thread, before any other thread starts: programs die with the thread that started them.
    """

    def __init__(self) -> None:
        self._programs: list[Program] = []
        self._stopping = False
        # Orphans of a program that died become ours, and are killed, instead of living on under init.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        # Not `signal.sigtimedwait`: where the process was stopped and goes on after the timeout, it returns a signal that nobody sent.
        self._signals = signal_file(_HANDLED)

    def add(self, program: Program) -> None:
        """Start a program and keep it running from now on."""
        self._programs.append(program)
        self._start(program)

    def run(self, ready: Callable[[], bool], watch: Callable[[], None] | None = None) -> None:
        """Supervise until SIGTERM or SIGINT. About five times a second, `ready` is called until it returns True, and `watch` always."""
        waiting = True
        while True:
            received = self._wait(_TICK_SECONDS)
            if received is not None and received[0] != signal.SIGCHLD:
                _log.info("stopping", signal=received[0].name, sent_by=received[1], sender=_command(received[1]))
                return
            if watch is not None:
                watch()
            self._reap()
            for program in self._programs:
                if program.process is None and time.monotonic() >= program.not_before:
                    self._start(program)
            if waiting:
                waiting = not ready()

    def stop(self) -> None:
        """End every program, gently first, and kill what is left."""
        self._stopping = True
        for order in sorted({program.stop_order for program in self._programs}):
            group = [program for program in self._programs if program.stop_order == order and program.process is not None]
            for program in group:
                self._signal(program, signal.SIGTERM)
            deadline = time.monotonic() + max((program.stop_seconds for program in group), default=0)
            while any(program.process is not None for program in group) and time.monotonic() < deadline:
                self._wait(_TICK_SECONDS)
                self._reap()
            for program in group:
                self._signal(program, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while self._reap() and time.monotonic() < deadline:
            self._wait(_TICK_SECONDS / 4)

    def _wait(self, seconds: float) -> tuple[signal.Signals, int] | None:
        """The next signal and its sender; None where none comes in time."""
        if select.select([self._signals], [], [], seconds)[0]:
            return read_signal(self._signals)
        return None

    def _start(self, program: Program) -> None:
        supervisor = os.getpid()

        def prepare() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)

        # A session of its own: Ctrl-C is for the supervisor, which ends the programs in order.
        program.process = subprocess.Popen(
            list(program.command),
            env={**os.environ, **program.environment},
            stdin=subprocess.DEVNULL,
            stdout=None if program.once else 2,  # logs; standard output holds what a person asked for
            start_new_session=True,
            pass_fds=tuple(program.descriptors),
            preexec_fn=prepare,  # noqa: PLW1509 - there are no threads
        )
        program.started = time.monotonic()

    def _reap(self) -> bool:
        """Collect what ended, plan restarts, kill orphans; False when no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                break
            for program in [*self._programs]:
                if program.process is not None and program.process.pid == pid:
                    self._ended(program, os.waitstatus_to_exitcode(status))
        known = {program.process.pid for program in self._programs if program.process is not None}
        for orphan in children_of(os.getpid()) - known:
            os.kill(orphan, signal.SIGKILL)
        return True

    def _ended(self, program: Program, status: int) -> None:
        assert program.process is not None
        program.process.returncode = status  # it was collected here: Popen must not wait for the number, which may be another's soon
        program.process = None
        if program.once:
            self._programs.remove(program)
        if self._stopping or program.once:
            return
        lived = time.monotonic() - program.started
        program.pause = 0.0 if lived > _STEADY_SECONDS else min(max(_FIRST_PAUSE_SECONDS, 2 * program.pause), _LONGEST_PAUSE_SECONDS)
        program.not_before = time.monotonic() + program.pause
        _log.warning("program ended", program=program.name, status=status, restart_in_seconds=program.pause)

    def _signal(self, program: Program, number: signal.Signals) -> None:
        if program.process is not None:
            os.kill(program.process.pid, number)


def _command(pid: int) -> str:
    """What a process runs; empty where it is gone, or was the kernel."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200].strip()
    return ""


def children_of(parent: int) -> set[int]:
    """Process ids of the children of a process, of each of its threads. Raises FileNotFoundError where there is no such process."""
    while True:
        threads = list(Path(f"/proc/{parent}/task").iterdir())
        # A thread that ends meanwhile hands its children to another one: looked at anew, they are found there.
        with suppress(FileNotFoundError, ProcessLookupError):
            return {int(word) for thread in threads for word in (thread / "children").read_text().split()}
