"""Downloads where clients may go to the object store themselves."""

from collections.abc import Callable

import httpx
import pytest

from tests.api.conftest import Server


def test_only_what_the_object_store_can_answer_is_sent_there(
    start: Callable[..., Server], s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, onnx_bytes: bytes
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    server = start(blob_url="s3://modelpress/redirects", redirect_downloads=True)
    with server.client("here") as client:
        model = client.model(onnx_bytes)
        path, etag = f"/v1/models/{model['id']}/content", f'"{model["sha256"]}"'

        sent = client.get(path)
        assert sent.status_code == 302
        there = sent.headers["location"]
        assert there.startswith(s3["AWS_ENDPOINT_URL"])
        assert httpx.get(there).content == onnx_bytes
        assert client.get(path, headers={"Range": "bytes=1-3"}).status_code == 302
        assert httpx.get(there, headers={"Range": "bytes=1-3"}).content == onnx_bytes[1:4]

        # A URL is signed for GET alone, and the store has an ETag of its own.
        head = client.head(path)
        assert (head.status_code, head.headers["etag"], head.headers["content-length"]) == (200, etag, str(len(onnx_bytes)))
        assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
        assert client.get(path, headers={"If-Match": etag}).content == onnx_bytes
        assert client.get(path, headers={"If-Match": '"another"'}).status_code == 412
        part = client.get(path, headers={"If-Range": etag, "Range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, onnx_bytes[1:4])
        assert client.get(path, headers={"Range": f"bytes={len(onnx_bytes)}-"}).status_code == 416
