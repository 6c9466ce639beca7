"""The first moments of a job child, between the fork and the job's first line of code.

A child is made ready before its request comes: forked, in namespaces of its own where it is to have them, and waiting. That is what takes
the time of a start.
"""

import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

from pydantic import BaseModel

from engine.contract.errors import Category, JobError
from engine.contract.events import Failed, write_event
from engine.process.environment import of_child
from engine.process.linux import die_with_parent, rename
from engine.process.request import Kind, Request
from engine.process.sandbox import namespaces
from engine.process.sandbox.isolation import IsolationUnavailable, confine, enclose, move_in, stay_oneself

EVENTS_FD = 3
"""Where a child writes its events."""
MAX_REQUEST_BYTES = 1 << 16
TAKEN = b"taken"
"""A child's answer to its request."""
_OOM_SCORE = "800"
"""The kernel's out-of-memory killer takes a job before it takes the service."""

Entry = Callable[[Path, Callable[[BaseModel], None]], int]
Failure = tuple[str, Category, str]


def run(kind: Kind, parent: int, owner: tuple[int, int], channel: socket.socket) -> int:
    """Become a job child of some kind, wait for its request and run its entry; returns the exit status. Call right after the fork.

    Args:
        kind: What to be ready for.
        parent: Process id of the parent, whose end ends this process too.
        owner: User and group of the parent.
        channel: Where the request comes from: one message, with descriptors for events and for standard output and error.
    """
    os.setsid()
    die_with_parent(parent, signal.SIGKILL)
    _reset_signals()
    _keep_only(channel.fileno())
    failure: Failure | None = None
    try:
        if kind.enclosed:
            stay_oneself(owner)
            enclose(kind)
            if job := os.fork():
                return namespaces.keep(job)
            parent = namespaces.FIRST
            die_with_parent(parent, signal.SIGKILL)
        with namespaces.outside() if kind.enclosed else nullcontext():
            _enter_group(kind)
    except Exception as error:
        failure = _failure(error)
    rename("spare")
    message, descriptors, _, _ = socket.recv_fds(channel, MAX_REQUEST_BYTES, 2)
    if not message:  # the parent has no use for it
        return 0
    events, log = descriptors
    if _unheard(events):  # the parent was stopped, and the supervisor has long asked another one
        return 0
    rename("job")
    with suppress(OSError):  # nobody waits to hear it of a child that was forked for this request
        channel.send(TAKEN)
    _descriptors(events, log)
    try:
        if failure is None:
            request = Request.from_json(json.loads(message))
            with namespaces.outside() if kind.enclosed else nullcontext():
                entry = _settle(request)
            if kind.enclosed:
                move_in(request.directory)
            confine(request)
            die_with_parent(parent, signal.SIGKILL)  # a change of namespaces may have forgotten it
    except Exception as error:
        failure = _failure(error)
    if failure is not None:
        write_event(EVENTS_FD, Failed(error=JobError.of(*failure)))
        return 1
    status = entry(request.directory, lambda event: write_event(EVENTS_FD, event))
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _failure(error: Exception) -> Failure:
    if isinstance(error, IsolationUnavailable):
        return "isolation_unavailable", "resource", f"The job's process could not be confined: {error}."
    traceback.print_exc()
    return "internal_error", "internal", "The job's process could not be set up; its log says why."


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


def _keep_only(descriptor: int) -> None:
    """Close what the parent has open, but for the standard streams: the supervisor sees by the end of a stream that its owner is gone."""
    os.closerange(EVENTS_FD, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))


def _enter_group(kind: Kind) -> None:
    if kind.group is not None:
        for pid in (namespaces.FIRST, 0) if kind.enclosed else (0,):
            Path(kind.group).write_text(str(pid))


def _descriptors(events: int, log: int) -> None:
    """Output and error to the log, events on their own descriptor, and nothing else is inherited; standard input is empty, as the parent's."""
    # first out of the way of 0..3, so that no copy overwrites a source
    events, log = (os.dup(_above(fd)) for fd in (events, log))
    for source, target in ((log, 1), (log, 2), (events, EVENTS_FD)):
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
