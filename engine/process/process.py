"""The first moments of a job child, between the fork and the job's first line of code."""

import faulthandler
import gc
import importlib
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from engine.contract.errors import Category, JobError
from engine.contract.events import Failed, write_event
from engine.process.environment import of_child
from engine.process.linux import die_with_parent
from engine.process.request import Request
from engine.process.sandbox import namespaces
from engine.process.sandbox.isolation import NAMESPACES, IsolationUnavailable, confine, enclose, stay_oneself

EVENTS_FD = 3
"""Where a child writes its events."""
_OOM_SCORE = "800"
"""The kernel's out-of-memory killer takes a job before it takes the service."""

Entry = Callable[[Path, Callable[[BaseModel], None]], int]


def run(request: Request, parent: int, owner: tuple[int, int], events: int, log: int) -> int:
    """Become the job child that `request` describes and run its entry; returns the exit status. Call right after the fork.

    Args:
        request: What to run, and under what confinement.
        parent: Process id of the parent, whose end ends this process too.
        owner: User and group of the parent.
        events: Descriptor for events; becomes `EVENTS_FD`.
        log: Descriptor for standard output and error.
    """
    os.setsid()
    die_with_parent(parent, signal.SIGKILL)
    if _unheard(events):  # the parent was stopped, and the supervisor has long asked another one
        return 0
    _reset_signals()
    if request.group is not None:
        Path(request.group).write_text("0")
    _descriptors(events, log)
    try:
        enclosed = NAMESPACES in request.layers
        if enclosed:
            stay_oneself(owner)
        entry = _settle(request)
        if enclosed:
            enclose(request)
            if job := os.fork():
                return namespaces.keep(job)
            parent = namespaces.FIRST
        confine(request)
        die_with_parent(parent, signal.SIGKILL)  # a change of namespaces may have forgotten it
    except IsolationUnavailable as error:
        return _fail("isolation_unavailable", "resource", f"The job's process could not be confined: {error}.")
    except Exception:
        traceback.print_exc()
        return _fail("internal_error", "internal", "The job's process could not be set up; its log says why.")
    status = entry(request.directory, lambda event: write_event(EVENTS_FD, event))
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _unheard(events: int) -> bool:
    """Whether nobody reads the events any more."""
    poll = select.poll()
    poll.register(events, 0)
    return bool(poll.poll(0))


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _descriptors(events: int, log: int) -> None:
    """Standard input from nowhere, output and error to the log, events on their own descriptor, and nothing else is inherited."""
    null = os.open(os.devnull, os.O_RDONLY)
    # first out of the way of 0..3, so that no copy overwrites a source
    null, events, log = (os.dup(_above(fd)) for fd in (null, events, log))
    for source, target in ((null, 0), (log, 1), (log, 2), (events, EVENTS_FD)):
        os.dup2(source, target, inheritable=target != EVENTS_FD)
    os.closerange(EVENTS_FD + 1, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = os.fdopen(0, closefd=False)
    faulthandler.enable(file=2)


def _above(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD, EVENTS_FD + 1)


def _settle(request: Request) -> Entry:
    os.umask(0o077)
    os.chdir(request.directory)
    (request.directory / "tmp").mkdir(exist_ok=True)
    environment = of_child(os.environ, request.directory, request.environment)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # what the parent's imports found is not where this process may write
    Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    gc.enable()
    module, _, function = request.entry.partition(":")
    entry: Entry = getattr(importlib.import_module(module), function)
    return entry


def _fail(code: str, category: Category, message: str) -> int:
    write_event(EVENTS_FD, Failed(error=JobError.of(code, category, message)))
    return 1
