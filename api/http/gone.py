"""Clients that go away while they are answered."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import Receive


@contextlib.asynccontextmanager
async def until_gone(receive: Receive) -> AsyncIterator["asyncio.Future[None]"]:
    """A future that is done as soon as the client has closed its connection; nobody waits for it after the block."""
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        yield gone
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
