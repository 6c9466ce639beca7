"""A TCP proxy that misbehaves on purpose: what stands between the service and its database, broker or object store."""

import contextlib
import socket
import threading
import time
from enum import StrEnum

_UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Fault(StrEnum):
    """What the proxy does to every connection, old or new."""

    NONE = "none"
    REFUSE = "refuse"
    """Connections end as soon as they begin."""
    BLACK_HOLE = "black hole"
    """Connections are accepted, and nothing ever comes back."""
    CUT_ANSWERS = "cut answers"
    """Requests arrive; the connection ends where the answer should be."""
    CUT_SHORT = "cut short"
    """Answers end after their first bytes."""
    SLOW = "slow"
    """Each piece takes its time."""
    UNAVAILABLE = "unavailable"
    """Every HTTP request is answered 503."""


class FaultProxy:
    """Passes TCP from `port` on to `target` as `fault` says; set it at any time."""

    SLOW_SECONDS = 0.05
    SHORT_BYTES = 300

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self.fault = Fault.NONE
        self.hits = 0
        """How often the fault acted."""
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.fault is Fault.REFUSE:
                self.hits += 1
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._connections |= {client, server}
            for pump, ends in ((self._requests, (client, server)), (self._answers, (server, client))):
                threading.Thread(target=self._pump, args=(pump, *ends), daemon=True).start()

    def _pump(self, pass_on: "object", source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if not pass_on(data, source, sink):  # type: ignore[operator]
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._connections -= {source}
        source.close()

    def _requests(self, data: bytes, client: socket.socket, server: socket.socket) -> bool:
        if self.fault is Fault.UNAVAILABLE:
            self.hits += 1
            client.sendall(_UNAVAILABLE)
            return False
        if self.fault is Fault.REFUSE:
            self.hits += 1
            return False
        if self.fault is Fault.BLACK_HOLE:
            self.hits += 1
            return True
        server.sendall(data)
        return True

    def _answers(self, data: bytes, server: socket.socket, client: socket.socket) -> bool:
        if self.fault is Fault.BLACK_HOLE:
            return True
        if self.fault in (Fault.CUT_ANSWERS, Fault.CUT_SHORT):
            self.hits += 1
            if self.fault is Fault.CUT_SHORT:
                client.sendall(data[: self.SHORT_BYTES])
            return False
        if self.fault is Fault.SLOW:
            self.hits += 1
            time.sleep(self.SLOW_SECONDS)
        client.sendall(data)
        return True
