"""The published client against the service: what it returns is typed, what it repeats is done once."""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import jobs
from core.jobs import NewArtifact
from modelpress import ApiError, AsyncClient, JobFailed, JobHandle, WaitTimeout
from modelpress import Client as Modelpress
from modelpress.client import wire
from modelpress.resources.jobs import Event, JobProgress
from tests.api.conftest import DATASET_INSPECTION, MODEL_INSPECTION, Client, Server, problem
from tests.api.test_artifacts import REPORT


@pytest.fixture
def mine(server: Server, client: Client) -> Iterator[Modelpress]:
    """The published client with the key of the project of `client` and `spec`."""
    with Modelpress(server.url, client.token, retries=1) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path, onnx_bytes: bytes) -> Path:
    """The network as a file."""
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx_bytes)
    return path


def test_files_come_and_go(mine: Modelpress, server: Server, file: Path, tmp_path: Path, npz_bytes: bytes) -> None:
    model = mine.models.upload(file, metadata={"task": "image_classification"})
    assert (model.name, model.format, model.metadata) == ("net", "onnx", {"task": "image_classification"})
    server.inspected(model.id, MODEL_INSPECTION)
    assert mine.models.inspected(model.id, timeout_seconds=5).params_count == 12
    assert [layer.name for layer in mine.models.layers(model.id)] == ["MatMul_0"]
    assert mine.models.download(model.id, tmp_path / "back.onnx").read_bytes() == file.read_bytes()
    (tmp_path / "d.npz").write_bytes(npz_bytes)
    dataset = mine.datasets.upload(tmp_path / "d.npz", name="digits")
    with pytest.raises(WaitTimeout):
        mine.datasets.inspected(dataset.id, timeout_seconds=0)
    server.inspected(dataset.id, DATASET_INSPECTION)
    assert [len(rows) for rows in mine.datasets.preview(dataset.id, limit=3).splits.values()] == [3, 3]
    assert {item.id for item in mine.models.list()} == {model.id}
    mine.models.delete(model.id)
    assert list(mine.models.list()) == []


