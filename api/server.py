"""The API's server: `python -m api.server --host … --port …`, one process.

Behind a proxy that ends TLS, or alone: the bounds of `api.front.connections` hold either way.
"""

import argparse
import asyncio
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from api.front.allocation import collect_rarely
from api.front.arrivals import Arrivals
from api.front.connections import protocol
from api.front.room import Bounds, Whose
from core import logging
from core.operations.startup import CannotStart, explained, listen
from core.service import Service
from core.settings import Settings

KEPT_DESCRIPTORS = 512
"""Descriptors that are never given to connections: database, files, broker, standard streams, what was accepted a moment ago."""
GRACE_SECONDS = 2
WAITING_AT_MOST = 4096
"""Connections that the kernel keeps until they are accepted, if it may: where it has no room, a newcomer tries again after a second."""
SWITCH_SECONDS = 0.001
"""How long a thread that computes keeps the event loop waiting; Python's default is five times as long."""


def config(app: Any, settings: Settings, bounds: Bounds | None = None, **options: Any) -> uvicorn.Config:
    """uvicorn over `app`, with every connection bounded. Raises the soft limit of descriptors to the hard one."""
    return uvicorn.Config(
        app,
        http=protocol(bounds or Bounds(connections=_connections(settings.max_connections)), _whose(app)),
        ws="none",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=int(settings.keep_alive_seconds),
        **options,
    )


def _whose(app: Any) -> Whose:
    return lambda authorization, address: str(app.state.authenticate.whose(authorization, address))


class Server(uvicorn.Server):
    """uvicorn, which accepts connections by `api.front.arrivals` and searches for garbage rarely."""

    _arrivals: tuple[Arrivals, ...] = ()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup([])
        make: Callable[..., asyncio.BaseProtocol] = self.config.http_protocol_class
        made = partial(make, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        for listener in sockets or []:
            listener.listen(WAITING_AT_MOST)
        self._arrivals = tuple(Arrivals(listener, made) for listener in sockets or [])
        collect_rarely()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and write what was logged: uvicorn ends the process by the signal that it got."""
        for arrivals in self._arrivals:
            arrivals.close()
        await super().shutdown(sockets)
        logging.flush()


def _connections(wanted: int) -> int:
    """How many connections the process may have: as many as wanted, and no more than leave descriptors for the service itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + KEPT_DESCRIPTORS
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(wanted, soft - KEPT_DESCRIPTORS))


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 1 where the service cannot start, with a sentence that says why."""
    parser = argparse.ArgumentParser(prog="python -m api.server", description="Serve the API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="a listening socket that was inherited, instead of host and port")
    parser.add_argument(
        "--proxy-headers", action="store_true", help="trust X-Forwarded-For and -Proto of the addresses in FORWARDED_ALLOW_IPS"
    )
    asked = parser.parse_args(arguments)
    try:
        with explained():
            settings = Settings()
            with Service.open(settings):
                pass
            listener = listen(asked.host, asked.port) if asked.fd is None else socket.socket(fileno=asked.fd)
    except CannotStart as error:
        sys.stderr.write(f"{error}\n")
        return 1
    logging.configure(settings, beside=True)
    sys.setswitchinterval(SWITCH_SECONDS)
    from api.app import create_app

    options = {"log_level": "error", "proxy_headers": asked.proxy_headers}
    server = Server(config(create_app(settings), settings, **options))
    server.run([listener])
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
