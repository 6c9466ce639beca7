"""Both clients against a real server that cuts connections off, loses answers and serves wrong bytes."""

import asyncio
import hashlib
import inspect
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelpress import ApiError, AsyncClient, Client, ConnectionFailed, TransferError, UploadInterrupted
from modelpress.client import wire
from tests.servers import free_port

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
        self.failures: list[int | None] = []
        """What the next POST and PUT requests come to: a status, or None for an answer that is lost after the work was done."""
        self.done: list[tuple[str, str, str | None]] = []
        """Method, path and idempotency key of every POST and PUT that did its work."""
        self.parts: dict[int, bytes] = {}


class Handler(BaseHTTPRequestHandler):
    """One download."""

    server: Store

    def do_GET(self) -> None:
        if self.path.startswith("/v1/uploads/"):
            content = json.dumps(self._upload()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
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

    def do_PUT(self) -> None:
        self._work()

    def do_POST(self) -> None:
        self._work()

    def _work(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        failure = self.server.failures.pop(0) if self.server.failures else 200
        if failure in (200, None):
            self.server.done.append((self.command, self.path, self.headers["Idempotency-Key"]))
            if self.command == "PUT":
                self.server.parts[int(self.path.rpartition("/")[2])] = body
        if failure is None:
            self.close_connection = True
            return
        content = json.dumps(self._upload() if failure == 200 else {"detail": "no"}).encode()
        self.send_response(failure)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _upload(self) -> dict[str, object]:
        """The upload as it stands: completed where that was asked for."""
        complete = self.path.endswith("/complete")
        whole = b"".join(self.server.parts[number] for number in sorted(self.server.parts))
        described = [
            {"number": number, "size_bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}
            for number, part in self.server.parts.items()
        ]
        return {
            "object": "upload",
            "id": "upl_1",
            "filename": None,
            "status": "completed" if complete else "open",
            "size_bytes": len(whole),
            "received_bytes": len(whole),
            "sha256": hashlib.sha256(whole).hexdigest() if complete else None,
            "parts": described,
            "created_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-02T00:00:00Z",
            "urls": {},
        }

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def store() -> Iterator[Store]:
    """A running server."""
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Both:
    """One of the two clients, called alike."""

    def __init__(self, url: str, *, asynchronous: bool) -> None:
        self.url, self.asynchronous = url, asynchronous

    def __call__(self, path: str, *arguments: Any, **options: Any) -> Any:
        """The result of a method such as `uploads.send`."""
        if not self.asynchronous:
            with Client(self.url, retries=3) as client:
                return _method(client, path)(*arguments, **options)

        async def call() -> Any:
            async with AsyncClient(self.url, retries=3) as client:
                return await _method(client, path)(*arguments, **options)

        return asyncio.run(call())


def _method(client: Any, path: str) -> Any:
    for name in path.split("."):
        client = getattr(client, name)
    return client


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def call(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Both:
    """Calls a method of the server's client, and waits little between attempts."""
    monkeypatch.setattr(wire, "_FIRST_PAUSE_SECONDS", 0.01)
    return Both(f"http://127.0.0.1:{store.server_port}", asynchronous=request.param)


def test_a_download_that_is_cut_off_goes_on(store: Store, call: Both, tmp_path: Path) -> None:
    store.cut_after = 1_000_001
    call("save", "/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert store.ranges == [None, "bytes=1000001-", "bytes=2000002-"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_empty_file_arrives(store: Store, call: Both, tmp_path: Path) -> None:
    store.content, store.etag = b"", f'"{hashlib.sha256(b"").hexdigest()}"'
    call("save", "/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_service_that_forgets_ranges_sends_all_again(store: Store, call: Both, tmp_path: Path) -> None:
    store.cut_after, store.ignore_ranges = 2_000_000, True
    with pytest.raises(TransferError, match="cut off after 2000000 of 3000000 bytes"):
        call("save", "/x", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_do_not_stay(store: Store, call: Both, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"what was here")
    store.content = CONTENT[:5] + b"?" + CONTENT[6:]
    with pytest.raises(TransferError, match="announced was"):
        call("save", "/x", tmp_path / "file")
    store.etag = '"7"'  # no hash: that of the artifact's description counts
    with pytest.raises(TransferError, match="announced was"):
        call("artifacts.download", "art_1", tmp_path / "file", sha256=ETAG.strip('"'))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"what was here"}


def test_a_file_that_is_damaged_in_the_store_is_refused(store: Store, call: Both, tmp_path: Path) -> None:
    store.cut_after, store.refuse_after = 1_500_000, 1_000_000
    with pytest.raises(ApiError, match="500"):
        call("save", "/x", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_without_a_digest_is_taken_as_it_is(store: Store, call: Both, tmp_path: Path) -> None:
    store.etag = '"7"'
    call("save", "/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts and a bit."""
    monkeypatch.setattr(wire, "PART_BYTES", 1_000_000)
    file = tmp_path / "large.npz"
    file.write_bytes(CONTENT + b"!")
    return file


def test_parts_are_sent_again_until_they_are_there(store: Store, call: Both, large: Path) -> None:
    """Lost answers, 503 and all: what arrives is the file, and the service is asked no more often than it takes."""
    store.failures = [200, None, 503, 200, 502, 200, 200, None, 200]
    sent = call("uploads.send", large)
    assert b"".join(store.parts[number] for number in sorted(store.parts)) == large.read_bytes()
    assert sent.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    assert store.failures == []
    assert [path.rpartition("/")[2] for method, path, _ in store.done if method == "PUT"] == ["1", "1", "2", "3", "4", "4"]


def test_an_upload_that_was_given_up_goes_on_later(store: Store, call: Both, large: Path) -> None:
    """The error carries the id; what has arrived is not sent again, and a part that differs is."""
    store.failures = [200, 200, 200, *[None] * 4]
    with pytest.raises(UploadInterrupted) as interrupted:
        call("uploads.send", large)
    assert interrupted.value.upload_id == "upl_1"
    assert sorted(store.parts) == [1, 2, 3]
    store.parts[2] = b"damaged"
    store.done.clear()
    call("uploads.send", large, upload_id="upl_1")
    assert [path.rpartition("/")[2] for method, path, _ in store.done] == ["2", "4", "complete"]
    assert b"".join(store.parts[number] for number in sorted(store.parts)) == large.read_bytes()


def test_what_may_not_be_repeated_is_not(store: Store, call: Both) -> None:
    """A POST without a key whose answer is lost was perhaps done: the caller has to know."""
    store.failures = [None]
    with pytest.raises(ConnectionFailed):
        call("request", "POST", "/v1/anything", document={})
    store.failures = [503]
    with pytest.raises(ApiError):
        call("request", "POST", "/v1/anything", document={})
    assert len(store.done) == 1


def test_a_repeated_request_keeps_its_key(store: Store, call: Both) -> None:
    """So that the service does it once."""
    store.failures = [None, 503, None, 200]
    call("request", "POST", "/v1/anything", document={}, headers={"Idempotency-Key": "k"})
    assert [key for _, _, key in store.done] == ["k"] * 3
    store.done.clear()
    store.failures = [None, None]
    with pytest.raises(ValidationError):  # the answer is no job
        call("jobs.create", {"model": "mdl_1"})
    assert len({key for _, _, key in store.done}) == 1
    assert len(store.done) == 3


def test_attempts_end(store: Store, call: Both) -> None:
    store.failures = [503] * 10
    with pytest.raises(ApiError):
        call("request", "PUT", "/v1/anything/1", content=b"")
    assert len(store.failures) == 10 - 4


def test_nobody_there_is_an_os_error(tmp_path: Path) -> None:
    with Client(f"http://127.0.0.1:{free_port()}", retries=0) as client, pytest.raises(OSError, match="ConnectError of GET"):
        client.version()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TransferError):
        wire.inside(tmp_path, name)


def test_the_two_clients_are_alike() -> None:
    """Every part has the same methods with the same parameters, and the written one is fresh."""
    for part in (None, "models", "datasets", "uploads", "jobs", "templates", "artifacts", "webhooks"):
        both = [client if part is None else getattr(client, part) for client in (Client("http://h"), AsyncClient("http://h"))]
        methods = [
            {
                name: list(inspect.signature(value).parameters)
                for name, value in inspect.getmembers(item, callable)
                if not name.startswith("_")
            }
            for item in both
        ]
        methods[1] = {name.replace("aclose", "close"): parameters for name, parameters in methods[1].items()}
        assert methods[0] == methods[1]


def test_the_client_loads_neither_torch_nor_the_service() -> None:
    """And the runtime loads no client."""
    code = (
        "import sys, modelpress; modelpress.Client('http://h'); import modelpress.runtime\n"
        "print(sorted({'torch', 'onnx', 'fastapi', 'sqlalchemy', 'core', 'api', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    code = "import sys, modelpress.runtime; print(sorted({'httpx', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
