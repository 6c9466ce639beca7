"""The client against a real server that cuts connections off and serves wrong bytes."""

import hashlib
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.client import ApiError, Client, DownloadError

CONTENT = random.Random(0).randbytes(3_000_000)
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


class Store(ThreadingHTTPServer):
    """Serves `content` under `etag`; `cut_after` bytes of each answer it hangs up, and says in `ranges` what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, ETAG
        self.cut_after: int | None = None
        self.refuse_after = 1 << 60
        self.ignore_ranges = False
        self.ranges: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    """One download."""

    server: Store

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if wanted and (self.server.ignore_ranges or self.headers["If-Range"] != self.server.etag):
            wanted, start = None, 0
        if start >= self.server.refuse_after:
            body = b'{"code": "checksum_mismatch"}'
            self.send_response(500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        body = self.server.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.cut_after is None else body[: self.server.cut_after])

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def store() -> Iterator[Store]:
    """A running server."""
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(store: Store) -> Client:
    """Its client."""
    return Client(f"http://127.0.0.1:{store.server_port}")


def test_a_download_that_is_cut_off_goes_on(store: Store, client: Client, tmp_path: Path) -> None:
    store.cut_after = 1_000_001
    client.download("/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert store.ranges == [None, "bytes=1000001-", "bytes=2000002-"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_empty_file_arrives(store: Store, client: Client, tmp_path: Path) -> None:
    store.content, store.etag = b"", f'"{hashlib.sha256(b"").hexdigest()}"'
    client.download("/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_service_that_forgets_ranges_sends_all_again(store: Store, client: Client, tmp_path: Path) -> None:
    store.cut_after, store.ignore_ranges = 2_000_000, True
    with pytest.raises(DownloadError, match="cut off after 2000000 of 3000000 bytes"):
        client.download("/x", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_do_not_stay(store: Store, client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"what was here")
    store.content = CONTENT[:5] + b"?" + CONTENT[6:]
    with pytest.raises(DownloadError, match="announced was"):
        client.download("/x", tmp_path / "file")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"what was here"}


def test_a_file_that_is_damaged_in_the_store_is_refused(store: Store, client: Client, tmp_path: Path) -> None:
    store.cut_after, store.refuse_after = 1_500_000, 1_000_000
    with pytest.raises(ApiError, match="checksum_mismatch"):
        client.download("/x", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_without_a_digest_is_taken_as_it_is(store: Store, client: Client, tmp_path: Path) -> None:
    store.etag = '"7"'
    client.download("/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
