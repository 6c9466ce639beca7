"""One real service for the tests that look at it from outside, as its users do."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.demo import EXAMPLES
from cli.own_service import wait_until_ready
from tests.collector import Collector
from tests.plain import Client
from tests.servers import free_port


@pytest.fixture(scope="session")
def service_folder(root: Path) -> Iterator[Path]:
    """Where the service has its state and its log: in the checkout, as with the README's `make serve`."""
    (root / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root / "build", prefix="service-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the service sends its traces."""
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="session")
def service_url(root: Path, service_folder: Path, collector: Collector) -> Iterator[str]:
    """The README's `make serve`, with the digits uploaded."""
    port, log = free_port(), service_folder / "serve.log"
    command = ["make", "serve", f"PORT={port}", f"DATA_DIR={(service_folder / 'data').relative_to(root)}"]
    environment = {**os.environ, "MODELPRESS_MIN_FREE_BYTES": "0", "MODELPRESS_OTLP_ENDPOINT": collector.url}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=root, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        client = Client(f"http://127.0.0.1:{port}")
        wait_until_ready(client.typed, process, log)
        client.upload("models", EXAMPLES / "digits.onnx", "onnx")
        client.upload("datasets", EXAMPLES / "digits.npz", "npz", json.loads((EXAMPLES / "digits.metadata.json").read_text()))
        yield client.base_url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[2]
