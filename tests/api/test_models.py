"""Models over HTTP: upload, look at, download, delete; and everything that must be refused without a trace."""

import base64
import contextlib
import hashlib
import io
import json
import pickle
import socket
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import MAX_UPLOAD_BYTES, MODEL_INSPECTION, Client, Server, npz, problem
from tests.plain import ApiError
from tests.plain import Client as Uploader


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/dev/null",))


def _bomb() -> bytes:
    """A dataset of 96 MiB of zeros in a tenth of a MiB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (96 * 2**20,)})
        with archive.open("x_train.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range(96):
                member.write(bytes(2**20))
    return file.getvalue()


def test_an_uploaded_model_is_described_and_comes_back_byte_for_byte(client: Client, onnx_bytes: bytes) -> None:
    answer = client.post("/v1/models", params={"name": "digits", "format": "onnx"}, content=onnx_bytes)
    assert answer.status_code == 201
    model = answer.json()
    assert answer.headers["location"] == f"/v1/models/{model['id']}" == model["urls"]["self"]
    assert (model["name"], model["format"], model["status"]) == ("digits", "onnx", "inspecting")
    assert model["size_bytes"] == len(onnx_bytes)
    assert model["sha256"] == hashlib.sha256(onnx_bytes).hexdigest()
    assert client.get(model["urls"]["self"]).json() == model
    assert client.get(model["urls"]["content"]).content == onnx_bytes


def test_name_and_format_may_be_left_out(client: Client, onnx_bytes: bytes) -> None:
    model = client.post("/v1/models", content=onnx_bytes).json()
    assert model["format"] == "onnx"
    assert model["name"] == model["sha256"][:12]


def test_a_body_without_a_length_is_received_in_chunks(client: Client, onnx_bytes: bytes) -> None:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(onnx_bytes), 7):
            yield onnx_bytes[start : start + 7]

    answer = client.post("/v1/models", content=chunks())
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.json()["sha256"] == hashlib.sha256(onnx_bytes).hexdigest()


def test_the_same_bytes_are_stored_once(client: Client, stranger: Client, server: Server, onnx_bytes: bytes) -> None:
    client.model(onnx_bytes)
    before = server.files()
    stranger.model(onnx_bytes)
    assert server.files() == before


def test_metadata_is_kept_as_declared(client: Client, onnx_bytes: bytes) -> None:
    metadata = {"task": "image_classification", "labels": ["zero", "one"], "input_specs": [{"name": "input", "shape": ["batch", 4]}]}
    assert client.model(onnx_bytes, metadata=json.dumps(metadata))["metadata"] == metadata


@pytest.mark.parametrize(
    ("metadata", "pointer", "hint"),
    [
        ('{"architectur": "resnet20"}', "/metadata/architectur", "did you mean 'architecture'?"),
        ('{"labels": "zero"}', "/metadata/labels", None),
        ('{"input_specs": [{"name": "x", "shape": [-1]}]}', "/metadata/input_specs/0/shape/0", None),
        ("[]", "/metadata", None),
    ],
)
def test_metadata_that_is_wrong_is_pointed_at(client: Client, onnx_bytes: bytes, metadata: str, pointer: str, hint: str | None) -> None:
    body = problem(client.post("/v1/models", params={"metadata": metadata}, content=onnx_bytes), 422, "invalid_metadata")
    assert body["errors"][0]["pointer"].startswith(pointer)
    assert body["errors"][0].get("hint") == hint


def test_metadata_that_is_not_json_is_malformed(client: Client, onnx_bytes: bytes) -> None:
    problem(client.post("/v1/models", params={"metadata": "{"}, content=onnx_bytes), 400, "malformed_request")


_ONNX: Callable[[bytes], bytes] = lambda content: content  # noqa: E731 - cases are made from the valid file


@pytest.mark.parametrize(
    ("path", "make", "headers", "status", "code"),
    [
        ("/v1/models", lambda good: pickle.dumps(_Evil()), {}, 422, "unsafe_format"),
        ("/v1/models?format=onnx", lambda good: pickle.dumps(_Evil(), 0), {}, 422, "unsafe_format"),
        ("/v1/models?format=pt", lambda good: pickle.dumps({"weight": [1.0]}), {}, 422, "unsafe_format"),
        ("/v1/models", lambda good: b"", {}, 415, "unsupported_format"),
        ("/v1/models", lambda good: b"%PDF-1.7 " + good, {}, 415, "unsupported_format"),
        ("/v1/models", lambda good: b"\x1f\x8b" + good, {}, 415, "unsupported_format"),
        ("/v1/models", lambda good: good[:-1], {}, 422, "truncated_upload"),
        ("/v1/models", lambda good: good[: len(good) // 2], {}, 422, "truncated_upload"),
        ("/v1/models?format=safetensors", _ONNX, {}, 415, "unsupported_format"),
        ("/v1/models?format=tflite", _ONNX, {}, 415, "unsupported_format"),
        ("/v1/models?format=npz", _ONNX, {}, 415, "unsupported_format"),
        ("/v1/datasets", _ONNX, {}, 415, "unsupported_format"),
        ("/v1/models", lambda good: npz(x_train=np.zeros(3)), {}, 415, "unsupported_format"),
        ("/v1/datasets", lambda good: npz(x_train=np.array([{}, None])), {}, 422, "unsafe_format"),
        ("/v1/datasets", lambda good: npz(images=np.zeros(3)), {}, 422, "dataset_invalid"),
        ("/v1/datasets", lambda good: npz(x_train=np.zeros(300))[:-30], {}, 422, "truncated_upload"),
        ("/v1/datasets", lambda good: _bomb(), {}, 422, "decompression_limit_exceeded"),
        ("/v1/models", _ONNX, {"content-digest": f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"}, 422, "digest_mismatch"),
        ("/v1/models", _ONNX, {"content-digest": "sha-256=nonsense"}, 400, "malformed_request"),
        ("/v1/models", _ONNX, {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        ("/v1/models", _ONNX, {"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        ("/v1/models?nmae=x", _ONNX, {}, 422, "invalid_parameter"),
        ("/v1/models?name=", _ONNX, {}, 422, "invalid_parameter"),
        ("/v1/models", lambda good: good + bytes(MAX_UPLOAD_BYTES), {}, 413, "upload_too_large"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    client: Client, server: Server, onnx_bytes: bytes, path: str, make: Any, headers: dict[str, str], status: int, code: str
) -> None:
    before = server.files()
    problem(client.post(path, content=make(onnx_bytes), headers=headers), status, code)
    assert server.files() == before
    assert client.get("/v1/models").json()["data"] == []
    assert client.get("/v1/datasets").json()["data"] == []


def test_a_refused_pickle_comes_with_the_way_to_convert_it(client: Client) -> None:
    body = problem(client.post("/v1/models", content=pickle.dumps(_Evil())), 422, "unsafe_format")
    assert "torch.onnx.export" in body["hint"]


def test_an_architecture_is_a_model_without_weights(client: Client, server: Server) -> None:
    stated = {"name": "lenet_300_100", "params": {"num_classes": 3}}
    created = client.post("/v1/models", json={"name": "to train", "architecture": {**stated, "seed": 4}})
    assert created.status_code == 201, created.text
    model = created.json()
    assert (model["name"], model["format"], model["metadata"]) == ("to train", "architecture", {"architecture": stated})
    file = client.get(model["urls"]["content"])
    assert json.loads(file.content) == {**stated, "seed": 4}
    assert file.headers["content-disposition"].endswith("to%20train.json")
    again = client.post("/v1/models", params={"name": "as a file"}, content=file.content).json()
    assert (again["format"], again["sha256"], again["metadata"]) == ("architecture", model["sha256"], model["metadata"])
    short = client.post("/v1/models", json={"architecture": "lenet_300_100"}).json()
    assert short["metadata"] == {"architecture": {"name": "lenet_300_100"}}


def test_an_architecture_that_is_not_builtin_is_refused_without_a_trace(client: Client, server: Server) -> None:
    before = client.get("/v1/models").json()["data"][:1]
    found = problem(client.post("/v1/models", json={"architecture": {"name": "lenet_300_10"}}), 422, "architecture_invalid")
    assert "lenet_300_100" in found["hint"]
    problem(client.post("/v1/models", json={"architecture": {"name": "lenet_5", "weights": 1}}), 422, "architecture_invalid")
    problem(client.post("/v1/models", json={"architecture": "lenet_5", "upload_id": "upl_1"}), 422, "invalid_body")
    problem(client.post("/v1/datasets", json={"architecture": "lenet_5"}), 422, "invalid_body")
    problem(client.post("/v1/datasets", content=b'{"name": "lenet_5"}'), 415, "unsupported_format")
    contradiction = {"metadata": '{"architecture": "resnet20"}'}
    problem(client.post("/v1/models", params=contradiction, content=b'{"name": "lenet_5"}'), 422, "architecture_invalid")
    assert client.get("/v1/models").json()["data"][:1] == before


def test_weights_need_an_architecture_that_is_known(client: Client, server: Server) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    before = server.files()
    problem(client.post("/v1/models", content=content), 422, "architecture_invalid")
    body = problem(
        client.post("/v1/models", params={"metadata": '{"architecture": "resnet_20"}'}, content=content), 422, "architecture_invalid"
    )
    assert "resnet20" in body["hint"]
    assert server.files() == before
    assert client.post("/v1/models", params={"metadata": '{"architecture": "resnet20"}'}, content=content).status_code == 201


def test_the_right_digest_is_accepted(client: Client, onnx_bytes: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(onnx_bytes).digest()).decode()
    assert client.post("/v1/models", content=onnx_bytes, headers={"content-digest": f"sha-256=:{digest}:"}).status_code == 201


def _raw(server: Server, head: str) -> socket.socket:
    address = urllib.parse.urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=10)
    connection.sendall(head.replace("\n", "\r\n").encode())
    return connection


def _head(client: Client, length: int, extra: str = "") -> str:
    return f"POST /v1/models HTTP/1.1\nHost: x\nAuthorization: Bearer {client.token}\nContent-Length: {length}\n{extra}\n"


def test_a_length_that_is_too_large_is_refused_before_the_bytes_are_sent(client: Client, server: Server) -> None:
    with _raw(server, _head(client, 2**40, "Expect: 100-continue\n")) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_stream_that_grows_too_large_is_cut_off(client: Client, server: Server) -> None:
    before = server.files()
    head = f"POST /v1/models HTTP/1.1\nHost: x\nAuthorization: Bearer {client.token}\nTransfer-Encoding: chunked\n\n"
    piece = ((1000).to_bytes(8, "little") + b"{").ljust(2**20, b" ")
    with _raw(server, head) as connection:
        answer = b""
        while not answer:
            connection.settimeout(10)
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")
    assert server.files() == before


def test_a_client_that_goes_away_leaves_nothing_behind(client: Client, server: Server, onnx_bytes: bytes) -> None:
    before = server.files()
    with _raw(server, _head(client, 5 * 2**20)) as connection:
        connection.sendall(onnx_bytes + bytes(4 * 2**20))
        _until(lambda: server.files() != before, "nothing was staged")
    _until(lambda: server.files() == before, "the staged file stayed")
    assert client.get("/v1/models").json()["data"] == []


def _until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def test_a_full_disk_is_told_at_once(start: Callable[..., Server], onnx_bytes: bytes) -> None:
    full = start(min_free_bytes=2**60)
    with full.client("p") as client:
        problem(client.post("/v1/models", content=onnx_bytes), 507, "storage_full")
        problem(client.post("/v1/models", content=iter([onnx_bytes])), 507, "storage_full")
    assert full.files() == set()


@pytest.mark.parametrize(
    ("settings", "status", "code"),
    [
        ({"min_free_bytes": 2**60, "max_upload_bytes": 2**40}, 507, "storage_full"),
        ({"max_upload_bytes": 2**20}, 413, "upload_too_large"),
        ({"auth": "required"}, 401, "unauthenticated"),
    ],
)
def test_our_own_client_hears_why_a_large_file_is_refused(
    start: Callable[..., Server], tmp_path: Path, settings: dict[str, Any], status: int, code: str
) -> None:
    """The service answers and hangs up long before it has all bytes."""
    file = tmp_path / "large.onnx"
    with file.open("wb") as stream:
        stream.truncate(256 << 20)
    server = start(**settings)
    with pytest.raises(ApiError) as refused:
        Uploader(server.url, None if status == HTTPStatus.UNAUTHORIZED else server.key("p")).upload("models", file, "onnx")
    assert (refused.value.status, refused.value.code) == (status, code)
    assert server.files() == set()


def test_a_project_beyond_its_share_is_told_so(server: Server, onnx_bytes: bytes) -> None:
    from core.access import projects

    with server.service.database.unit_of_work() as session:
        projects.create(session, "small", max_stored_bytes=len(onnx_bytes))
    with server.client("small") as client:
        client.model(onnx_bytes)
        problem(client.post("/v1/models", content=onnx_bytes), 429, "quota_exceeded")


def test_lists_page_from_the_newest(client: Client, onnx_bytes: bytes) -> None:
    made = [client.model(onnx_bytes, name=f"m{index}")["id"] for index in range(5)]
    seen: list[str] = []
    url: str | None = "/v1/models?limit=2"
    while url:
        answer = client.get(url)
        page = answer.json()
        assert page["object"] == "list"
        assert page["has_more"] == ("next" in answer.links) == (page["next_cursor"] is not None)
        seen += [item["id"] for item in page["data"]]
        url = answer.links["next"]["url"] if "next" in answer.links else None
    assert seen == made[::-1]
    problem(client.get("/v1/models", params={"after": "no cursor"}), 400, "malformed_request")
    problem(client.get("/v1/models", params={"limit": 101}), 422, "invalid_parameter")


def test_downloads_answer_ranges_and_conditions(client: Client, onnx_bytes: bytes) -> None:
    path = client.model(onnx_bytes, name="a/b é")["urls"]["content"]
    sha256 = hashlib.sha256(onnx_bytes).hexdigest()
    etag = f'"{sha256}"'
    whole = client.get(path)
    assert whole.headers["etag"] == etag
    assert whole.headers["content-length"] == str(len(onnx_bytes))
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["repr-digest"] == f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    assert whole.headers["content-disposition"] == "attachment; filename=\"a_b e.onnx\"; filename*=utf-8''a%2Fb%20%C3%A9.onnx"

    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(onnx_bytes))

    part = client.get(path, headers={"Range": "bytes=3-9"})
    assert (part.status_code, part.content) == (206, onnx_bytes[3:10])
    assert part.headers["content-range"] == f"bytes 3-9/{len(onnx_bytes)}"
    assert client.get(path, headers={"Range": "bytes=-4"}).content == onnx_bytes[-4:]
    assert client.get(path, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
    assert client.get(path, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).content == onnx_bytes

    beyond = client.get(path, headers={"Range": f"bytes={len(onnx_bytes)}-"})
    problem(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(onnx_bytes)}"

    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert client.get(path, headers={"If-None-Match": '"x", *'}).status_code == 200
    assert client.get(path, headers={"If-Match": etag}).status_code == 200
    problem(client.get(path, headers={"If-Match": '"other"'}), 412, "etag_mismatch")


def test_several_ranges_come_as_parts(client: Client, onnx_bytes: bytes) -> None:
    import email

    path = client.model(onnx_bytes)["urls"]["content"]
    answer = client.get(path, headers={"Range": "bytes=0-1,10-14"})
    assert answer.status_code == 206
    assert int(answer.headers["content-length"]) == len(answer.content)
    message = email.message_from_bytes(f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content)
    parts = message.get_payload()
    assert [part["content-range"] for part in parts] == [f"bytes 0-1/{len(onnx_bytes)}", f"bytes 10-14/{len(onnx_bytes)}"]  # type: ignore[union-attr]
    assert [part.get_payload(decode=True) for part in parts] == [onnx_bytes[0:2], onnx_bytes[10:15]]  # type: ignore[union-attr]


def test_damaged_bytes_are_never_served_as_whole(client: Client, server: Server) -> None:
    content = npz(
        x_train=np.random.default_rng(5).bytes(3 * 2**20) and np.random.default_rng(5).integers(0, 255, 3 * 2**20, dtype=np.uint8)
    )
    path = client.dataset(content)["urls"]["content"]
    sha256 = hashlib.sha256(content).hexdigest()
    stored = server.service.settings.data_dir / "blobs" / "sha256" / sha256[:2] / sha256
    damaged = bytearray(stored.read_bytes())
    damaged[2**20 + 5] ^= 1
    stored.write_bytes(damaged)
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed"):
        client.get(path)
    assert client.get(path, headers={"Range": "bytes=0-99"}).content == content[:100]
    stored.write_bytes(content)


def test_damage_at_the_beginning_is_said_before_the_first_byte(client: Client, server: Server) -> None:
    content = npz(x_train=np.random.default_rng(6).integers(0, 255, 3000, dtype=np.uint8))
    path = client.dataset(content)["urls"]["content"]
    sha256 = hashlib.sha256(content).hexdigest()
    stored = server.service.settings.data_dir / "blobs" / "sha256" / sha256[:2] / sha256
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with server.client("operators", scopes=["admin"]) as admin:
        before = _counted(admin)
        for headers in ({}, {"Range": "bytes=0-0"}, {"Range": "bytes=0-1,5-6"}):
            answer = client.get(path, headers=headers)
            assert "upload the file again" in problem(answer, 500, "checksum_mismatch")["hint"]
            assert "accept-ranges" not in answer.headers
        assert _counted(admin) == before + 3
    stored.unlink()
    problem(client.get(path), 500, "checksum_mismatch")
    stored.write_bytes(content)
    assert client.get(path).content == content


def _counted(admin: Client) -> float:
    """Downloads that met damage."""
    lines = admin.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("modelpress_checksum_mismatches_total")))


def test_layers_come_from_the_inspection(client: Client, server: Server, onnx_bytes: bytes) -> None:
    model = client.model(onnx_bytes)
    waiting = client.get(model["urls"]["layers"])
    problem(waiting, 409, "not_inspected")
    assert waiting.headers["retry-after"] == "1"
    server.inspected(model["id"], MODEL_INSPECTION)
    assert client.get(model["urls"]["layers"]).json()["data"] == MODEL_INSPECTION["layers"]
    ready = client.get(model["urls"]["self"]).json()
    assert (ready["status"], ready["params_count"], ready["signature"]) == ("ready", 12, MODEL_INSPECTION["signature"])


def test_a_failed_inspection_says_why(client: Client, server: Server, onnx_bytes: bytes) -> None:
    model = client.model(onnx_bytes)
    error = {"code": "non_finite_weights", "category": "user", "message": "weights holds NaN", "hint": "train it again"}
    server.inspected(model["id"], None, error)
    found = client.get(model["urls"]["self"]).json()
    assert (found["status"], found["error"]["code"]) == ("invalid", "non_finite_weights")
    body = problem(client.get(model["urls"]["layers"]), 422, "non_finite_weights")
    assert body["hint"] == "train it again"


def test_a_model_that_a_job_reads_stays(client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    body = problem(client.delete(f"/v1/models/{spec['model']}"), 409, "resource_in_use")
    assert job["id"] in body["detail"]
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.delete(f"/v1/models/{spec['model']}").status_code == 204
    problem(client.get(f"/v1/models/{spec['model']}"), 404, "not_found")
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 200


def test_a_large_file_that_is_not_taken_is_refused_by_its_first_bytes(client: Client, server: Server) -> None:
    with _raw(server, _head(client, 6 * 2**20)) as connection:
        connection.sendall(pickle.dumps(_Evil()) + bytes(8192))
        assert connection.recv(4096).startswith(b"HTTP/1.1 422")


def test_a_list_of_models_shows_what_was_found_without_its_long_lists(client: Client, server: Server, onnx_bytes: bytes) -> None:
    model = client.model(onnx_bytes)
    server.inspected(model["id"], MODEL_INSPECTION | {"layers": [{"name": "n" * 1000}] * 10_000})
    answer = client.get("/v1/models")
    assert answer.json()["data"] == [client.get(model["urls"]["self"]).json()]
    assert answer.json()["data"][0]["params_count"] == 12
    assert len(answer.content) < 4000


def test_a_page_of_long_models_is_read_in_parts(client: Client, onnx_bytes: bytes) -> None:
    labels = {"labels": [f"class {number:06d} " + "x" * 20 for number in range(25_000)]}
    upload = client.post("/v1/uploads").json()
    client.put(f"{upload['urls']['self']}/parts/1", content=onnx_bytes)
    client.post(upload["urls"]["complete"])
    made = [client.post("/v1/models", json={"upload_id": upload["id"], "metadata": labels}).json()["id"] for _ in range(6)]
    seen, after = [], {}
    while True:
        answer = client.get("/v1/models", params={"limit": 100, **after})
        assert len(answer.content) < 5 * 2**20
        seen += [model["id"] for model in answer.json()["data"]]
        if not answer.json()["has_more"]:
            break
        after = {"after": answer.json()["next_cursor"]}
    assert seen == made[::-1]
