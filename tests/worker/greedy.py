"""Jobs that take too much, or are ended from outside; a test has a child run them in place of the engine."""

import mmap
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from engine.contract.errors import JobError
from engine.contract.events import Failed, Log

Emit = Callable[[BaseModel], None]


def lose_the_measuring_process(directory: Path, emit: Emit) -> int:
    """What the engine says when its measuring process was killed."""
    emit(Failed(error=JobError.of("child_killed", "transient", "the process that measures was killed", retryable=True)))
    return 1


def lose_the_measuring_process_on_the_bus(directory: Path, emit: Emit) -> int:
    """The same, of a bus error."""
    emit(Failed(error=JobError.of("runtime_crashed", "internal", "it crashed", details={"signal": signal.SIGBUS})))
    return 1


def crash_on_the_bus(directory: Path, emit: Emit) -> int:
    """A bus error."""
    os.kill(os.getpid(), signal.SIGBUS)
    return 0


def take_all_memory(directory: Path, emit: Emit) -> int:
    """More memory than its limit, not handled."""
    kept = []
    while True:
        kept.append(bytearray(64 << 20))


def take_memory_in_company(directory: Path, emit: Emit) -> int:
    """Many processes that each stay below the limit of one."""
    for _ in range(40):
        if os.fork() == 0:
            kept = b"x" * (100 << 20)
            time.sleep(60)
            os._exit(len(kept) % 2)
    time.sleep(60)
    return 0


def hide_memory(directory: Path, emit: Emit) -> int:
    """Memory that no process has mapped, a gigabyte of it."""
    file = os.memfd_create("hidden")
    for _ in range(1024):
        os.write(file, bytes(1 << 20))
    time.sleep(60)
    return 0


def try_to_hide_memory(directory: Path, emit: Emit) -> int:
    """Every way to memory that belongs to no process."""
    refused = []
    for attempt in (lambda: os.memfd_create("x"), lambda: mmap.mmap(-1, 4096), lambda: os.open("/dev/zero", os.O_RDWR)):
        try:
            attempt()
        except OSError as error:
            refused.append(error.errno)
    emit(Log(message=f"refused {len(refused)} of 3"))
    return 0


def fill_the_folder(directory: Path, emit: Emit) -> int:
    """A file that grows, and has no name any more."""
    with (directory / "tmp" / "big").open("wb", 0) as file:
        (directory / "tmp" / "big").unlink()
        for _ in range(200):
            file.write(os.urandom(1 << 20))
        time.sleep(60)
    return 0


def make_many_files(directory: Path, emit: Emit) -> int:
    """Empty files without end."""
    for index in range(5000):
        (directory / "tmp" / str(index)).touch()
    time.sleep(60)
    return 0


def multiply(directory: Path, emit: Emit) -> int:
    """A fork bomb of bounded size."""
    for _ in range(1000):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    time.sleep(60)
    return 0
