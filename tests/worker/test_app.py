"""The Celery worker as a process: doorbells, a broker that is not there, draining."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.serve import broker_binary, broker_command, worker_command
from cli.supervisor import children_of
from core.access import projects
from core.database import migrate
from core.library import models
from core.service import Service
from core.settings import Settings
from tests.clock import quickest
from tests.processes import gone


def test_the_worker_loads_no_torch() -> None:
    code = "import sys, worker.app; print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'fastapi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@contextmanager
def worker_process(settings: Settings, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A real worker of the queues cpu and inspect."""
    environment = {f"MODELPRESS_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    with log.open("wb") as output:
        process = subprocess.Popen(worker_command("cpu", "inspect"), env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while b"isolation chosen" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_worker_hears_the_doorbell_survives_its_broker_and_leaves_at_once_when_told(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    settings = Settings(data_dir=tmp_path / "data", broker_url=f"redis+socket://{socket}", lease_seconds=3, heartbeat_seconds=0.3)
    migrate.upgrade(settings)
    binary = broker_binary()
    assert binary
    broker = subprocess.Popen(broker_command(binary, socket))
    try:
        with Service.open(settings) as service, worker_process(settings, tmp_path / "log") as worker:
            assert quickest(lambda: seconds_to_end(service), 1) < 1
            broker.kill()
            broker.wait()
            assert seconds_to_end(service) < 5  # by its own poll
            parents = children_of(worker.pid)
            started = time.monotonic()
            worker.terminate()
            assert worker.wait(15) == 0
            assert time.monotonic() - started < 8
            assert parents
            assert gone(*parents)
            assert list((settings.data_dir / "work").iterdir()) == []
    finally:
        broker.kill()
        broker.wait()


def seconds_to_end(service: Service) -> float:
    """Upload something and wait for the end of its inspection."""
    blob = service.blobs.put_bytes(os.urandom(16))
    started = time.monotonic()
    with service.database.unit_of_work() as session:
        project = projects.default(session)
        model = models.create(session, service.settings, project.id, name="m", format="onnx", metadata={}, blob=blob)
    while True:
        with service.database.reader() as session:
            if models.get(session, project.id, model.id).status != "inspecting":
                return time.monotonic() - started
        assert time.monotonic() - started < 20
        time.sleep(0.01)


def test_a_worker_that_cannot_start_does_not_wait_for_what_it_has_begun(tmp_path: Path) -> None:
    """Its parent of job children is still importing, or does not answer at all."""
    migrate.upgrade(Settings(data_dir=tmp_path))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 100\n")
    silent.chmod(0o700)
    code = (
        "import sys, time, types, engine.process.parent as parent, worker.app as app\n"
        "parent.sys = types.SimpleNamespace(executable=sys.argv[1])\n"
        "def fail(*_): time.sleep(0.5); raise OSError('no room')\n"
        "app.RollCall = fail\n"
        "try: app.Worker(['cpu'])\n"
        "except OSError as error: print(error, flush=True)\n"
        "print(time.time())\n"
    )
    variables = {**os.environ, "MODELPRESS_DATA_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(silent)], env=variables, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("no room\n")
    assert time.time() - float(ended.stdout.split()[-1]) < 10


def test_a_gpu_worker_without_a_gpu_says_so_and_ends(tmp_path: Path) -> None:
    migrate.upgrade(Settings(data_dir=tmp_path))
    variables = {**os.environ, "MODELPRESS_DATA_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "none"}
    ended = subprocess.run(worker_command("gpu"), env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "needs one GPU and finds 0" in ended.stderr
