"""What jobs publish: artifacts, their bytes, the models made of them, and the report."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from core.jobs import NewArtifact
from tests.api.conftest import MODEL_INSPECTION, Client, Server, problem

REPORT = Path(__file__).with_name("report.json").read_bytes()
"""A report of a real job, under a hostile name."""


@pytest.fixture
def done(client: Client, server: Server, spec: dict[str, Any], onnx_bytes: bytes) -> dict[str, Any]:
    """A job that has published a model, a file of weights and its report."""
    job = client.job(spec)
    blobs = server.service.blobs
    artifacts = [
        NewArtifact("model", "onnx", "model.onnx", blobs.put_bytes(onnx_bytes), gzip_bytes=50, step_index=0, metrics={"test.top1": 0.97}),
        NewArtifact("model", "safetensors", "model.safetensors", blobs.put_bytes(b"weights")),
        NewArtifact("report", "json", "report.json", blobs.put_bytes(REPORT)),
    ]
    server.finish(job["id"], artifacts=artifacts)
    return client.get(job["urls"]["self"]).json()  # type: ignore[no-any-return]


def test_a_job_lists_what_it_published_in_order(client: Client, done: dict[str, Any], onnx_bytes: bytes) -> None:
    page = client.get(done["urls"]["artifacts"]).json()
    assert page["has_more"] is False
    assert [(item["kind"], item["format"]) for item in page["data"]] == [("model", "onnx"), ("model", "safetensors"), ("report", "json")]
    first = page["data"][0]
    assert first["sha256"] == hashlib.sha256(onnx_bytes).hexdigest()
    assert (first["size_bytes"], first["gzip_bytes"], first["step_index"]) == (len(onnx_bytes), 50, 0)
    assert first["metrics"] == {"test.top1": 0.97}
    assert first["job_id"] == done["id"]
    assert client.get(first["urls"]["self"]).json() == first


def test_an_artifact_is_downloaded_under_its_name(client: Client, done: dict[str, Any], onnx_bytes: bytes) -> None:
    first = client.get(done["urls"]["artifacts"]).json()["data"][0]
    answer = client.get(first["urls"]["content"])
    assert answer.content == onnx_bytes
    assert answer.headers["etag"] == f'"{first["sha256"]}"'
    assert answer.headers["content-disposition"] == "attachment; filename=\"model.onnx\"; filename*=utf-8''model.onnx"
    assert client.get(first["urls"]["content"], headers={"Range": "bytes=10-19"}).content == onnx_bytes[10:20]
    assert client.get(first["urls"]["content"], headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert client.head(first["urls"]["content"]).headers["content-length"] == str(len(onnx_bytes))


def test_a_queued_job_has_published_nothing(client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    assert client.get(job["urls"]["artifacts"]).json()["data"] == []
    body = problem(client.get(job["urls"]["report"]), 404, "not_found")
    assert "report" in body["detail"]


def test_an_artifact_becomes_a_model_that_knows_its_origin(
    client: Client, server: Server, done: dict[str, Any], spec: dict[str, Any]
) -> None:
    first = client.get(done["urls"]["artifacts"]).json()["data"][0]
    answer = client.post(f"/v1/artifacts/{first['id']}/promote", json={"name": "smaller"})
    assert answer.status_code == 201
    model = answer.json()
    assert answer.headers["location"] == f"/v1/models/{model['id']}"
    assert (model["name"], model["format"], model["sha256"], model["status"]) == ("smaller", "onnx", first["sha256"], "inspecting")
    assert model["lineage"] == {"artifact_id": first["id"], "job_id": done["id"], "model_id": spec["model"]}
    server.inspected(model["id"], MODEL_INSPECTION)
    client.delete(done["urls"]["self"])
    problem(client.get(first["urls"]["content"]), 404, "not_found")
    assert client.get(model["urls"]["content"]).status_code == 200
    assert client.post("/v1/jobs", json={**spec, "model": model["id"]}).status_code == 202


def test_only_models_are_promoted(client: Client, done: dict[str, Any]) -> None:
    artifacts = client.get(done["urls"]["artifacts"]).json()["data"]
    problem(client.post(f"/v1/artifacts/{artifacts[2]['id']}/promote"), 415, "unsupported_format")
    problem(client.post(f"/v1/artifacts/{artifacts[0]['id']}/promote", json={"nme": "x"}), 422, "invalid_body")
    metadata = {"metadata": {"architectur": "x"}}
    problem(client.post(f"/v1/artifacts/{artifacts[0]['id']}/promote", json=metadata), 422, "invalid_metadata")
    assert client.post(f"/v1/artifacts/{artifacts[0]['id']}/promote").status_code == 201


def test_the_report_comes_as_it_was_published(client: Client, done: dict[str, Any]) -> None:
    answer = client.get(done["urls"]["report"], headers={"Accept-Encoding": "identity"})
    assert answer.content == REPORT
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["etag"] == f'"{hashlib.sha256(REPORT).hexdigest()}"'
    assert client.get(done["urls"]["report"], headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_the_report_is_readable_and_harmless(client: Client, done: dict[str, Any]) -> None:
    page = client.get(f"/v1/jobs/{done['id']}/report.html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    assert json.loads(REPORT)["sentence"] in page.text
    assert "http" not in page.text.split("<style>")[0]
    text = client.get(f"/v1/jobs/{done['id']}/report.md")
    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "<script" not in text.text
    assert client.get(f"/v1/jobs/{done['id']}/report.md", headers={"If-None-Match": text.headers["etag"]}).status_code == 304
    problem(client.get(f"/v1/jobs/{done['id']}/report.pdf"), 404, "not_found")
