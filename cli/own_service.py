"""A whole service for one command, on loopback; it ends with the command."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelpress import ApiError, Client


@contextmanager
def own_service(data_dir: Path, log: Path) -> Iterator[Client]:
    """A client of a service with its state in `data_dir`, which writes to `log` and ends with the block."""
    port = _free_port(8000)
    command = [sys.executable, "-m", "cli.main", "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data_dir)]
    with log.open("wb") as stream:
        service = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ})
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            wait_until_ready(client, service, log)
            yield client
    finally:
        service.send_signal(signal.SIGTERM)
        try:
            service.wait(30)
        except subprocess.TimeoutExpired:
            service.kill()


def wait_until_ready(client: Client, service: "subprocess.Popen[bytes]", log: Path, seconds: float = 90) -> None:
    """Wait until a service that was just started answers; ends the program with its log where it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise SystemExit(f"The service ended with {service.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            client.ready()
            return
        except (OSError, ApiError):
            time.sleep(0.2)
    raise SystemExit(f"The service was not ready within {seconds:.0f} s:\n{log.read_text(errors='replace')[-2000:]}")


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port on 127.0.0.1")
