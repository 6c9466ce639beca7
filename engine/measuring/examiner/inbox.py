"""Requests as they come, and whether their sender does nothing meanwhile but wait for the next answer."""

import json
import queue
import threading
from collections.abc import Iterator
from typing import TextIO

from engine.measuring.examiner.messages import REQUEST, Request, Waits


class Inbox:
    """Reads lines in a thread of its own, so that what is said about a request arrives while that request is being answered."""

    def __init__(self, stream: TextIO) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._answered, self._waited_for = 0, -1
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def lines(self) -> Iterator[str]:
        """Requests that were not answered yet, up to the end of the stream."""
        return iter(self._lines.get, None)

    @staticmethod
    def request(line: str) -> Request:
        """What a line asks for."""
        return REQUEST.validate_json(line)

    def answered(self) -> None:
        """One more request was answered: its sender has something to do again."""
        with self._lock:
            self._answered += 1

    def sender_waits(self) -> bool:
        """Whether the sender waits for the answer that is being made, and leaves its share of the processor to it."""
        with self._lock:
            return self._waited_for == self._answered

    def _read(self, stream: TextIO) -> None:
        for line in stream:
            waits = json.loads(line)
            if waits.get("do") == Waits.model_fields["do"].default:
                with self._lock:
                    self._waited_for = Waits.model_validate(waits).answered
            else:
                self._lines.put(line)
        self._lines.put(None)