def test_a_long_file_goes_in_parts(mine: Modelpress, file: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(wire, "PART_BYTES", 100)
    model = mine.models.upload(file, metadata={"labels": ["a", "b", "c"]})
    assert (model.sha256, model.metadata) == (hashlib.sha256(file.read_bytes()).hexdigest(), {"labels": ["a", "b", "c"]})


def test_long_metadata_do_not_fit_into_an_address(mine: Modelpress, file: Path) -> None:
    labels = [f"class number {number}" for number in range(2000)]
    assert mine.models.upload(file, metadata={"labels": labels}).metadata == {"labels": labels}


def test_what_the_service_says_is_an_error_with_places(mine: Modelpress, file: Path) -> None:
    with pytest.raises(ApiError) as refused:
        mine.jobs.create({"model": "x", "steps": [{"method": "prune"}]})
    assert refused.value.status == 422
    assert refused.value.code == "spec_invalid"
    assert {"/model", "/steps/0/method"} <= {item.pointer for item in refused.value.errors}
    assert "/model" in str(refused.value)
    with pytest.raises(ApiError, match="invalid_metadata"):
        mine.models.upload(file, metadata={"architectur": 1})
    with pytest.raises(FileNotFoundError):
        mine.models.upload(file.with_name("missing.onnx"))


@pytest.mark.parametrize("form", ["mapping", "text", "file", "json file"])
def test_a_spec_comes_in_every_form(mine: Modelpress, spec: dict[str, Any], tmp_path: Path, form: str) -> None:
    text = f"model: {spec['model']}\ndataset: {spec['dataset']}\nsteps: [{{method: magnitude_pruning, sparsity: 0.5}}]\n"
    (tmp_path / "spec.yaml").write_text(text)
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    given: Any = {"mapping": spec, "text": text, "file": tmp_path / "spec.yaml", "json file": tmp_path / "spec.json"}[form]
    assert mine.jobs.validate(given).valid
    assert mine.jobs.create(given).normalized_spec["steps"][0]["sparsity"] == 0.5


def _finish(server: Server, job_id: str, error: dict[str, Any] | None = None) -> None:
    """What a worker does, beside the test."""
    claim = server.claim(job_id)
    progress = {"fraction": 0.5, "step_index": 0, "steps_count": 1, "message": "half way", "eta_seconds": None}
    server.report(claim, jobs.Report(phase="training", progress=progress, log="a line\n"))
    time.sleep(0.4)
    content = server.service.blobs.put_bytes(b"network" * 1000), server.service.blobs.put_bytes(REPORT)
    published = [NewArtifact("model", "onnx", "model.onnx", content[0]), NewArtifact("report", "json", "report.json", content[1])]
    with server.service.database.unit_of_work() as session:
        if error is not None:
            jobs.fail(session, claim.job_id, claim.fence, jobs.JobError.of(**error))
        else:
            from tests.results import summary

            result = summary().model_dump(mode="json")
            jobs.finish(session, claim.job_id, claim.fence, outcome="no_constraints", result=result, artifacts=published)


def test_a_job_is_followed_and_fetched(mine: Modelpress, server: Server, spec: dict[str, Any], tmp_path: Path) -> None:
    """Every event comes once, in order, and progress between them; everything that was published is saved."""
    job = mine.jobs.create(spec)
    seen: list[Event | JobProgress] = []
    worker = threading.Thread(target=_finish, args=(server, job.id))
    worker.start()
    done = job.wait(on_event=seen.append, timeout_seconds=30)
    worker.join()
    assert done.ensure_succeeded().outcome == "no_constraints"
    types = [item.type for item in seen if isinstance(item, Event)]
    assert (types[0], types[-1]) == ("created", "succeeded")
    assert types == [item.type for item in done.events(follow=False)]
    assert any(isinstance(item, JobProgress) and item.progress.message == "half way" for item in seen)
    saved = done.download(tmp_path / "out")
    assert {path.name for path in saved} == {"model.onnx", "report.json", "report.html", "report.md"}
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"network" * 1000
    assert done.report().outcome is not None
    assert done.logs() == "a line\n"
    assert [item.filename for item in done.artifacts()] == ["model.onnx", "report.json"]
    assert [item.id for item in mine.jobs.list(status=["succeeded"], model_id=spec["model"])] == [job.id]
    again = done.retry()
    assert again.retry_of == job.id
    assert again.cancel().status == "cancelled"
    again.cancel()
    mine.jobs.delete(again.id)
    assert mine.artifacts.promote(done.artifacts()[0].id, name="smaller").name == "smaller"


def test_a_job_that_fails_says_why(mine: Modelpress, server: Server, spec: dict[str, Any]) -> None:
    job = mine.jobs.create(spec)
    worker = threading.Thread(target=_finish, args=(server, job.id, {"code": "bad_data", "category": "user", "message": "no."}))
    worker.start()
    done = job.wait(timeout_seconds=30)
    worker.join()
    assert isinstance(done, JobHandle)
    with pytest.raises(JobFailed, match="bad_data: no") as failed:
        done.ensure_succeeded()
    assert failed.value.job.id == job.id


def test_waiting_has_an_end(mine: Modelpress, spec: dict[str, Any]) -> None:
    job = mine.jobs.create(spec)
    for options in ({}, {"on_event": lambda event: None}):
        started = time.monotonic()
        with pytest.raises(WaitTimeout, match="it goes on"):
            job.wait(timeout_seconds=0.5, **options)
        assert time.monotonic() - started < 10
    assert job.refresh().status == "queued"


def test_the_asynchronous_client_does_the_same(server: Server, client: Client, spec: dict[str, Any], file: Path, tmp_path: Path) -> None:
    async def use() -> tuple[list[str], list[str]]:
        async with AsyncClient(server.url, client.token) as mine:
            model = await mine.models.upload(file)
            job = await mine.jobs.create({**spec, "model": model.id})
            types: list[str] = []
            work = asyncio.to_thread(_finish, server, job.id)
            done, _ = await asyncio.gather(
                job.wait(on_event=lambda event: types.append(getattr(event, "type", "")), timeout_seconds=30), work
            )
            saved = await done.ensure_succeeded().download(tmp_path / "out")
            assert [item.id async for item in mine.jobs.list(status=["succeeded"])] == [job.id]
            return [name for name in types if name], [path.name for path in saved]

    types, saved = asyncio.run(use())
    assert types[-1] == "succeeded"
    assert saved == ["model.onnx", "report.json", "report.html", "report.md"]


@pytest.mark.parametrize("kind", ["models", "datasets", "jobs", "promote"])
def test_under_one_key_a_thing_is_made_once(
    client: Client, server: Server, spec: dict[str, Any], onnx_bytes: bytes, npz_bytes: bytes, kind: str
) -> None:
    """The second answer is that of the first, and says so; another request under the same key is refused."""
    content = onnx_bytes if kind == "models" else npz_bytes
    path = f"/v1/{kind}"
    if kind == "promote":
        job = client.job(spec)
        blob = server.service.blobs.put_bytes(onnx_bytes)
        server.finish(job["id"], artifacts=[NewArtifact("model", "onnx", "m.onnx", blob)])
        path = f"/v1/artifacts/{client.get(job['urls']['artifacts']).json()['data'][0]['id']}/promote"

    def ask(name: str) -> Any:
        headers = {"Idempotency-Key": "once"}
        if kind in ("jobs", "promote"):
            return client.post(path, json={**spec, "name": name} if kind == "jobs" else {"name": name}, headers=headers)
        return client.post(path, params={"name": name}, content=content, headers=headers)

    first, second = ask("a"), ask("a")
    assert first.status_code == second.status_code == (202 if kind == "jobs" else 201)
    assert first.json()["id"] == second.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    problem(ask("b"), 422, "idempotency_key_reused")
