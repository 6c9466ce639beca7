"""Who is gone costs nothing, who is there is served, and what runs short comes back."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from api.front.arrivals import A_ROUND, Arrivals


class _Echo(asyncio.Protocol):
    made = 0

    def __init__(self) -> None:
        _Echo.made += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(data)
        self._transport.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    _Echo.made = 0
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        yield listening


def _connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname())


async def _echoed(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    await loop.sock_sendall(client, b"hello")
    return await asyncio.wait_for(loop.sock_recv(client, 5), 5)


def test_those_who_left_get_no_protocol(listener: socket.socket) -> None:
    for number in range(3 * A_ROUND):
        gone = _connect(listener)
        with contextlib.suppress(OSError):
            gone.sendall(b"GET / HTTP/1.1\r\n" if number % 2 else b"")
        gone.close()
    with _connect(listener) as client:

        async def serve() -> bytes:
            arrivals = Arrivals(listener, _Echo)
            try:
                return await _echoed(client)
            finally:
                arrivals.close()

        assert asyncio.run(serve()) == b"hello"
    assert _Echo.made == 1


def test_a_burst_is_served_in_order_of_arrival(listener: socket.socket) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_connect(listener)) for _ in range(A_ROUND + 5)]

        async def serve() -> list[bytes]:
            arrivals = Arrivals(listener, _Echo)
            try:
                return [await _echoed(client) for client in reversed(clients)]
            finally:
                arrivals.close()

        assert asyncio.run(serve()) == [b"hello"] * len(clients)
    assert _Echo.made == len(clients)


def test_where_descriptors_run_out_it_goes_on_later(listener: socket.socket) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with _connect(listener) as client:

        async def serve() -> bytes:
            used = [os.dup(listener.fileno())]
            resource.setrlimit(resource.RLIMIT_NOFILE, (used[0] + 1, hard))
            with contextlib.suppress(OSError):
                while True:
                    used.append(os.dup(listener.fileno()))
            arrivals = Arrivals(listener, _Echo)
            try:
                await asyncio.sleep(0.05)
                assert _Echo.made == 0
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                return await _echoed(client)
            finally:
                arrivals.close()
                for descriptor in used:
                    os.close(descriptor)

        try:
            assert asyncio.run(serve()) == b"hello"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_closed_accepts_nobody(listener: socket.socket) -> None:
    async def serve() -> None:
        Arrivals(listener, _Echo).close()
        with _connect(listener):
            await asyncio.sleep(0.05)

    asyncio.run(serve())
    assert _Echo.made == 0
