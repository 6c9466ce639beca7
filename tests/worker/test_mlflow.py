"""Jobs that end become runs of an MLflow server: once each, whatever fails on the way, and never at the expense of the job.

The same tests run against MLflow's own server where it is installed, and against the few routes of it that are used (`Stand`).
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from sqlalchemy import select, update

from core import jobs
from core.database.clock import db_now
from core.database.tables import WebhookDelivery
from core.egress import EgressRefused
from core.errors import NotFound
from core.jobs.records import NewArtifact, Point, Report
from core.mlflow import source
from core.webhooks import deliveries, endpoints
from modelpress.resources.webhooks import ENDINGS, MlflowTracker
from tests import mlflow_server
from tests.core.conftest import World, make_world
from tests.mlflow_server import Stand
from tests.results import summary
from tests.servers import wait_until
from tests.worker.delivering import LOOPBACK, delivering

MODEL = b"the bytes of a small network"


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.close()


@pytest.fixture(
    params=["stand", pytest.param("real", marks=pytest.mark.skipif(mlflow_server.PROGRAM is None, reason=mlflow_server.NEEDED))]
)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server without any run."""
    if request.param == "stand":
        yield request.getfixturevalue("stand").url
    else:
        with mlflow_server.real(tmp_path_factory.mktemp("mlflow")) as found:
            yield found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with delivering(tmp_path, join_seconds=30, webhook_lease_seconds=2, **LOOPBACK) as (service, _):
        yield make_world(service)


def track(world: World, url: str, **options: Any) -> str:
    with world.service.database.unit_of_work() as session:
        given = {"mlflow": MlflowTracker(**options), "events": ENDINGS, "credentials": "ada:secret"}
        return endpoints.create(session, world.service.settings, world.project_id, url=url, **given).id


def finish(world: World, *, names: tuple[str, ...] = ("",), points: int = 3, **spec: Any) -> str:
    """A job that succeeded with a model, a report and a series."""
    claim = world.running(**spec)
    files = [("model", "onnx", "model.onnx", MODEL), ("report", "json", "report.json", b"{}")]
    artifacts = [NewArtifact(kind, format, name, world.service.blobs.put_bytes(data)) for kind, format, name, data in files]
    report = Report(metrics=[Point("train.loss", 1 / (1 + step), step, step_index=0) for step in range(points)])
    with world.service.database.unit_of_work() as session:
        result = summary(names=names).model_dump(mode="json")
        jobs.finish(session, claim.job_id, claim.fence, outcome="no_constraints", result=result, artifacts=artifacts, report=report)
    return claim.job_id


def states(world: World) -> list[tuple[str, str | None]]:
    with world.service.database.reader() as session:
        return [(row.status, row.last_error) for row in session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id))]


def until_delivered(world: World, count: int = 1, seconds: float = 60) -> None:
    """Wait, letting the pauses between attempts pass at once."""

    def done() -> bool:
        with world.service.database.unit_of_work() as session:
            waiting = (WebhookDelivery.status == "pending", WebhookDelivery.last_error.is_not(None))
            session.execute(update(WebhookDelivery).where(*waiting).values(next_attempt_at=db_now(), last_error=None))
        if world.service.database.doorbell:
            world.service.database.doorbell("")
        return [status for status, _ in states(world)] == ["delivered"] * count

    wait_until(done, seconds)


