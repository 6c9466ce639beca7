"""What every answer has, whatever was asked."""

from typing import Any

import pytest

from core.library import models
from tests.api.conftest import Client, problem


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/models/", 404, "not_found"),
        ("PATCH", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0", 422, "invalid_parameter"),
        ("GET", "/v1/jobs?limit=ten", 422, "invalid_parameter"),
        ("GET", "/v1/jobs?limits=10", 422, "invalid_parameter"),
        ("GET", "/v1/methods/nothing", 404, "not_found"),
        ("POST", "/v1/jobs", 400, "malformed_request"),
    ],
)
def test_every_error_is_a_problem(client: Client, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    body = problem(answer, status, code)
    if status == 405:
        assert answer.headers["allow"]
    if status == 422:
        assert body["errors"][0]["pointer"].startswith("/query/")


def test_a_failure_inside_says_nothing_of_the_inside(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("password=hunter2 at /srv/secret")

    monkeypatch.setattr(models, "search", broken)
    answer = client.get("/v1/models")
    problem(answer, 500, "internal_error")
    assert "hunter2" not in answer.text
    assert "/srv" not in answer.text
    assert client.get("/v1/datasets").status_code == 200


def test_a_commit_that_fails_is_no_success(client: Client, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from core.database.db import Session

    def broken(_: Session) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Session, "commit", broken)
    problem(client.delete(f"/v1/models/{spec['model']}"), 500, "internal_error")
    problem(client.post("/v1/jobs", json=spec), 500, "internal_error")
    monkeypatch.undo()
    assert client.get(f"/v1/models/{spec['model']}").status_code == 200
    assert client.get("/v1/jobs").json()["data"] == []


def test_request_ids(client: Client) -> None:
    made = {client.get("/v1/jobs").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert all(name.startswith("req_") for name in made)
    assert client.get("/v1/jobs", headers={"X-Request-Id": "build-1234.5_a"}).headers["x-request-id"] == "build-1234.5_a"
    for strange in ("a b c d e f g", "x" * 200, "short", 'quote"quote'):
        assert client.get("/v1/jobs", headers={"X-Request-Id": strange}).headers["x-request-id"].startswith("req_")
    assert problem(client.get("/v1/nothing", headers={"X-Request-Id": "trace-000001"}), 404, "not_found")["request_id"] == "trace-000001"


def test_security_headers_are_on_every_answer(client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    for path in ("/livez", "/v1/jobs", job["urls"]["self"], "/v1/nothing", "/docs", "/v1/models?limit=0"):
        for _ in range(2):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert len(headers.get_list("content-security-policy")) == 1


@pytest.mark.parametrize("path", ["/livez", "/v1/jobs", "/v1/methods", "/v1/nothing", "/openapi.json"])
def test_head_answers_like_get_without_a_body(client: Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    if path != "/v1/nothing":
        assert head.headers["content-length"] == got.headers["content-length"]


def test_head_of_a_job_and_of_a_stream(client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    for _ in range(2):
        head = client.head(job["urls"]["self"], headers={"Accept-Encoding": "identity"})
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", '"1"')
    stream = client.head(job["urls"]["stream"])
    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")


def test_times_are_rfc_3339_in_utc(client: Client, spec: dict[str, Any]) -> None:
    from datetime import datetime

    job = client.job(spec)
    assert job["created_at"].endswith("Z")
    assert datetime.fromisoformat(job["created_at"]).utcoffset() is not None
