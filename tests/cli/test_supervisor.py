"""The supervisor with real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.serve import is_loopback
from cli.supervisor import children_of
from tests.processes import alive, gone

PROGRAM = """
import sys, os, time, subprocess
from pathlib import Path
from cli.supervisor import Program, Supervisor

folder = Path(sys.argv[1])
child = (
    "import os, subprocess, sys, time; from pathlib import Path\\n"
    "kept = subprocess.Popen(['sleep', '60'], start_new_session=True)\\n"
    "Path(sys.argv[1]).write_text(f'{os.getpid()} {kept.pid}')\\n"
    "time.sleep(60)\\n"
)
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
supervisor = Supervisor()
supervisor.add(Program("a", [sys.executable, "-c", child, str(folder / "a")], stop_seconds=2))
if "stubborn" in sys.argv:
    supervisor.add(Program("b", [sys.executable, "-c", stubborn], stop_seconds=0.5, stop_order=1))
if "once" in sys.argv:
    supervisor.add(Program("c", [sys.executable, "-c", f"open({str(folder / 'c')!r}, 'a').write('x')"], once=True))
supervisor.run(lambda: True)
supervisor.stop()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[subprocess.Popen[bytes]] = []

    def supervise(*words: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), *words], stderr=subprocess.DEVNULL))
        return started[-1]

    yield supervise
    for process in started:
        process.kill()
        process.wait()


def pids(path: Path, other_than: list[int] | None = None) -> list[int]:
    """The program's own process id and that of what it started, once it says so."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        text = path.read_text() if path.exists() else ""
        if len(text.split()) == 2 and [int(word) for word in text.split()] != other_than:
            return [int(word) for word in text.split()]
        time.sleep(0.02)
    raise AssertionError(f"{path} says {text!r}")


def test_what_dies_is_started_again_and_its_orphans_are_killed(start: object, tmp_path: Path) -> None:
    start()  # type: ignore[operator]
    first = pids(tmp_path / "a")
    os.kill(first[0], signal.SIGKILL)
    assert gone(*first)
    second = pids(tmp_path / "a", other_than=first)
    assert all(alive(pid) for pid in second)


def test_a_supervisor_that_was_stopped_and_goes_on_goes_on(start: object, tmp_path: Path) -> None:
    supervisor = start()  # type: ignore[operator]
    program, _ = pids(tmp_path / "a")
    for _ in range(4):
        supervisor.send_signal(signal.SIGSTOP)
        time.sleep(0.3)  # past the time for which it waits for a signal
        supervisor.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    assert supervisor.poll() is None
    assert alive(program)
    supervisor.terminate()
    assert supervisor.wait(10) == 0


def test_a_killed_supervisor_takes_its_programs_along(start: object, tmp_path: Path) -> None:
    supervisor = start()  # type: ignore[operator]
    program, _ = pids(tmp_path / "a")
    supervisor.kill()
    assert gone(program)


def test_sigterm_ends_every_program_and_what_it_started_even_a_stubborn_one(start: object, tmp_path: Path) -> None:
    supervisor = start("stubborn")  # type: ignore[operator]
    members = pids(tmp_path / "a")
    started = time.monotonic()
    supervisor.terminate()
    assert supervisor.wait(10) == 0
    assert time.monotonic() - started < 5
    assert gone(*members, seconds=0.5)


def test_a_program_that_runs_once_is_not_started_again(start: object, tmp_path: Path) -> None:
    start("once")  # type: ignore[operator]
    deadline = time.monotonic() + 10
    while not (tmp_path / "c").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.8)
    assert (tmp_path / "c").read_text() == "x"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("192.0.2.1", False), ("me", False)],
)
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_children_are_found_while_threads_end() -> None:
    """A thread may be gone before its children are read."""
    code = (
        "import subprocess, threading, time\n"
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True)\n"
        "while True:\n"
        "    threads = [threading.Thread(target=time.sleep, args=(0.0005,)) for _ in range(20)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert [found for _ in range(1000) if (found := children_of(parent.pid)) != {child}] == []
    finally:
        parent.kill()
        os.kill(child, signal.SIGKILL)
        parent.communicate()
    with pytest.raises(FileNotFoundError):
        children_of(parent.pid)
