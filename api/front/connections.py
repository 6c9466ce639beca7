"""Connections of strangers, bounded: how long a request's head may be and take, how slow a body, how much unread answers may hold.

uvicorn parses and answers; what stands here watches it, one connection at a time; what they have in common is `api.front.room`.
"""

import asyncio
import time
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.front.arrivals import is_open
from api.front.room import CHUNKS_BYTES, HEAD_PIECE_BYTES, PIECE_BYTES, Bounds, Room, Whose
from api.http import problems

DISCARD_AT_MOST_SECONDS = 3.0
"""So long the body of a refused request is dropped; a long one takes a fifth of a second where few others wait."""
_WAITED_SECONDS = 0.005
"""A client whose request was begun sooner after its head is not asked whether it is still there."""
_DIGITS = 15
"""More of them make a length that no body has."""


class Connection(HttpToolsProtocol):
    """One connection, which its room may cut off."""

    def __init__(self, room: Room, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._room = room
        self._bounds = room.bounds
        self.since = time.monotonic()
        """When the client began what it is expected to do: open, send a head, send a body."""
        self._fed = 0
        """Bytes since the last head, piece of a body or end of a message."""
        self._progressed = False
        self._headed = False
        """Whether a head was completed by what came last."""
        self._postponed, self._chunked = False, False
        """Whether the body of the current request is long, so that it waits for its turn with the client; and whether it comes in chunks."""
        self._pieces: list[bytes] = []
        """Of the body, from what came last."""
        self._receiving = False
        """Whether a message has begun and not ended."""
        self._body_bytes = 0
        """Bytes of the body since `_since`."""
        self._dropped = 0
        self._unsent, self._unsent_since = 0, 0.0
        self._answered = self.since
        """When the last answer was complete."""
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

    def piece(self) -> memoryview:
        """Where what comes next is read to."""
        size = HEAD_PIECE_BYTES if not (self._receiving and self._progressed) else CHUNKS_BYTES if self._chunked else PIECE_BYTES
        return self._room.buffer[:size]

    def data_received(self, data: bytes | memoryview) -> None:
        """Parse what came, and count what leads to nothing."""
        self._progressed = self._headed = False
        self._fed += len(data)
        super().data_received(data)  # type: ignore[arg-type]  # the parser takes any buffer
        self._take_body()
        if self._headed and self._receiving and self._postponed:
            # It comes when it is asked for: however many requests wait for their turn, they hold no more than a piece each.
            self.flow.pause_reading()
        if self._progressed:
            self._fed = 0
        elif self._fed > self._bounds.head_bytes:
            detail = f"a request's head may have {self._bounds.head_bytes} bytes"
            self.refuse(431, "request_header_fields_too_large", detail)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._receiving, self.since = True, time.monotonic()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or one that came after a body in chunks."""
        if len(self.headers) >= self._bounds.header_count:
            self._raise(431, "request_header_fields_too_large", f"a request may have {self._bounds.header_count} header fields")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._progressed = self._headed = True
        bounds = self._bounds
        if (
            self._fed > bounds.head_bytes
            and sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > bounds.head_bytes
        ):
            self._raise(431, "request_header_fields_too_large", f"a request's head may have {bounds.head_bytes} bytes")
        if len(self.pipeline) >= bounds.pipelined:
            self._raise(429, "rate_limited", f"more than {bounds.pipelined} requests wait on this connection")
        self.since, self._body_bytes, self._dropped = time.monotonic(), 0, 0
        announced = next((value for name, value in self.headers if name == b"content-length"), b"")
        self._chunked = not announced
        self._postponed = self._chunked or len(announced) > _DIGITS or int(announced) > HEAD_PIECE_BYTES
        self._room.busy(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body, as long as a chunk may be short."""
        self._progressed = True
        self._pieces.append(body)

    def _take_body(self) -> None:
        """What came of a body; of a request that was refused already, only so much is dropped."""
        if not self._pieces or self.parser is None:
            return
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            if self._dropped > self._bounds.discarded_bytes:
                self.transport.close()
            elif not self.flow.read_paused:
                # What others have sent comes first: whoever reads many such bodies would get to it late.
                self.flow.pause_reading()
                self._room.discards.begin(self.loop, partial(self._whose, self.cycle), self._read_on)
            self._dropped += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._take_body()
        self._progressed, self._receiving = True, False
        super().on_message_complete()
        if self.cycle.response_complete:
            # It was answered before it was whole, and what came since then has stopped the timer.
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        """The answer is complete; what is left of the request's body is dropped."""
        super().on_response_complete()
        self._answered = time.monotonic()
        if not self.pipeline and self.cycle.response_complete:
            self._room.idle(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer a request when it is the client's turn."""
        self._room.requests.begin(self.loop, partial(self._whose, cycle), partial(self._start, cycle, app), self.give_up)

    def _whose(self, cycle: RequestResponseCycle) -> str:
        authorization = next((value for name, value in cycle.scope["headers"] if name == b"authorization"), b"")
        return self._room.whose(authorization, self.client[0] if self.client else "")

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _start(self, cycle: RequestResponseCycle, app: Any) -> bool:
        # Where the client has ended its side, the answer would go nowhere: whoever has waited is looked at once more.
        if cycle.disconnected:
            return False
        if time.monotonic() - self.since > _WAITED_SECONDS and not self._is_open():
            self.cut()  # nobody reads its body any more, and so nobody would see its end
            return False
        super()._start_asgi_task(cycle, app)
        return True

    def _is_open(self) -> bool:
        return is_open(self.transport.get_extra_info("socket"))

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
        discards = self.flow.read_paused and self.cycle is not None and self.cycle.response_complete
        if discards and (now - self._answered > DISCARD_AT_MOST_SECONDS or not self._is_open()):
            self.cut()  # what is left of a refused body was to be dropped, so that the client reads why
            return
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > self._bounds.stall_seconds:
            self.cut()
            return
        if self._receiving and self.cycle is not None and self.cycle.scope is self.scope:
            self._look_at_body(now)
        elif (self.cycle is None or (self._fed and self.cycle.response_complete)) and now - self.since > self._bounds.head_seconds:
            # Between two requests, where nothing came, uvicorn's own timer runs.
            self.refuse(408, "request_timeout", f"the request's head did not arrive within {self._bounds.head_seconds:g} seconds")

    def _look_at_body(self, now: float) -> None:
        waited = now - self.since
        if self.flow.read_paused:
            self.since, self._body_bytes = now, 0
        elif waited > self._bounds.stall_seconds:
            if self._body_bytes >= waited * self._bounds.body_bytes_per_second:
                self.since, self._body_bytes = now, 0
            elif self.cycle.response_complete:
                self.cut()
            else:
                self.refuse(408, "request_timeout", f"the body comes at less than {self._bounds.body_bytes_per_second} bytes a second")

    def cut(self) -> None:
        """Close at once."""
        self._room.leave(self)
        self.transport.abort()

    def give_up(self) -> None:
        """Refuse a request that has waited for its turn, so that somebody else has a place."""
        self.refuse(503, "service_unavailable", "every connection is in use", {"Retry-After": "1"})

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


class Wire(asyncio.BufferedProtocol):
    """A connection that says how much is read at once, which no protocol of uvicorn does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Set on the instance, so that each call goes to the connection at once; for mypy methods are of the class.
        self.connection_made = connection.connection_made  # type: ignore[method-assign, assignment]
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.eof_received = connection.eof_received  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._connection.piece()

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        self._connection.data_received(self._connection.piece()[:nbytes])


def _by_address(_: bytes, address: str) -> str:
    return address


def protocol(bounds: Bounds, whose: Whose = _by_address) -> Any:
    """What uvicorn takes as `http`."""
    room = Room(bounds, whose)
    return lambda *arguments, **options: Wire(Connection(room, *arguments, **options))
