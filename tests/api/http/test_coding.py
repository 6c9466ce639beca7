"""Packed answers: what is packed, under which tags, and that nothing else is."""

import gzip
import hashlib
import json
from typing import Any

import brotli
import httpx
import pytest

from api.http.coding import chosen
from api.http.content import disposition
from tests.api.conftest import Client, Server
from tests.api.test_artifacts import REPORT

UNPACK = {"br": brotli.decompress, "gzip": gzip.decompress}


def raw(client: Client, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """An answer, and its body as it came."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    with client.stream("GET", path, headers=named) as answer:
        return answer, b"".join(answer.iter_raw())


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("gzip, deflate, br", "br"),
        ("gzip", "gzip"),
        ("gzip;q=1, br;q=0.5", "gzip"),
        ("br;q=0, gzip;q=0", None),
        ("*", "br"),
        ("*;q=0", None),
        ("identity", None),
        ("deflate, zstd", None),
        ("gzip;q=x", None),
        ("", None),
        ("BR", "br"),
    ],
)
def test_which_coding(header: str, coding: str | None) -> None:
    assert chosen(header.encode()) == coding


@pytest.mark.parametrize("coding", ["br", "gzip"])
def test_documents_are_packed_each_under_its_own_tag(client: Client, spec: dict[str, Any], coding: str) -> None:
    job = client.job(spec)
    for path in (job["urls"]["self"], job["urls"]["self"], "/v1/methods", "/openapi.json", "/docs/swagger-ui.css"):
        plain, body = raw(client, path, accept_encoding="identity")
        packed, bytes_sent = raw(client, path, accept_encoding=coding)
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == coding
        assert "accept-encoding" in packed.headers["vary"]
        assert "accept-encoding" in plain.headers["vary"]
        assert len(bytes_sent) == int(packed.headers["content-length"]) < len(body)
        assert UNPACK[coding](bytes_sent) == body
        if "etag" in plain.headers:
            assert packed.headers["etag"] == f'{plain.headers["etag"][:-1]}-{coding}"'
            for tag in (plain.headers["etag"], packed.headers["etag"]):
                again, nothing = raw(client, path, accept_encoding=coding, if_none_match=tag)
                assert (again.status_code, nothing) == (304, b"")
            assert again.headers["etag"] == packed.headers["etag"]


def test_the_tag_of_a_packed_answer_names_the_state(client: Client, spec: dict[str, Any]) -> None:
    path = client.job(spec)["urls"]["self"]
    tag = client.get(path, headers={"Accept-Encoding": "br"}).headers["etag"]
    assert client.get(path, headers={"If-Match": tag}).status_code == 200
    client.post(f"{path}/cancel")
    assert client.get(path, headers={"If-Match": tag}).status_code == 412


@pytest.fixture
def done(client: Client, server: Server, spec: dict[str, Any], onnx_bytes: bytes) -> dict[str, Any]:
    from core.jobs import NewArtifact

    job = client.job(spec)
    weights = server.service.blobs.put_bytes(onnx_bytes * 40)
    report = server.service.blobs.put_bytes(REPORT)
    server.finish(
        job["id"], artifacts=[NewArtifact("model", "onnx", "model.onnx", weights), NewArtifact("report", "json", "report.json", report)]
    )
    return job


def test_reports_are_packed_and_files_streams_and_ranges_are_not(client: Client, done: dict[str, Any]) -> None:
    report = done["urls"]["report"]
    packed, content = raw(client, report, accept_encoding="br")
    assert (packed.headers["content-encoding"], brotli.decompress(content)) == ("br", REPORT)
    assert hashlib.sha256(REPORT).hexdigest() in packed.headers["etag"]
    import base64

    assert packed.headers["repr-digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"
    part, piece = raw(client, report, accept_encoding="br", range="bytes=10-19")
    assert (part.status_code, piece) == (206, REPORT[10:20])
    artifact = client.get(done["urls"]["artifacts"]).json()["data"][0]
    for path in (artifact["urls"]["content"], done["urls"]["stream"], f"/v1/jobs/{done['id']}/logs"):
        answer, _ = raw(client, path, accept_encoding="br, gzip")
        assert "content-encoding" not in answer.headers


def test_pages_are_packed_and_hide_the_tokens_of_their_forms(client: Client) -> None:
    answers = [raw(client, "/login", accept_encoding="gzip") for _ in range(2)]
    texts = [gzip.decompress(body).decode() for _, body in answers]
    assert all("<form" in text for text in texts)
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("name", "plain"), [("model.onnx", "model.onnx"), ('a"b\\c.onnx', "a_b_c.onnx"), ("naïve.pt", "naive.pt"), ("数据", "file")]
)
def test_names_of_files_are_said_twice(name: str, plain: str) -> None:
    said = disposition(name)
    assert said.startswith(f'attachment; filename="{plain}"; ')
    _, _, encoded = said.partition("filename*=utf-8''")
    assert httpx.URL(f"http://x/{encoded}").path == f"/{name}"


def test_an_error_may_be_packed_too(client: Client) -> None:
    steps = [{"method": "static_quantization", f"field{index}": 1} for index in range(40)]
    answer, body = raw(client, "/v1/nothing", accept_encoding="br")
    assert answer.headers.get("content-encoding") is None, "short ones are sent as they are"
    with client.stream("POST", "/v1/jobs", json={"steps": steps}, headers={"Accept-Encoding": "br"}) as answer:
        body = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "br"
    assert json.loads(brotli.decompress(body))["code"] == "spec_invalid"
