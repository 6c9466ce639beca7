"""Server-sent events: a job's history is replayed and then followed, by any number of clients, each at its own pace."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.gone import until_gone
from api.live.watch import Frame, Topic, Watch
from core.errors import MalformedRequest, ServiceError, Unauthenticated

HEARTBEAT_SECONDS = 15.0
KEY_SECONDS = 5.0
"""How often a stream asks whether its key is still valid."""
CURSOR = r"^((evt_[0-9a-z]{26})?[0-9]{1,15})?$"
"""What `sequence` reads."""
_CURSOR = re.compile(r"(?:evt_[0-9a-z]{26})?([0-9]{1,15})")


def sequence(cursor: str | None) -> int:
    """The number in an event's id (or a bare number); 0 for none. Raises `malformed_request`."""
    if not cursor:
        return 0
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise MalformedRequest(f"{cursor[:80]!r} is not an event's id", hint="send the id of the last event that was seen")
    return int(match[1])


@dataclass(frozen=True)
class Asked:
    """Which job's events are wanted, after which number."""

    project_id: str
    job_id: str
    seen: int


class EventStream(Response):
    """The events of one job after number `seen`, then each further one as it comes; `event: end` closes a job that has ended.

    `check_key` raises `unauthenticated` once the key was revoked or has expired: the stream ends then, without an `end`.

    Between events the latest `progress` is sent, without an id; an idle connection gets a comment every 15 seconds. Only events end with an
    empty line: what some readers take for an event without a name and data never comes.
    """

    media_type = "text/event-stream"

    def __init__(self, watch: Watch, replay: Callable[[int], list[Frame]], ask: Asked, check_key: Callable[[], Awaitable[object]]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._watch = watch
        self._replay = replay
        self._project_id = ask.project_id
        self._job_id = ask.job_id
        self._seen = ask.seen
        self._check_key = check_key
        self._checked_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the job has ended or the client is gone."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if not scope["state"]["head"]:
            async with until_gone(receive) as gone:
                with self._watch.topic(self._project_id, self._job_id) as topic:
                    await self._follow(topic, gone, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self, topic: Topic, gone: asyncio.Future[None], send: Send) -> None:
        await _write(send, b"retry: 2000\n")
        progress, written_at = b"", time.monotonic()
        while not gone.done() and await self._may_go_on():
            changed = topic.next_change()
            frames = topic.newer(self._seen)
            if frames is None:
                frames = await topic.replayed(self._seen, self._replay)
            if frames:
                self._seen = frames[-1].seq
                await _write(send, b"".join(frame.content for frame in frames))
                continue
            if topic.ended:
                await _write(send, b"event: end\ndata: {}\n\n")
                return
            if topic.progress != progress:
                progress = topic.progress
                await _write(send, progress)
                continue
            await asyncio.wait([changed, gone], timeout=min(KEY_SECONDS, HEARTBEAT_SECONDS), return_when=asyncio.FIRST_COMPLETED)
            if changed.done():
                written_at = time.monotonic()
            elif not gone.done() and time.monotonic() - written_at >= HEARTBEAT_SECONDS:
                written_at = time.monotonic()
                await _write(send, b": still here\n")

    async def _may_go_on(self) -> bool:
        if time.monotonic() - self._checked_at < KEY_SECONDS:
            return True
        self._checked_at = time.monotonic()
        try:
            await self._check_key()
        except Unauthenticated:
            return False
        except ServiceError:
            pass  # a database that does not answer decides nothing about the key
        return True


async def _write(send: Send, content: bytes) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": True})
