"""What clients ask for is begun in turn: a burst of one client delays itself, not the next who comes."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable


class Turns:
    """Who waits to be begun, by client. Where nobody waits, work is begun at once.

    `a_round` of them are begun in one round of the event loop, which reads and accepts what others have sent before the next; with
    `pause_seconds`, rounds are so far apart.
    """

    def __init__(self, a_round: int, pause_seconds: float = 0.0) -> None:
        self._a_round = a_round
        self._pause_seconds = pause_seconds
        self._left = a_round
        self._running = False
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()

    def begin(self, loop: asyncio.AbstractEventLoop, client: Callable[[], str], start: Callable[[], None]) -> None:
        """Call `start` now, or when the clients before it have had their turns; `client` is asked for only where it waits."""
        if not self._running:
            self._left = self._a_round
            self._go_on(loop)
        if self._left and not self._waiting:
            self._left -= 1
            start()
        else:
            self._waiting.setdefault(client(), deque()).append(start)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._running = True
        if self._pause_seconds:
            loop.call_later(self._pause_seconds, self._round, loop)
        else:
            loop.call_soon(self._round, loop)

    def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        """One of each client, and again, until the round is full."""
        self._running, self._left = False, self._a_round
        if self._waiting:
            self._go_on(loop)
        while self._waiting and self._left:
            client, starts = self._waiting.popitem(last=False)
            start = starts.popleft()
            if starts:
                self._waiting[client] = starts
            self._left -= 1
            start()
