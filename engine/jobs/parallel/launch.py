"""Starts the processes of one job and forwards the events of the first. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
from collections.abc import Callable
from pathlib import Path

from engine.contract import events
from engine.contract.job import Job
from engine.process.python import start_python
from engine.training.parallel.lost import LOST, process_lost

_TICK_SECONDS = 0.1
_END_SECONDS = 30.0
"""How long the others may take to end after the first one's last word."""


def last_word(directory: Path, rank: int) -> Path:
    """Where a process other than the first leaves its `failed` event."""
    return directory / "tmp" / f"rank{rank}.json"


def run_processes(job: Job, directory: Path, emit: Callable[[events.Event], None]) -> int:
    """Run `job` in as many processes as it asks for, under `torch.distributed.run`; returns the exit status.

    Events come over a pipe that the processes have as their standard input: it is all that they inherit besides output and error.
    Raises EngineError: what one of the processes failed with, `child_killed` where one ended without a word.
    """
    count = 1 if job.spec is None else job.spec.processes
    reader, writer = os.pipe()
    process = start_python(
        "engine.jobs.parallel.agent",
        str(os.getpid()),
        str(count),
        str(directory),
        environment={"ORT_DISABLE_TELEMETRY": "1"},
        stdin=writer,
        stdout=2,  # standard output may be for the program that reads our events
    )
    os.close(writer)
    try:
        ending = _relay(reader, process, emit)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    finally:
        os.close(reader)
        process.kill()  # its processes end with it
        process.wait()
    if isinstance(ending, events.Done):
        emit(ending)
        return 0
    paths = [last_word(directory, rank) for rank in range(1, count)]
    others = [events.parse_event(path.read_bytes()) for path in paths if path.exists()]
    failures = [event for event in (ending, *others) if isinstance(event, events.Failed)]
    if not failures:
        raise process_lost(f"all of them have ended, with status {process.returncode}.")
    # That a process is gone explains nothing where that process itself reported why.
    emit(next((failure for failure in failures if failure.error.code != LOST), failures[0]))
    return 1


def _relay(reader: int, process: subprocess.Popen[bytes], emit: Callable[[events.Event], None]) -> events.Done | events.Failed | None:
    """Pass on every event but the last, which is returned; None where the processes ended without one."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            data = os.read(reader, 1 << 16) if selector.select(0 if ended else _TICK_SECONDS) else b""
            if not data:
                if ended:
                    return None
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                event = events.parse_event(line)
                if isinstance(event, events.Done | events.Failed):
                    return event
                emit(event)
