"""Servers of a benchmark as processes of their own, and what the kernel says about them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.database import migrate
from core.settings import Settings
from engine.process.linux import stat_of


@contextmanager
def process(command: list[str], port: int, **environment: str) -> Iterator[int]:
    """A process that listens on a loopback port; gives its id."""
    started = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if started.poll() is not None:
                    raise SystemExit(f"{command[0]} ended with {started.returncode}") from None
                time.sleep(0.05)
        yield started.pid
    finally:
        started.terminate()
        started.wait()


@contextmanager
def api_server(settings: Settings) -> Iterator[tuple[int, int]]:
    """The service's API with these settings over a fresh database; gives its port and process id."""
    migrate.upgrade(settings)
    port = free_port()
    command = [sys.executable, "-m", "api.server", "--port", str(port)]
    stated = {f"MODELPRESS_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    with process(command, port, MODELPRESS_LOG_LEVEL="warning", **stated) as pid:
        yield port, pid


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = stat_of(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory of a process, without the pages of files that it has mapped."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024
