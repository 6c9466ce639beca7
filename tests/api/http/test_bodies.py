"""Bodies come last: after the key, after its scope, and within a bound; none is read whole to be refused."""

import asyncio
import json
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.http import beside
from api.http.beside import beside as run_beside
from core.errors import Unavailable
from tests.api.conftest import Client, Server, problem
from tests.api.test_access import EXAMPLES, PROTECTED, _path, _scopes

FILES = {"/v1/models", "/v1/datasets", "/v1/uploads/{upload_id}/parts/{number}"}
"""Routes whose body is a file."""
ANNOUNCED_BYTES = 100 * 2**20


def announce(server: Server, token: str, method: str, path: str, content_type: str) -> tuple[int, dict[str, Any]]:
    """Status and problem of a request that announces 100 MiB and sends none of them: who waits for the body does not answer."""
    host = urlsplit(server.url).netloc
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: {content_type}\r\n"
    address, _, port = host.partition(":")
    with socket.create_connection((address, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {ANNOUNCED_BYTES}\r\nConnection: close\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            length = 0
            while (line := answer.readline().strip().lower()) != b"":
                length = int(line.split(b":")[1]) if line.startswith(b"content-length:") else length
            return status, json.loads(answer.read(length) or b"{}")


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
def test_a_key_without_the_scope_is_refused_before_the_body_is_read(server: Server, content_type: str) -> None:
    token = server.key("bodies", scopes=[])
    walked = 0
    for method, path, route in PROTECTED:
        if _scopes(route):
            walked += 1
            status, found = announce(server, token, method, _path(path, EXAMPLES), content_type)
            assert (status, found["code"]) == (403, "scope_missing"), path
    assert walked > 25


def test_nobody_has_more_of_a_document_read_than_a_document_may_have(server: Server) -> None:
    token = server.key("bodies")
    walked = set()
    for method, path, route in PROTECTED:
        if method in ("POST", "PUT", "PATCH") and path not in FILES and "complete" not in path and "admin" not in _scopes(route):
            walked.add(path)
            status, found = announce(server, token, method, _path(path, EXAMPLES), "application/json")
            assert (status, found["code"]) == (413, "request_too_large"), path
    assert {"/v1/uploads", "/v1/artifacts/{artifact_id}/promote", "/v1/jobs", "/v1/jobs/{job_id}/retry"} <= walked


def test_documents_in_the_place_of_files_are_bounded_too(server: Server) -> None:
    token = server.key("bodies")
    for path in ("/v1/models", "/v1/datasets"):
        assert announce(server, token, "POST", path, "application/json")[0] == 413
        assert announce(server, token, "POST", path, "application/octet-stream")[0] == 413  # the tests' server takes files of 8 MiB


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/validate"])
def test_an_answer_to_a_spec_of_nonsense_stays_short(client: Client, path: str) -> None:
    answer = client.post(path, json={f"field_{number}": number for number in range(9_000)})
    assert answer.status_code in (200, 422)
    errors = answer.json()["errors"]
    assert len(errors) == 100
    assert errors[-1]["code"] == "more_problems"
    assert len(answer.content) < 64 * 1024


def test_many_unknown_parameters_are_counted(client: Client) -> None:
    found = problem(client.get("/v1/models?" + "&".join(f"p{number}=1" for number in range(2000))), 422, "invalid_parameter")
    assert len(found["errors"]) == 100
    assert found["errors"][-1]["detail"] == "1901 further problems are not listed"


def test_empty_bodies_and_yaml_are_fields_as_well(client: Client) -> None:
    assert client.post("/v1/uploads").status_code == 201
    answer = client.post("/v1/uploads", content=b"filename: a.onnx", headers={"content-type": "application/yaml"})
    assert answer.json()["filename"] == "a.onnx"
    found = problem(client.post("/v1/uploads", json={"filenam": "a"}), 422, "invalid_body")
    assert found["errors"][0]["pointer"] == "/filenam"
    problem(client.post("/v1/uploads", content=b"{", headers={"content-type": "application/json"}), 400, "malformed_request")
    problem(client.post("/v1/uploads", content=b"null", headers={"content-type": "application/json"}), 422, "invalid_body")


def test_nobody_waits_for_a_document_longer_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "DEADLINE_SECONDS", 0.05)
    release = threading.Event()

    async def ask() -> None:
        with pytest.raises(Unavailable) as refused:
            await run_beside(release.wait, 10)
        assert refused.value.retry_after_seconds == 5
        release.set()

    asyncio.run(ask())
