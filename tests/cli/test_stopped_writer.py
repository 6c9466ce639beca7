"""A process that is stopped within a transaction of SQLite, and everyone who waits for the lock."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from core.database.writer import writer
from engine.process.linux import stat_of

PROGRAM = """
import sys
from pathlib import Path
from cli.stopped_writer import StoppedWriter
from cli.supervisor import Program, Supervisor

supervisor = Supervisor()
supervisor.add(Program("writer", [sys.executable, "-c", sys.argv[2], sys.argv[1]]))
supervisor.run(lambda: True, StoppedWriter(Path(sys.argv[1])).look)
supervisor.stop()
"""
HOLDER = """
import os, signal, sqlite3, sys, time

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO lines VALUES ('not committed')")
open(f"{sys.argv[1]}.pid", "a").write(f"{os.getpid()}\\n")
{then}
time.sleep(60)
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "lines.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE lines (text TEXT)")
    return path


@pytest.fixture
def supervised(database: Path) -> Iterator[object]:
    started: list[subprocess.Popen[bytes]] = []

    def supervise(then: str) -> int:
        code = HOLDER.replace("{then}", then)
        started.append(subprocess.Popen([sys.executable, "-c", PROGRAM, str(database), code], stderr=subprocess.DEVNULL))
        return _holders(database)[0]

    yield supervise
    for process in started:
        process.kill()
        process.wait()


def _holders(database: Path) -> list[int]:
    """Whoever got the lock, in order."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError, IndexError):
            if (text := Path(f"{database}.pid").read_text()).endswith("\n"):
                return [int(line) for line in text.splitlines()]
        time.sleep(0.02)
    raise AssertionError("nobody got the lock")


def test_the_writer_is_the_process_in_a_transaction(supervised: object, database: Path) -> None:
    assert writer(database) is None  # nobody has the database open
    holder = supervised("")  # type: ignore[operator]
    assert writer(database) == holder
    time.sleep(4)  # longer than a stopped one lives
    assert _holders(database) == [holder]
    assert writer(database) == holder


def test_a_stopped_writer_is_killed_and_whoever_waits_for_it_goes_on(supervised: object, database: Path) -> None:
    once = "if open(f'{sys.argv[1]}.pid').read().count(chr(10)) == 1: os.kill(os.getpid(), signal.SIGSTOP)\nconnection.execute('ROLLBACK')"
    holder = supervised(once)  # type: ignore[operator]
    with closing(sqlite3.connect(database, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO lines VALUES ('committed')")
        connection.execute("COMMIT")
        assert connection.execute("SELECT text FROM lines").fetchall() == [("committed",)]
    with suppress(ProcessLookupError):
        os.kill(holder, signal.SIGCONT)
        raise AssertionError("the stopped writer still lives")


def test_a_stopped_process_that_holds_nothing_is_left_alone(supervised: object, database: Path) -> None:
    holder = supervised("connection.execute('ROLLBACK'); os.kill(os.getpid(), signal.SIGSTOP)")  # type: ignore[operator]
    time.sleep(4.5)
    assert stat_of(holder)[0] == "T"
    assert _holders(database) == [holder]
