"""What many browsers look at is made once: those who ask for the same within a moment share it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Made = TypeVar("Made")
MAX_AGE_SECONDS = 0.8
_MAX_ENTRIES = 128


class Fresh(Generic[Made]):
    """Results that are younger than `MAX_AGE_SECONDS`. All of it runs on the event loop."""

    def __init__(self) -> None:
        self._made: OrderedDict[Hashable, tuple[float, Made]] = OrderedDict()
        self._making: dict[Hashable, asyncio.Task[Made]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Made]]) -> Made:
        """What `make` gives, or gave a moment ago. Raises what it raises, to all who wait for it."""
        found = self._made.get(key)
        now = time.monotonic()
        if found is not None and now - found[0] < MAX_AGE_SECONDS:
            return found[1]
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.ensure_future(_of(make))
            making.add_done_callback(lambda done: self._keep(key, now, done))
        return await asyncio.shield(making)

    def forget(self) -> None:
        """Something was changed: what was made, and what is being made, counts no more."""
        self._made.clear()
        self._making.clear()

    def _keep(self, key: Hashable, begun: float, done: "asyncio.Task[Made]") -> None:
        if self._making.get(key) is not done:
            return  # something was changed meanwhile
        del self._making[key]
        if not done.cancelled() and done.exception() is None:
            self._made.pop(key, None)
            self._made[key] = (begun, done.result())
            while len(self._made) > _MAX_ENTRIES:
                self._made.popitem(last=False)


async def _of(make: Callable[[], Awaitable[Made]]) -> Made:
    return await make()
