"""Documents are read beside the event loop: long ones one at a time, and nobody waits for one longer than the deadline."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from core.errors import Unavailable

Result = TypeVar("Result")
DEADLINE_SECONDS = 15.0
# Python runs one thread at a time: each further one that computes delays every answer of the event loop by some milliseconds.
_long = ThreadPoolExecutor(1, thread_name_prefix="long-documents")
_quick = ThreadPoolExecutor(2, thread_name_prefix="documents")


async def beside(function: Callable[..., Result], *arguments: Any, quick: bool = False) -> Result:
    """What `function` returns or raises, computed in another thread; what is not quick waits for its turn, and keeps nothing quick waiting.

    Raises `service_unavailable` after `DEADLINE_SECONDS`; what has not begun by then is not begun any more.
    """
    work = asyncio.get_running_loop().run_in_executor(_quick if quick else _long, copy_context().run, function, *arguments)
    try:
        return await asyncio.wait_for(work, DEADLINE_SECONDS)
    except TimeoutError:
        raise Unavailable(
            f"the document could not be read within {DEADLINE_SECONDS:g} seconds: too many others are being read",
            hint="try again, with the same Idempotency-Key",
            retry_after_seconds=5,
        ) from None
