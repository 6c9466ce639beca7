"""Files that a URI names are fetched by the service, from public addresses and the networks that its operator named."""

import hashlib
from collections.abc import Callable, Iterator

import pytest

from tests.api.conftest import MAX_UPLOAD_BYTES, Client, Server, problem
from tests.listening import Listening, Quiet
from tests.mlflow_server import Stand


class Files:
    """Files by path on loopback."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        outer = self

        class Handler(Quiet):
            def do_GET(self) -> None:
                data = outer.content.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

        self._listening = Listening(Handler)
        self.url = self._listening.url

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.close()


def test_an_object_is_fetched_and_compared_with_its_hash(
    start: Callable[..., Server], files: Files, onnx_bytes: bytes, npz_bytes: bytes
) -> None:
    server = start(egress_networks=("127.0.0.1/32",), egress_plain_http=True, egress_s3_endpoint=files.url)
    with server.client("p") as client:
        _import(server, client, files, onnx_bytes, npz_bytes)


def _import(server: Server, client: Client, files: Files, onnx_bytes: bytes, npz_bytes: bytes) -> None:
    files.content |= {
        "/models/my%20nets/net.onnx": onnx_bytes,
        "/data/a.npz": npz_bytes,
        "/data/large": bytes(MAX_UPLOAD_BYTES + 1),
        "/data/pickle": b"\x80\x04K\x01.",
    }
    model = client.post("/v1/models", json={"uri": "s3://models/my%20nets/net.onnx", "sha256": hashlib.sha256(onnx_bytes).hexdigest()})
    assert model.status_code == 201, model.text
    assert (model.json()["name"], model.json()["format"]) == ("net.onnx", "onnx")
    assert client.get(model.json()["urls"]["content"]).content == onnx_bytes
    dataset = client.post("/v1/datasets", json={"uri": "s3://data/a.npz", "name": "digits", "metadata": {"labels": ["a", "b", "c"]}})
    assert dataset.status_code == 201, dataset.text
    assert (dataset.status_code, dataset.json()["name"], dataset.json()["metadata"]) == (201, "digits", {"labels": ["a", "b", "c"]})
    problem(client.post("/v1/models", json={"uri": "s3://models/none"}), 502, "egress_failed")
    problem(client.post("/v1/models", json={"uri": "s3://models/my%20nets/net.onnx", "sha256": "0" * 64}), 422, "digest_mismatch")
    problem(client.post("/v1/models", json={"uri": "s3://data/large"}), 413, "upload_too_large")
    problem(client.post("/v1/models", json={"uri": "s3://data/pickle"}), 422, "unsafe_format")
    problem(client.post("/v1/models", json={"uri": "s3://data/a.npz"}), 415, "unsupported_format")
    assert client.get("/v1/models").json()["data"][0]["id"] == model.json()["id"]
    assert not list(server.service.settings.staging_dir.glob("in-*"))


def test_a_model_of_an_mlflow_server_is_fetched_by_name(start: Callable[..., Server], onnx_bytes: bytes) -> None:
    """With what the server asks for, from the version of a registered model or from a run."""
    stand = Stand()
    try:
        stand.answer("POST", "/api/2.0/mlflow/registered-models/create", b'{"name": "digits"}')
        version = b'{"name": "digits", "run_id": "1", "source": "mlflow-artifacts:/1/ab/artifacts/model"}'
        stand.answer("POST", "/api/2.0/mlflow/model-versions/create", version)
        stand.files |= {"1/ab/artifacts/model/net.onnx": onnx_bytes, "1/ab/artifacts/model/MLmodel": b"flavors: {}"}
        server = start(egress_networks=("127.0.0.1/32",), egress_plain_http=True)
        with server.client("p") as client:
            problem(client.post("/v1/models", json={"uri": "mlflow:models:/digits/1"}), 404, "not_found")
            client.post("/v1/webhooks", json={"url": stand.url, "mlflow": {}, "credentials": "t0ken"})
            for uri in ("mlflow:models:/digits/1", "mlflow:models:/digits/1/net.onnx"):
                model = client.post("/v1/models", json={"uri": uri})
                assert (model.status_code, model.json()["sha256"]) == (201, hashlib.sha256(onnx_bytes).hexdigest()), model.text
            problem(client.post("/v1/models", json={"uri": "mlflow:models:/digits"}), 422, "egress_refused")
        assert {headers["Authorization"] for _, headers in stand.requests} == {"Bearer t0ken"}
    finally:
        stand.close()


@pytest.mark.parametrize(
    "uri",
    [
        "https://127.0.0.1/a",
        "https://localhost:8443/a",
        "https://[::ffff:169.254.169.254]/",
        "https://a:b@example.org/",
        "https://10.0.0.1:22/",
    ],
)
def test_addresses_that_are_not_public_are_refused(client: Client, uri: str) -> None:
    problem(client.post("/v1/models", json={"uri": uri}), 422, "egress_refused")


@pytest.mark.parametrize(
    "uri", ["http://example.org/a", "file:///etc/passwd", "ftp://x/y", "https://exa mple.org", "s3://", "https://" + "a" * 3000]
)
def test_other_uris_are_no_bodies(client: Client, uri: str) -> None:
    problem(client.post("/v1/datasets", json={"uri": uri}), 422, "invalid_body")
