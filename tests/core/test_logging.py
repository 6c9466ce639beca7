"""Lines that are written beside the one who logs: whole, in order, and never waited for."""

import json
import logging
import os
import subprocess
import sys

import pytest

from core.logging import Beside

SET_UP = """
import os, sys
from core import logging
from core.settings import Settings
logging.configure(Settings(), beside=True)
log = logging.logger("t")
"""


def _run(program: str, stderr: int) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([sys.executable, "-c", SET_UP + program], stderr=stderr, stdout=subprocess.PIPE, timeout=60, check=True)


def test_every_line_is_written_in_order_before_flush_returns() -> None:
    done = _run("for number in range(2000): log.info('said', number=number)\nlogging.flush()\nos._exit(0)", subprocess.PIPE)
    assert [json.loads(line)["number"] for line in done.stderr.splitlines()] == list(range(2000))


def test_nobody_waits_for_a_reader_that_does_not_read() -> None:
    reading, writing = os.pipe()
    program = "for number in range(5000): log.info('said', text='x' * 1000)\nsys.stdout.write('went on'); sys.stdout.flush(); os._exit(0)"
    try:
        done = _run(program, writing)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.stdout == b"went on"


def test_what_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("core.logging.MOST_LINES", 0)
    handler = Beside()
    record = logging.LogRecord("t", logging.INFO, "", 0, "lost", None, None)
    for _ in range(3):
        handler.emit(record)
    monkeypatch.setattr("core.logging.MOST_LINES", 10)
    handler.emit(logging.LogRecord("t", logging.INFO, "", 0, "kept", None, None))
    handler.flush()
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "kept"
    assert json.loads(lines[1]) == {"event": "log_lines_dropped", "lines": 3, "level": "warning"}
