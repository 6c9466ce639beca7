"""The connections of one process: how many there may be, who makes room for the next, and how much unread answers may hold.

A connection is *idle* while no request of it is being answered: before its first head is whole, and between requests. When a process has as
many connections as it may have, the one that has been idle longest makes room for the next: whoever opens connections and sends nothing
shuts nobody out.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.front.turns import Turns

if TYPE_CHECKING:
    from api.front.connections import Connection

LOOK_SECONDS = 1.0
STARTS = 2
"""Requests that are begun in one round of the event loop: short rounds keep newcomers from waiting."""
DISCARD_SECONDS = 0.005
"""Of the bodies of refused requests one piece is read in so many seconds."""
PATIENCE_SECONDS = 1.0
"""How long a connection may be idle before it makes room for others first."""
HEAD_PIECE_BYTES, CHUNKS_BYTES, PIECE_BYTES = 16 * 1024, 64 * 1024, 256 * 1024
"""What is read at once: where a head is expected, of a body in chunks (each costs time, however short it is), and of any other body. What came
with the head waits in memory until the request's turn comes."""


@dataclass(frozen=True)
class Bounds:
    """What one process grants its clients."""

    connections: int = 1000
    head_bytes: int = 64 * 1024
    """Request line and header fields together; also what may stand between two pieces of a body."""
    header_count: int = 100
    head_seconds: float = 10.0
    """From the first byte of a request, or from the opening of the connection, to the end of the head."""
    body_bytes_per_second: int = 1024
    """Least rate of a body, over `stall_seconds`; time in which the service itself does not take any does not count."""
    stall_seconds: float = 30.0
    """How long a client may take nothing of its answer."""
    unread_bytes: int = 16 * 2**20
    """Answers that wait for slow readers, of all connections together."""
    discarded_bytes: int = 8 * 2**20
    """What is read and dropped of a body after its request was refused, so that the client gets to read why."""
    pipelined: int = 16
    """Requests of one connection that wait for the answer to an earlier one."""


Whose = Callable[[bytes, str], str]
"""Names the client of a request: its `Authorization` header and its address."""


class Room:
    """The connections of one process."""

    def __init__(self, bounds: Bounds, whose: Whose) -> None:
        self.bounds = bounds
        self.whose = whose
        self.requests = Turns(STARTS)
        self.discards = Turns(1, DISCARD_SECONDS)
        self.buffer = memoryview(bytearray(PIECE_BYTES))
        """Where every connection reads to: what came is dealt with before the next one reads."""
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._unread: dict[Connection, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, connection: "Connection") -> None:
        """A new connection; another one is closed for it where there are too many: the one that is idle for longest, if it had time to send
        something; or else one whose request waits for its turn, of the client of which most do; or else the one that is idle for longest."""
        self._all.add(connection)
        self._idle[connection] = None
        if len(self._all) > self.bounds.connections:
            self._make_room(connection)
        if self._timer is None:
            self._timer = connection.loop.call_later(LOOK_SECONDS, self._look, connection.loop)

    def _make_room(self, newest: "Connection") -> None:
        longest = next(iter(self._idle))
        if time.monotonic() - longest.since > PATIENCE_SECONDS:
            longest.cut()
        while len(self._all) > self.bounds.connections:  # clients of some that wait are gone
            if not self.requests.give_up_one():
                if longest is newest:
                    newest.give_up()
                else:
                    longest.cut()
                break

    def leave(self, connection: "Connection") -> None:
        """The connection is closed."""
        self._all.discard(connection)
        self._idle.pop(connection, None)
        self._unread.pop(connection, None)

    def busy(self, connection: "Connection") -> None:
        """A request is being answered."""
        self._idle.pop(connection, None)

    def idle(self, connection: "Connection") -> None:
        """The answer is complete."""
        if connection in self._all:
            self._idle[connection] = None

    def unread(self, connection: "Connection") -> None:
        """The client does not take its answer as fast as it is made. Where too much waits, the first of these clients is cut off."""
        self._unread[connection] = None
        while sum(each.transport.get_write_buffer_size() for each in self._unread) > self.bounds.unread_bytes:
            slowest = next(iter(self._unread))
            del self._unread[slowest]
            slowest.cut()

    def read(self, connection: "Connection") -> None:
        """The client has caught up."""
        self._unread.pop(connection, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(LOOK_SECONDS, self._look, loop) if self._all else None
        now = time.monotonic()
        for connection in list(self._all):
            connection.look(now)
