"""New connections are taken as fast as they come, and nothing is made for clients that are gone.

The kernel hands connections over in the order of their arrival: while one is waited for, everybody behind it waits. Whoever opens and closes
connections as fast as he can fills that queue, and a newcomer waits for all of it. So connections are accepted many at a time, and those that
their clients have ended meanwhile are dropped before they get a protocol and a parser: uvicorn answers nobody who has ended his side.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

A_ROUND = 128
"""Connections that are accepted in one round of the event loop."""
PAUSE_SECONDS = 0.1
"""How long nothing is accepted where the machine has no descriptor left."""
_SHORT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ESTABLISHED = 1
"""The state of a TCP connection that neither side has ended (netinet/tcp.h)."""


class Arrivals:
    """The connections that come to a listening socket, each of which gets a protocol of `make`."""

    def __init__(self, listener: socket.socket, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._listener = listener
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._closed = False
        listener.setblocking(False)
        self._go_on()

    def close(self) -> None:
        """Accept no more."""
        self._closed = True
        self._loop.remove_reader(self._listener)

    def _go_on(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(A_ROUND):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _SHORT_OF:
                    continue  # it was closed before it was accepted
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_SECONDS, self._go_on)
                return
            connection.setblocking(False)
            if is_open(connection):
                self._open(connection)
            else:
                connection.close()

    def _open(self, connection: socket.socket) -> None:
        opening: asyncio.Task[object] = self._loop.create_task(self._loop.connect_accepted_socket(self._make, connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[object]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled():
            opening.exception()  # the client is gone: nobody asks


def is_open(connection: socket.socket) -> bool:
    """Whether the client has not ended its side of the connection; true where the system does not tell."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED
    except (AttributeError, OSError):
        return True
