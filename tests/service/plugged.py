"""A real service with a plug-in folder, as an operator starts it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cli.own_service import wait_until_ready
from tests.plain import Client
from tests.servers import free_port


def write_plugin(folder: Path, files: Mapping[str, str]) -> Path:
    """A folder with these files, by their paths below it."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@contextmanager
def service_with(plugin: Path, folder: Path) -> Iterator[Client]:
    """A service that has the plug-in and keeps its state below `folder`."""
    port, log = free_port(), folder / "serve.log"
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), "--data-dir", str(folder / "data")]
    environment = {**os.environ, "MODELPRESS_PLUGINS": str(plugin), "MODELPRESS_MIN_FREE_BYTES": "0"}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        client = Client(f"http://127.0.0.1:{port}")
        wait_until_ready(client.typed, process, log)
        yield client
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
