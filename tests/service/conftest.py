"""One real service for the tests that look at it from outside, as its users do."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client import Client
from cli.demo import EXAMPLES, wait_until_ready
from tests.servers import free_port


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`modelpress serve` on the embedded default, with the digits uploaded."""
    folder = tmp_path_factory.mktemp("service")
    port, log = free_port(), folder / "serve.log"
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), "--data-dir", str(folder / "data")]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, "MODELPRESS_MIN_FREE_BYTES": "0"})
    try:
        client = Client(f"http://127.0.0.1:{port}")
        wait_until_ready(client, process, log)
        client.upload("models", EXAMPLES / "digits.onnx", "onnx")
        client.upload("datasets", EXAMPLES / "digits.npz", "npz", json.loads((EXAMPLES / "digits.metadata.json").read_text()))
        yield client.base_url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[2]
