"""What clients ask for is begun in turn: a burst of one client delays itself, not the next who comes."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

Start = Callable[[], object]
"""Begins something; returns False where there was nothing to begin any more, as its client is gone."""
_Work = tuple[Start, Callable[[], None]]
"""How it is begun, and how it is given up."""


def _nothing() -> None:
    pass


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
        self._waiting: OrderedDict[str, deque[_Work]] = OrderedDict()

    def begin(
        self, loop: asyncio.AbstractEventLoop, client: Callable[[], str], start: Start, give_up: Callable[[], None] = _nothing
    ) -> None:
        """Call `start` now, or when the clients before it have had their turns; `client` is asked for only where it waits.

        `give_up` is called instead of it where `give_up_one` chose it.
        """
        if not self._running:
            self._left = self._a_round
            self._go_on(loop)
        if self._left and not self._waiting:
            if start() is not False:
                self._left -= 1
        else:
            self._waiting.setdefault(client(), deque()).append((start, give_up))

    def give_up_one(self) -> bool:
        """Begin one less: the last of the client with most that waits. Returns whether anything waits."""
        if not self._waiting:
            return False
        client, works = max(self._waiting.items(), key=lambda item: len(item[1]))
        _, give_up = works.pop()
        if not works:
            del self._waiting[client]
        give_up()
        return True

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
            client, works = self._waiting.popitem(last=False)
            start, _ = works.popleft()
            if works:
                self._waiting[client] = works
            if start() is not False:
                self._left -= 1
