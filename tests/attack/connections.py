"""Clients that say nothing, never stop, or do not listen."""

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Iterator
from random import Random

from tests.attack.target import Target

SECONDS = 3.0


@contextlib.contextmanager
def many(target: Target, count: int) -> Iterator[list[socket.socket]]:
    """Raw connections, closed at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + 500), hard), hard))
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            with contextlib.suppress(OSError):
                opened.append(target.open())
        yield opened
    finally:
        for connection in opened:
            connection.close()


def send(connection: socket.socket, data: bytes) -> bool:
    with contextlib.suppress(OSError):
        connection.sendall(data)
        return True
    return False


def heads_without_end(target: Target, random: Random) -> None:
    def pour(_: int) -> None:
        with target.open() as connection:
            begin = random.choice([b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n"])
            piece = b"X: 1\r\n" * 10_000 if begin.endswith(b"1.1\r\n") else b"a" * 60_000
            send(connection, begin)
            for _ in range(1000):
                if not send(connection, piece):
                    return
        raise AssertionError("60 MB of a head were taken")

    target.repeat(pour, seconds=SECONDS, threads=8)


def half_open_connections(target: Target, random: Random) -> None:
    with many(target, 1500) as connections:
        for connection in connections:
            send(connection, random.choice([b"", b"GET / HTTP/1.1\r\n", b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nX: "]))
        time.sleep(SECONDS)
        assert target.call("GET", "/v1/jobs", key=target.innocent)[0] == 200


def documents_that_trickle(target: Target, random: Random) -> None:
    """Each keeps almost a MiB waiting."""
    with many(target, 300) as connections:
        head = target.head("POST", "/v1/jobs", "Content-Type: application/json", f"Content-Length: {2**20}")
        for connection in connections:
            connection.settimeout(0.2)
            send(connection, head + b" " * (2**20 - random.randrange(1, 1000)))
        time.sleep(SECONDS)


def files_that_trickle(target: Target, random: Random) -> None:
    """Each keeps a buffer waiting, or a staged file."""
    with many(target, 300) as connections:
        head = target.head("POST", "/v1/models?format=onnx", "Content-Type: application/octet-stream", f"Content-Length: {2**30}")
        for connection in connections:
            connection.settimeout(0.2)
            send(connection, head + b"\x08\x08\x3a" + b"\x00" * (2**20 - random.randrange(1, 1000)))
        time.sleep(SECONDS)


def readers_that_do_not_read(target: Target, random: Random) -> None:
    content = b"\x08\x08\x3a\x84\x80\x80\x08" + bytes([0x0A, 0xFF, 0xFF, 0xFF, 0x07]) + b"a" * (2**24 - 1)
    path = target.made("/v1/uploads")["urls"]["self"]
    target.call("PUT", f"{path}/parts/1", content, content_type="application/octet-stream")
    target.call("POST", f"{path}/complete")
    status, _, made = target.call("POST", "/v1/models?format=onnx", content + b"\x42\x02\x10\x11", content_type="application/octet-stream")
    place = made.decode().partition('"content":"')[2].partition('"')[0] if status == 201 else "/openapi.json"
    with many(target, 300) as connections:
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            send(connection, target.head("GET", random.choice([place, "/openapi.json"])) * 4)
        time.sleep(SECONDS)


def pipelines(target: Target, random: Random) -> None:
    def pour(_: int) -> None:
        with target.open() as connection:
            connection.settimeout(5)
            send(connection, target.head("GET", random.choice(["/livez", "/v1/methods", "/nothing"])) * 3000)
            with contextlib.suppress(OSError):
                while connection.recv(65536):
                    pass

    target.repeat(pour, seconds=SECONDS, threads=8)


def streams_without_end(target: Target, random: Random) -> None:
    job_id = target.job()
    with many(target, 800) as connections:
        for connection in connections:
            path = random.choice([f"/v1/jobs/{job_id}/events/stream", f"/v1/jobs/{job_id}"])
            send(connection, target.head("GET", path, "Prefer: wait=60", 'If-None-Match: "1"'))
        time.sleep(SECONDS)
        assert target.call("GET", "/v1/jobs", key=target.innocent)[0] == 200
    target.call("POST", f"/v1/jobs/{job_id}/cancel")


def connections_that_come_and_go(target: Target, random: Random) -> None:
    """As fast as they can."""

    def go(_: int) -> None:
        opened: list[socket.socket] = []
        with contextlib.suppress(OSError):
            for _ in range(100):
                opened.append(target.open())
        for connection in opened:
            send(connection, random.choice([b"", b"G", target.head("GET", "/livez"), target.head("GET", "/v1/jobs")]))
            connection.close()

    target.repeat(go, seconds=SECONDS, threads=6)


def requests_that_are_broken_off(target: Target, random: Random) -> None:
    """In the middle, by a reset or by an end, also while the service waits to read the body."""
    heads = [
        target.head("GET", "/v1/jobs?limit=100"),
        target.head("GET", "/openapi.json"),
        target.head("POST", "/v1/models?format=onnx", "Content-Type: application/octet-stream", "Content-Length: 10000") + b"x" * 5000,
        target.head("POST", "/v1/models?format=onnx", "Content-Type: application/octet-stream", "Content-Length: 90000") + b"x" * 5000,
        target.head("POST", "/v1/jobs", "Content-Type: application/json", "Content-Length: 200000") + b"x" * 30_000,
        target.head("POST", "/v1/jobs", "Content-Type: application/json", "Content-Length: 100") + b"{",
    ]

    def go(_: int) -> None:
        with target.open() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", random.randrange(2), 0))
            send(connection, random.choice(heads))
            time.sleep(random.choice([0, random.random() / 100]))

    target.repeat(go, seconds=SECONDS, threads=8)


def heads_of_a_byte_at_a_time(target: Target, _: Random) -> None:
    with many(target, 400) as connections:
        head, count = target.head("GET", "/v1/jobs"), 0
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for connection in connections:
                send(connection, head[count % len(head) :][:1])
            count += 1


ATTACKS = (
    heads_without_end,
    half_open_connections,
    documents_that_trickle,
    files_that_trickle,
    readers_that_do_not_read,
    pipelines,
    streams_without_end,
    connections_that_come_and_go,
    requests_that_are_broken_off,
    heads_of_a_byte_at_a_time,
)
