"""Jobs in two processes, through a real worker and inside the sandbox."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from core import jobs
from core.access import projects
from core.blobs import Blob
from core.library import datasets, models
from engine.jobs.run import run_job
from engine.process.sandbox.probe import Isolation
from tests.clock import quickest
from tests.engine.small import cnn_file, dataset_file, write_job
from tests.processes import gone
from tests.worker.conftest import Bench

TRAINING = {"iterations": 4, "batch_size": 33, "optimizer": "sgd", "learning_rate": 0.02}
TICKET = {"method": "lottery_ticket", "rounds": 1, "rate": 0.5, "controls": [], "training": TRAINING}
SPEC: dict[str, Any] = {"export": ["safetensors"], "evaluation": {"latency": {"repeats": 5}}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    return cnn_file(folder / "cnn.onnx"), dataset_file(folder / "data.npz")


def submit(bench: Bench, files: tuple[Path, Path], **spec: Any) -> str:
    """A job for two processes."""
    settings = bench.service.settings
    network, data = (bench.service.blobs.put_bytes(file.read_bytes()) for file in files)
    with bench.service.database.unit_of_work() as session:
        project = projects.default(session)
        model = models.create(session, settings, project.id, name="m", format="onnx", metadata={}, blob=network)
        dataset = datasets.create(session, settings, project.id, name="d", format="npz", metadata={}, blob=data)
        document = {**SPEC, "model": model.id, "dataset": dataset.id, "device": "cpu", "devices": 2, **spec}
        return jobs.create(session, settings, project.id, document).job.id


def processes(bench: Bench) -> dict[int, int]:
    """Process ids by rank, of the job that runs below the bench's folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if b"engine.jobs.parallel.rank" in command and str(bench.work_dir).encode() in command[-2]:
                    environment = dict(item.split(b"=", 1) for item in (entry / "environ").read_bytes().split(b"\0") if b"=" in item)
                    found[int(environment[b"LOCAL_RANK"])] = int(entry.name)
            except (OSError, KeyError):  # it ended, or begins
                continue
    return found


@pytest.mark.slow
def test_two_processes_in_the_sandbox_find_the_ticket_that_one_finds(bench: Bench, files: tuple[Path, Path], tmp_path: Path) -> None:
    """Masks and metrics are the same; weights differ by less than 1e-5, as sums over a batch are added up in another order."""
    job_id = submit(bench, files, steps=[TICKET])
    with bench.runner("run_the_engine"):
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL, seconds=120)
    assert job.status == "succeeded", (job.error, bench.log(job_id))
    assert job.isolation is not None
    assert job.isolation["tier"] >= 1
    assert "network_namespace" in job.isolation["layers"]
    assert job.isolation["probe"]["tcp_connect"] == "denied"
    alone = write_job(tmp_path / "alone", {**SPEC, "steps": [TICKET]}, model=files[0], dataset=files[1])
    assert run_job(alone, lambda _: None) == 0
    with bench.service.database.reader() as session:
        (artifact,) = [each for each in jobs.artifacts(session, job.project_id, job_id) if each.kind == "model"]
        blob = Blob.load(session, artifact.blob_sha256)
    bench.service.blobs.fetch(blob, tmp_path / "together.safetensors")
    together, expected = load_file(tmp_path / "together.safetensors"), load_file(alone / "out" / "model.safetensors")
    assert_close(together, expected, rtol=0, atol=1e-5)
    assert sum(int((tensor == 0).sum()) for tensor in together.values()) == sum(int((tensor == 0).sum()) for tensor in expected.values())


ENDLESS = {"method": "train", "epochs": 100_000}


def in_training(bench: Bench, job_id: str) -> dict[int, int]:
    """Wait for a job's first epoch since now; process ids by rank."""
    told = bench.job(job_id).progress
    bench.wait(job_id, lambda job: job.progress != told and "epoch" in (job.progress or {}).get("message", ""), seconds=120)
    return processes(bench)


@pytest.mark.slow
def test_a_killed_process_ends_the_attempt(bench: Bench, files: tuple[Path, Path]) -> None:
    job_id = submit(bench, files, steps=[ENDLESS], max_attempts=3)
    with bench.runner("run_the_engine"):
        first = in_training(bench, job_id)
        os.kill(first[1], signal.SIGKILL)
        bench.wait(job_id, lambda job: job.attempt == 2, seconds=30)
        assert gone(*first.values())
        with bench.service.database.reader() as session:
            (requeued,) = jobs.events(session, job_id, types=["requeued"])
        assert requeued.data["error"]["code"] == "child_killed"
        assert set(in_training(bench, job_id)) == {0, 1}


@pytest.mark.slow
def test_cancel_ends_both_processes_within_a_second(bench: Bench, files: tuple[Path, Path]) -> None:
    def cancel() -> float:
        job_id = submit(bench, files, steps=[ENDLESS])
        members = in_training(bench, job_id)
        assert set(members) == {0, 1}
        started = time.monotonic()
        with bench.service.database.unit_of_work() as session:
            jobs.cancel(session, bench.job(job_id).project_id, job_id)
        bench.wait(job_id, lambda job: job.status == "cancelled")
        assert gone(*members.values())
        return time.monotonic() - started

    with bench.runner("run_the_engine"):
        assert quickest(cancel, 1) < 1


def test_without_network_namespaces_such_a_job_obeys_the_minimum(bench: Bench, isolation: Isolation) -> None:
    assert isolation.of_several().tier == isolation.tier >= 1
    shared = Isolation(isolation.tier, isolation.layers, isolation.probe).of_several()
    assert (shared.tier, shared.probe["tcp_connect"], shared.sockets) == (0, "open", "shared")
