"""What the two clients do in two ways: waiting, and work on files beside the event loop."""

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio import to_thread

Result = TypeVar("Result")


async def pause(seconds: float) -> None:
    """Wait."""
    await anyio.sleep(seconds)


async def beside(function: Callable[..., Result], *arguments: Any) -> Result:
    """What `function` returns, computed where it keeps nobody waiting."""
    return await to_thread.run_sync(function, *arguments)
