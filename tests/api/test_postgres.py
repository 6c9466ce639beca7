"""The same API over PostgreSQL, where it differs: text without NUL, strict types, sorting byte by byte."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.jobs import NewEvent, Point, Report
from tests.api.conftest import DATASET_INSPECTION, MODEL_INSPECTION, Client, Server, problem


@pytest.fixture
def client(start: Callable[..., Server], postgres_url: str) -> Iterator[Client]:
    with Client(start(auth="off", database_url=postgres_url), None) as opened:
        yield opened


def test_the_life_of_a_job(client: Client, onnx_bytes: bytes, npz_bytes: bytes) -> None:
    server = client.server
    model, dataset = client.model(onnx_bytes, name="größer 模型"), client.dataset(npz_bytes)
    server.inspected(model["id"], MODEL_INSPECTION)
    server.inspected(dataset["id"], DATASET_INSPECTION)
    assert client.get("/v1/models").json()["data"][0]["name"] == "größer 模型"
    spec = {"model": model["id"], "dataset": dataset["id"], "steps": [{"method": "magnitude_pruning"}], "labels": {"a": "b"}}
    assert client.post("/v1/jobs/validate", json=spec).json()["valid"] is True
    job = client.job(spec, **{"Idempotency-Key": "k"})
    assert client.job(spec, **{"Idempotency-Key": "k"})["id"] == job["id"]
    claim = server.claim(job["id"])
    points = [Point("train.loss", 1.0 / (step + 1), step) for step in range(100)]
    server.report(claim, Report(events=[NewEvent("phase", {"phase": "x"})], metrics=points, log="a line\n"))
    assert [event["type"] for event in client.get(job["urls"]["events"], params={"type": "phase"}).json()["data"]] == ["phase"]
    series = client.get(job["urls"]["metrics"], params={"max_points": 10}).json()["data"]
    assert series[0]["points"][-1] == [99, 0.01]
    assert client.get(job["urls"]["logs"]).text == "a line\n"
    assert client.get("/v1/jobs", params={"label": "a:b", "created_after": "2026-01-01T00:00:00Z"}).json()["data"][0]["id"] == job["id"]
    assert 'modelpress_jobs{queue="cpu",status="running"} 1.0' in client.get("/metrics").text
    assert client.post(job["urls"]["cancel"]).status_code == 202
    assert client.get("/readyz").json()["checks"]["database"]["status"] == "ok"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/models?name=a%00b", None),
        ("POST", "/v1/datasets?name=a%1bb", None),
        ("GET", "/v1/jobs?label=a%00", None),
        ("POST", "/v1/uploads", {"filename": "a\x00b"}),
        ("POST", "/v1/models", {"upload_id": "upl_1", "name": "\x00"}),
        ("POST", "/v1/artifacts/art_1/promote", {"name": "\x00"}),
    ],
)
def test_control_characters_are_refused_before_they_reach_a_database(client: Client, method: str, path: str, body: Any) -> None:
    answer = client.request(method, path, json=body) if body else client.request(method, path)
    assert answer.status_code in (400, 422), answer.text


def test_control_characters_inside_documents_are_refused_as_well(client: Client) -> None:
    problem(client.post("/v1/jobs", content=b'{"name": "\\u0000"}', headers={"content-type": "application/json"}), 400, "malformed_request")
    problem(client.post("/v1/models", params={"metadata": '{"labels": ["\\u0000"]}'}), 400, "malformed_request")
    surrogate = b'{"filename": "\\ud800"}'
    problem(client.post("/v1/uploads", content=surrogate, headers={"content-type": "application/json"}), 400, "malformed_request")