def ask(url: str, path: str, /, **fields: Any) -> Any:
    """What the server says, as any client of it would read it."""
    body = json.dumps(fields.pop("body")).encode() if "body" in fields else None
    request = Request(f"{url}/api/2.0/mlflow/{path}?{urlencode(fields)}", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_a_job_becomes_one_run_with_a_version_of_a_model(world: World, url: str) -> None:
    """Written once, and again: there is one run, one version, and each file in its full length; and the file comes back by its URI."""
    webhook_id = track(world, url, experiment="compressions", registered_model="small digits")
    job_id = finish(world, names=("width 1.0", "width=0.5"), points=2500, labels={"team": "vision"})
    until_delivered(world)
    with world.service.database.unit_of_work() as session:
        session.execute(update(WebhookDelivery).values(status="pending", next_attempt_at=db_now(), delivered_at=None))
        (delivery,) = session.scalars(select(WebhookDelivery.id))
    until_delivered(world)
    experiment = ask(url, "experiments/get-by-name", experiment_name="compressions")["experiment"]["experiment_id"]
    wanted = {"experiment_ids": [experiment], "filter": f"tags.\"modelpress.job_id\" = '{job_id}'", "max_results": 10}
    (run,) = ask(url, "runs/search", body=wanted)["runs"]
    run_id = run["info"]["run_id"]
    versions = ask(url, "model-versions/search", filter=f"run_id = '{run_id}'", max_results="10")["model_versions"]
    (version,) = versions
    assert (version["name"], version["version"]) == ("small digits", "1")
    tags = {item["key"]: item["value"] for item in version["tags"]}
    assert tags["modelpress.model_id"] == world.model.id
    assert (tags["modelpress.model_sha256"], tags["modelpress.dataset_sha256"]) == (world.model.sha256, world.dataset.sha256)
    assert tags["modelpress.spec_hash"] == world.job(job_id).spec_hash
    files = ask(url, "artifacts/list", run_id=run_id)["files"] + ask(url, "artifacts/list", run_id=run_id, path="model")["files"]
    sizes = {item["path"]: item.get("file_size") for item in files if not item["is_dir"]}
    assert sizes["model/model.onnx"] == len(MODEL)
    assert set(sizes) == {"model/model.onnx", "model/MLmodel", "report.json", "spec.json"}
    server = source.Server(url)
    policy = world.service.settings.egress
    for uri in ("models:/small digits/1", f"runs:/{run_id}/model", f"runs:/{run_id}/model/model.onnx"):
        assert source.located(server, policy, f"mlflow:{uri}").url.endswith("/model/model.onnx")
    with pytest.raises(EgressRefused, match="no file there"):
        source.located(server, policy, f"mlflow:runs:/{run_id}")
    with world.service.database.reader() as session:
        tried = deliveries.attempts(session, delivery)
        assert [item.answer for item in tried] == [f"run {run_id}"] * 2
        assert endpoints.get(session, world.project_id, webhook_id).credentials == "ada:secret"
        assert "ada:" not in json.dumps(endpoints.body(endpoints.get(session, world.project_id, webhook_id)))


def test_what_a_run_says(world: World, stand: Stand) -> None:
    track(world, stand.url)
    job_id = finish(world, names=("width 1.0", "width=0.5"), points=2500, labels={"team": "vision"}, name="halved")
    until_delivered(world)
    (run,) = stand.runs.values()
    assert (run["status"], run["info"]["run_name"]) == ("FINISHED", "halved")
    assert run["params"]["steps.0.method"] == "magnitude_pruning"
    assert run["params"]["steps.0.sparsity"] == "0.5"
    values = {key: value for key, value, step, _ in run["metrics"] if step == 0}
    assert values["baseline/test.top1"] == values["settings/width_0.5/test.top1"] == 0.9
    assert (values["result/file_bytes"], values["baseline/file_bytes"], values["result/file_ratio"]) == (7, 100, pytest.approx(100 / 7))
    assert values["result/speedup/batch_1"] == 1.0
    series = sorted((step, value) for key, value, step, _ in run["metrics"] if key == "steps/0/train.loss")
    assert (series[0], series[-1], len(series) <= 1000) == ((0, 1.0), (2499, 1 / 2500), True)
    tags = run["tags"]
    assert tags["modelpress.label.team"] == "vision"
    assert tags["modelpress.outcome"] == "no_constraints"
    assert tags["modelpress.url"] == f"/v1/jobs/{job_id}"
    assert tags["modelpress.file.model/model.onnx"].startswith("/v1/artifacts/art_")
    assert run["inputs"][0]["dataset"]["name"] == "d"
    assert list(stand.models) == ["m"]
    assert {headers["Authorization"] for _, headers in stand.requests} == {"Basic YWRhOnNlY3JldA=="}


def test_a_job_without_a_result_is_a_run_without_a_version(world: World, stand: Stand) -> None:
    track(world, stand.url)
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.fail(session, claim.job_id, claim.fence, jobs.JobError.of("diverged", "user", "the loss is not finite"))
    other = world.submit()
    with world.service.database.unit_of_work() as session:
        jobs.cancel(session, world.project_id, other.id)
    until_delivered(world, 2)
    assert sorted(run["status"] for run in stand.runs.values()) == ["FAILED", "KILLED"]
    assert {run["tags"].get("modelpress.error_code") for run in stand.runs.values()} == {"diverged", None}
    assert stand.models == {}


def test_each_request_may_fail_and_there_is_still_one_run(world: World, stand: Stand) -> None:
    """Each in turn is done by the server and its answer lost, which is the worst that a connection does."""
    track(world, stand.url)
    finish(world)
    until_delivered(world)
    most = len(stand.requests)
    assert 10 < most < 40
    for place in range(most):
        stand.requests.clear()
        stand.fails_at = place
        job_id = finish(world)
        until_delivered(world, place + 2)
        assert [run["tags"]["modelpress.job_id"] for run in stand.runs.values()].count(job_id) == 1
        assert len(stand.models["m"]) == place + 2
    assert all(run["status"] == "FINISHED" for run in stand.runs.values())


def test_labels_say_which_jobs_are_written(world: World, stand: Stand) -> None:
    track(world, stand.url)
    track(world, stand.url, experiment="chosen", jobs="labelled")
    finish(world)
    finish(world, labels={"mlflow": "off"})
    finish(world, labels={"mlflow": "on"})
    until_delivered(world, 3)
    assert set(stand.experiments) == {"modelpress", "chosen"}
    assert len(stand.runs) == 3


def test_a_server_that_is_away_costs_a_job_nothing(world: World) -> None:
    track(world, f"http://127.0.0.1:{mlflow_server.free_port()}")
    started = time.monotonic()
    job_id = finish(world)
    assert world.job(job_id).status == "succeeded"
    wait_until(lambda: states(world)[0][1] is not None, 20)
    assert (states(world)[0][0], world.job(job_id).status) == ("pending", "succeeded")
    assert "does not answer" in (states(world)[0][1] or "")
    assert time.monotonic() - started < 20


def test_a_project_without_a_server_has_no_such_files(world: World) -> None:
    with world.service.database.reader() as session, pytest.raises(NotFound, match="no MLflow server"):
        source.server_of(session, world.project_id)
    for uri in ("mlflow:models:/a", "mlflow:models:/a/b/c", "mlflow:runs:/XYZ", "mlflow:other:/x"):
        with pytest.raises(EgressRefused, match="no URI of MLflow"):
            source.located(source.Server("http://127.0.0.1:1"), world.service.settings.egress, uri)
