"""Connections of strangers, bounded: how long a request's head may be and take, how slow a body, how much unread answers may hold.

uvicorn parses and answers; what stands here watches it. A connection is *idle* while no request of it is being answered: before its
first head is whole, and between requests. When a process has as many connections as it may have, the one that has been idle longest
makes room for the next: whoever opens connections and sends nothing shuts nobody out.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.front.turns import Turns
from api.http import problems

LOOK_SECONDS = 1.0
STARTS = 2
"""Requests that are begun in one round of the event loop. It accepts one connection a round: short rounds keep newcomers from waiting."""
DISCARD_SECONDS = 0.005
"""Of the bodies of refused requests one piece (256 kB) is read in so many seconds."""


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
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._unread: dict[Connection, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, connection: "Connection") -> None:
        """A new connection; another one is closed for it where there are too many, or it itself where all others are busy."""
        self._all.add(connection)
        self._idle[connection] = None
        if len(self._all) > self.bounds.connections:
            longest = next(iter(self._idle))
            if longest is connection:
                connection.refuse(503, "service_unavailable", "every connection is in use", {"Retry-After": "1"})
            else:
                longest.cut()
        if self._timer is None:
            self._timer = connection.loop.call_later(LOOK_SECONDS, self._look, connection.loop)

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


class Connection(HttpToolsProtocol):
    """One connection, which its room may cut off."""

    def __init__(self, room: Room, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._room = room
        self._bounds = room.bounds
        self._since = time.monotonic()
        """When the client began what it is expected to do: open, send a head, send a body."""
        self._fed = 0
        """Bytes since the last head, piece of a body or end of a message."""
        self._progressed = False
        self._receiving = False
        """Whether a message has begun and not ended."""
        self._body_bytes = 0
        """Bytes of the body since `_since`."""
        self._dropped = 0
        self._unsent, self._unsent_since = 0, 0.0
        self._refusal: tuple[int, str, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a place in the room."""
        # As uvicorn does it, but for the addresses: asking the socket lets another thread run, which then keeps the event loop waiting.
        self.connections.add(self)
        self.transport, self.flow = transport, FlowControl(transport)
        self.server, self.client = _address(transport, "sockname"), _address(transport, "peername")
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._room.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the room."""
        self._room.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count what leads to nothing."""
        self._progressed = False
        self._fed += len(data)
        super().data_received(data)
        if self._progressed:
            self._fed = 0
        elif self._fed > self._bounds.head_bytes:
            detail = f"a request's head may have {self._bounds.head_bytes} bytes"
            self.refuse(431, "request_header_fields_too_large", detail)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._receiving, self._since = True, time.monotonic()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._progressed = True
        bounds = self._bounds
        if len(self.headers) > bounds.header_count:
            self._raise(431, "request_header_fields_too_large", f"a request may have {bounds.header_count} header fields")
        if (
            self._fed > bounds.head_bytes
            and sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > bounds.head_bytes
        ):
            self._raise(431, "request_header_fields_too_large", f"a request's head may have {bounds.head_bytes} bytes")
        if len(self.pipeline) >= bounds.pipelined:
            self._raise(429, "rate_limited", f"more than {bounds.pipelined} requests wait on this connection")
        self._since, self._body_bytes, self._dropped = time.monotonic(), 0, 0
        self._room.busy(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body; of a request that was refused already, only so much is dropped."""
        self._progressed = True
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._dropped += len(body)
            if self._dropped > self._bounds.discarded_bytes:
                self.transport.close()
            elif not self.flow.read_paused:
                # What others have sent comes first: whoever reads many such bodies would get to it late.
                self.flow.pause_reading()
                self._room.discards.begin(self.loop, partial(self._whose, self.cycle), self._read_on)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._progressed, self._receiving = True, False
        super().on_message_complete()
        if self.cycle.response_complete:
            # It was answered before it was whole, and what came since then has stopped the timer.
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        """The answer is complete; what is left of the request's body is dropped."""
        super().on_response_complete()
        if not self.pipeline and self.cycle.response_complete:
            self._room.idle(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer a request when it is the client's turn."""
        self._room.requests.begin(self.loop, partial(self._whose, cycle), partial(self._start, cycle, app))

    def _whose(self, cycle: RequestResponseCycle) -> str:
        authorization = next((value for name, value in cycle.scope["headers"] if name == b"authorization"), b"")
        return self._room.whose(authorization, self.client[0] if self.client else "")

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        if not cycle.disconnected:
            super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """The client reads slowly."""
        super().pause_writing()
        self._room.unread(self)

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._room.read(self)

    def look(self, now: float) -> None:
        """Cut off a client that is too slow; called about once a second."""
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            return
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > self._bounds.stall_seconds:
            self.cut()
            return
        if self._receiving and self.cycle is not None and self.cycle.scope is self.scope:
            self._look_at_body(now)
        elif (self.cycle is None or (self._fed and self.cycle.response_complete)) and now - self._since > self._bounds.head_seconds:
            # Between two requests, where nothing came, uvicorn's own timer runs.
            self.refuse(408, "request_timeout", f"the request's head did not arrive within {self._bounds.head_seconds:g} seconds")

    def _look_at_body(self, now: float) -> None:
        waited = now - self._since
        if self.flow.read_paused:
            self._since, self._body_bytes = now, 0
        elif waited > self._bounds.stall_seconds:
            if self._body_bytes >= waited * self._bounds.body_bytes_per_second:
                self._since, self._body_bytes = now, 0
            elif self.cycle.response_complete:
                self.cut()
            else:
                self.refuse(408, "request_timeout", f"the body comes at less than {self._bounds.body_bytes_per_second} bytes a second")

    def cut(self) -> None:
        """Close at once."""
        self._room.leave(self)
        self.transport.abort()

    def refuse(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        """Say why, where no answer has begun, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.cut()
            return
        request_id = problems.request_id()
        named = {"Connection": "close", "X-Request-Id": request_id, **(headers or {})}
        response = problems.render(request_id, status, code, detail, headers=named)
        phrase = HTTPStatus(status).phrase
        head = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in response.raw_headers)
        self.transport.write(f"HTTP/1.1 {status} {phrase}\r\n{head}\r\n".encode() + bytes(response.body))
        self._room.leave(self)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what it cannot parse, as a problem document."""
        status, code, detail = self._refusal or (400, "malformed_request", msg)
        self.refuse(status, code, detail)

    def _raise(self, status: int, code: str, detail: str) -> None:
        """Stop the parser, which reports an error of its own."""
        self._refusal = (status, code, detail)
        raise ValueError(detail)


def _address(transport: asyncio.BaseTransport, name: str) -> Any:
    """Host and port of one end; None for a socket of another kind."""
    info = transport.get_extra_info(name)
    return (str(info[0]), int(info[1])) if isinstance(info, tuple) else None


def _by_address(_: bytes, address: str) -> str:
    return address


def protocol(bounds: Bounds, whose: Whose = _by_address) -> Any:
    """What uvicorn takes as `http`."""
    return partial(Connection, Room(bounds, whose))
