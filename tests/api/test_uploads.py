"""Uploads in numbered parts: any order, again, resumed, joined into a model."""

import base64
import hashlib

import pytest

from tests.api.conftest import MAX_UPLOAD_BYTES, Client, Server, npz, problem


def _parts(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def test_parts_in_any_order_become_a_dataset(client: Client, server: Server, npz_bytes: bytes) -> None:
    sha256 = hashlib.sha256(npz_bytes).hexdigest()
    answer = client.post("/v1/uploads", json={"filename": "data.npz", "size_bytes": len(npz_bytes), "sha256": sha256})
    assert answer.status_code == 201
    path = answer.headers["location"]
    parts = _parts(npz_bytes, 100)
    for number in range(len(parts), 0, -1):
        part = client.put(f"{path}/parts/{number}", content=parts[number - 1])
        assert part.status_code == 200
        assert part.json() == {
            "number": number,
            "size_bytes": len(parts[number - 1]),
            "sha256": hashlib.sha256(parts[number - 1]).hexdigest(),
        }
    state = client.get(path).json()
    assert [part["number"] for part in state["parts"]] == list(range(1, len(parts) + 1))
    assert state["received_bytes"] == len(npz_bytes)
    done = client.post(f"{path}/complete").json()
    assert (done["status"], done["sha256"]) == ("completed", sha256)
    assert client.post(f"{path}/complete").json() == done
    made = client.post("/v1/datasets", json={"upload_id": done["id"], "name": "in parts", "metadata": {"preprocessing": {"scale": 2.0}}})
    assert made.status_code == 201, made.text
    assert (made.json()["sha256"], made.json()["name"], made.json()["format"]) == (sha256, "in parts", "npz")
    assert client.get(made.json()["urls"]["content"]).content == npz_bytes
    assert client.delete(path).status_code == 204
    assert client.get(made.json()["urls"]["content"]).content == npz_bytes


def test_a_part_that_is_sent_again_replaces_the_first(client: Client, onnx_bytes: bytes) -> None:
    path = client.post("/v1/uploads").headers["location"]
    half = len(onnx_bytes) // 2
    client.put(f"{path}/parts/1", content=b"wrong")
    client.put(f"{path}/parts/2", content=onnx_bytes[half:])
    client.put(f"{path}/parts/1", content=onnx_bytes[:half])
    done = client.post(f"{path}/complete").json()
    assert done["sha256"] == hashlib.sha256(onnx_bytes).hexdigest()
    assert client.post("/v1/models", json={"upload_id": done["id"]}).json()["format"] == "onnx"


def test_what_is_joined_is_looked_at_like_any_upload(client: Client) -> None:
    path = client.post("/v1/uploads").headers["location"]
    client.put(f"{path}/parts/1", content=b"\x80\x04")
    client.put(f"{path}/parts/2", content=b"K\x01.")
    done = client.post(f"{path}/complete").json()
    problem(client.post("/v1/models", json={"upload_id": done["id"]}), 422, "unsafe_format")
    problem(client.post("/v1/datasets", json={"upload_id": done["id"]}), 422, "unsafe_format")
    assert client.get("/v1/models").json()["data"] == []


def test_a_dataset_of_several_mebibytes_is_looked_at_where_it_is_stored(client: Client) -> None:
    import numpy as np

    content = npz(x_train=np.random.default_rng(1).integers(0, 255, (5, 2**20), dtype=np.uint8), y_train=np.arange(5))
    path = client.post("/v1/uploads").headers["location"]
    for number, part in enumerate(_parts(content, 2**20), 1):
        client.put(f"{path}/parts/{number}", content=part)
    done = client.post(f"{path}/complete").json()
    assert client.post("/v1/datasets", json={"upload_id": done["id"]}).status_code == 201


def test_errors(client: Client, stranger: Client, server: Server) -> None:
    path = client.post("/v1/uploads", json={"size_bytes": 10}).headers["location"]
    upload_id = path.rpartition("/")[2]
    problem(client.post(f"{path}/complete"), 409, "upload_incomplete")
    wrong = f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"
    before = server.files()
    problem(client.put(f"{path}/parts/1", content=b"12345", headers={"content-digest": wrong}), 422, "digest_mismatch")
    assert server.files() == before
    client.put(f"{path}/parts/2", content=b"12345")
    body = problem(client.post(f"{path}/complete"), 409, "upload_incomplete")
    assert "part 1" in body["detail"]
    problem(client.post("/v1/models", json={"upload_id": upload_id}), 409, "upload_incomplete")
    client.put(f"{path}/parts/1", content=b"1234")
    problem(client.post(f"{path}/complete"), 409, "upload_incomplete")
    problem(client.put(f"{path}/parts/0", content=b"x"), 404, "not_found")
    problem(stranger.put(f"{path}/parts/1", content=b"x"), 404, "not_found")
    problem(stranger.post("/v1/models", json={"upload_id": upload_id}), 404, "not_found")
    assert client.delete(path).status_code == 204
    problem(client.get(path), 404, "not_found")
    assert server.files() == before


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"upload": "upl_1"}, "/upload_id"), ({"upload_id": "mdl_1"}, "/upload_id"), ({"upload_id": "upl_1", "nme": "x"}, "/nme"), ([], "")],
)
def test_a_body_that_is_wrong_is_pointed_at(client: Client, body: object, pointer: str) -> None:
    found = problem(client.post("/v1/models", json=body), 422, "invalid_body")
    assert pointer in [error["pointer"] for error in found["errors"]]


def test_sizes_and_hashes_of_the_whole_are_held(client: Client) -> None:
    problem(client.post("/v1/uploads", json={"size_bytes": MAX_UPLOAD_BYTES + 1}), 413, "upload_too_large")
    path = client.post("/v1/uploads", json={"sha256": "0" * 64}).headers["location"]
    client.put(f"{path}/parts/1", content=b"12345")
    problem(client.post(f"{path}/complete"), 422, "digest_mismatch")


def test_together_parts_are_bounded_as_well(client: Client) -> None:
    path = client.post("/v1/uploads").headers["location"]
    assert client.put(f"{path}/parts/1", content=bytes(MAX_UPLOAD_BYTES - 1)).status_code == 200
    problem(client.put(f"{path}/parts/2", content=bytes(2)), 413, "upload_too_large")
    assert len(client.get(path).json()["parts"]) == 1
