"""Slow, silent and endless clients: cut off in time, told why where they can hear it, and never in anybody else's way."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from api.front import room
from api.front.room import Bounds
from tests.api.conftest import Server, npz

BOUNDS = Bounds(connections=20, head_bytes=8192, header_count=20, head_seconds=0.5, stall_seconds=0.5, unread_bytes=2**20)


@pytest.fixture
def strict(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that has little patience and few places."""
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.05)
    return start(BOUNDS, auth="off", max_upload_bytes=2**30)


def opened(server: Server) -> socket.socket:
    host, port = urlsplit(server.url).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def answer(connection: socket.socket) -> tuple[int, str, dict[str, str]]:
    """Status, problem's code and headers of the one answer on a connection that is closed after it."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), json.loads(body)["code"], headers


def request(server: Server, method: str = "GET", path: str = "/v1/models", *more: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {urlsplit(server.url).netloc}", *more, "", ""]).encode()


def pour(connection: socket.socket, piece: bytes, most: int) -> int:
    """Send until the server hangs up; returns the bytes that it took."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < most:
            sent += connection.send(piece)
    return sent


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n"])
def test_a_head_without_end_is_refused(strict: Server, begin: bytes) -> None:
    with opened(strict) as connection:
        connection.sendall(begin)
        piece = b"a" * 1000 if not begin.endswith(b"1.1\r\n") else b"".join(b"X-%d: 1\r\n" % number for number in range(100))
        assert pour(connection, piece, 64 * 2**20) < 8 * 2**20  # what the kernel's buffers hold is not the server's
    assert httpx.get(f"{strict.url}/livez").status_code == 200


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([f"X-{number}: 1" for number in range(30)], "request_header_fields_too_large"),
        (["X: " + "a" * 9000], "request_header_fields_too_large"),
    ],
)
def test_a_head_that_is_too_large_is_named(strict: Server, sent: list[str], code: str) -> None:
    with opened(strict) as connection:
        connection.sendall(request(strict, "GET", "/livez", *sent))
        status, found, headers = answer(connection)
    assert (status, found, headers["connection"]) == (431, code, "close")
    assert headers["x-request-id"].startswith("req_")


def test_what_is_no_http_is_a_problem_as_well(strict: Server) -> None:
    with opened(strict) as connection:
        connection.sendall(b"hello\r\n\r\n")
        assert answer(connection)[:2] == (400, "malformed_request")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\n", b"\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(strict: Server, sent: bytes) -> None:
    began = time.monotonic()
    with opened(strict) as connection:
        connection.sendall(sent)
        assert answer(connection)[:2] == (408, "request_timeout")
    assert time.monotonic() - began < 5


def test_a_head_that_trickles_is_not_waited_for(strict: Server) -> None:
    with opened(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        began = time.monotonic()
        while time.monotonic() - began < 5 and pour(connection, b"X: 1\r\n", 1):
            time.sleep(0.05)
        assert time.monotonic() - began < 5


def test_half_open_connections_shut_nobody_out(strict: Server) -> None:
    silent = [opened(strict) for _ in range(3 * BOUNDS.connections)]
    try:
        for connection in silent:
            connection.send(b"GET / HTTP/1.1\r\n")
        assert httpx.get(f"{strict.url}/livez").status_code == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_body_that_stalls_is_not_waited_for(strict: Server) -> None:
    before = strict.files()
    with opened(strict) as connection:
        connection.sendall(request(strict, "POST", "/v1/models?format=onnx", "Content-Length: 100000") + b"\x08\x08")
        assert answer(connection)[:2] == (408, "request_timeout")
    deadline = time.monotonic() + 5
    while strict.files() != before:
        assert time.monotonic() < deadline, "a staged file is left"
        time.sleep(0.02)


def test_a_body_may_be_slow_where_it_comes_at_all(strict: Server) -> None:
    with opened(strict) as connection:
        connection.sendall(request(strict, "POST", "/v1/models?format=onnx", "Content-Length: 4096", "Connection: close") + b"\x08")
        for _ in range(15):
            connection.sendall(b"\x08" * 273)
            time.sleep(0.1)
        assert answer(connection)[1] != "request_timeout"


def test_what_follows_a_refusal_is_read_for_a_while_and_dropped(strict: Server) -> None:
    with opened(strict) as connection:
        body = b"a" * 300_000
        connection.sendall(request(strict, "POST", "/v1/jobs/validate", f"Content-Length: {len(body)}", "Content-Type: text/html") + body)
        connection.sendall(request(strict, "GET", "/livez", "Connection: close"))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 415") == 1
    assert received.count(b"HTTP/1.1 200") == 1


def test_a_reader_that_does_not_read_is_cut_off(strict: Server) -> None:
    content = npz(x_train=np.zeros((2, 4 * 2**20), np.float32), y_train=np.zeros(2), x_test=np.zeros((1, 4 * 2**20)), y_test=np.zeros(1))
    dataset = httpx.post(f"{strict.url}/v1/datasets?format=npz", content=content).json()
    with opened(strict) as connection:
        connection.sendall(request(strict, "GET", dataset["urls"]["content"]))
        time.sleep(2)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += len(piece)
    assert received < len(content) / 2
    assert httpx.get(f"{strict.url}{dataset['urls']['content']}").content == content


def test_pipelined_requests_are_answered_in_order_and_counted(strict: Server) -> None:
    with opened(strict) as connection:
        connection.sendall(b"".join(request(strict, "GET", f"/docs/{number}") for number in range(5)))
        connection.sendall(request(strict, "GET", "/livez", "Connection: close"))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert [received.index(b"/docs/%d" % number) for number in range(5)] == sorted(received.index(b"/docs/%d" % n) for n in range(5))
    with opened(strict) as connection:
        connection.sendall(b"".join(request(strict, "GET", "/livez") for _ in range(2000)))
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
    assert received.count(b"HTTP/1.1 200") < 100


def test_the_process_keeps_descriptors_for_itself() -> None:
    import resource

    from api import server

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert server._connections(1000) == 1000
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1000 + server.KEPT_DESCRIPTORS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
