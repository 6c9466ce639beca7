"""One poller for every client of this process that waits for a job, so that the database's load does not grow with their number."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from starlette.concurrency import run_in_threadpool

from core.jobs import TERMINAL, Mark
from core.logging import logger

log = logger(__name__)
POLL_SECONDS = 0.25
_KEPT_FRAMES = 256
_KEPT_BYTES = 256 * 1024
"""Events of one job that are kept for those who follow it."""
_IDS_IN_A_STATEMENT = 500
_WOKEN_AT_ONCE = 32
"""Of those who wait for a job, so many are woken in one round of the event loop: between the rounds it serves others."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a job, ready to be sent."""

    seq: int
    content: bytes


@dataclass(frozen=True)
class News:
    """What happened to a job since the last look: its new events, and how far it is."""

    frames: Sequence[Frame]
    progress: bytes
    cut: bool = False
    """Whether there were more events than are worth keeping: each follower reads them by itself."""


@dataclass(eq=False)
class Topic:
    """What the clients of one job share: its mark, its latest events, and the futures that the next change resolves.

    `mark` is None before the first poll and after the job is gone; `polled` distinguishes the two.
    """

    project_id: str
    job_id: str
    watchers: int = 0
    polled: bool = False
    mark: Mark | None = None
    progress: bytes = b""
    frames: deque[Frame] = field(default_factory=lambda: deque(maxlen=_KEPT_FRAMES))
    replays: dict[int, asyncio.Task[list[Frame]]] = field(default_factory=dict)
    """What is being read for followers who have seen less than is in memory, by the number of the last event that they saw."""
    _groups: list[asyncio.Future[None]] = field(default_factory=list)
    """Of those who wait; each group is woken by itself."""
    _last_group: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.polled and (self.mark is None or self.mark.status in TERMINAL)

    def newer(self, seq: int) -> list[Frame] | None:
        """The events after `seq`, or None where those in memory do not reach back so far."""
        if self.polled and (self.mark is None or seq >= self.mark.event_seq):
            return []
        if not self.frames or self.frames[0].seq > seq + 1:
            return None
        return [frame for frame in self.frames if frame.seq > seq] or None

    async def replayed(self, seq: int, read: Callable[[int], list[Frame]]) -> list[Frame]:
        """The next events after `seq`, as `read` finds them; those who ask for the same meanwhile share the answer."""
        reading = self.replays.get(seq)
        if reading is None:
            reading = self.replays[seq] = asyncio.create_task(run_in_threadpool(read, seq))
            reading.add_done_callback(lambda _: self.replays.pop(seq))
        frames = await asyncio.shield(reading)
        if not self.frames and self.mark is not None and frames and frames[-1].seq >= self.mark.event_seq:
            # They reach from `seq` to the latest event: the next one who follows needs no database.
            self._keep(frames)
        return frames

    def publish(self, mark: Mark | None, news: News) -> None:
        """Wake everyone who waits."""
        self.polled, self.mark, self.progress = True, mark, news.progress
        if news.cut:
            self.frames.clear()
        self._keep(news.frames)
        self._wake(0)

    def next_change(self) -> asyncio.Future[None]:
        """Resolved soon after the next change. Ask for it before looking at what it is about: then no change is missed."""
        wanted = 1 + self.watchers // _WOKEN_AT_ONCE
        while len(self._groups) < wanted:
            self._groups.append(asyncio.get_running_loop().create_future())
        self._last_group = (self._last_group + 1) % wanted
        return self._groups[self._last_group]

    def _wake(self, group: int) -> None:
        """This group and, a round of the event loop later each, those after it."""
        if group < len(self._groups):
            loop = asyncio.get_running_loop()
            self._groups[group].set_result(None)
            self._groups[group] = loop.create_future()
            loop.call_soon(self._wake, group + 1)

    def _keep(self, frames: Iterable[Frame]) -> None:
        last = self.frames[-1].seq if self.frames else 0
        self.frames.extend(frame for frame in frames if frame.seq > last)
        size = sum(len(frame.content) for frame in self.frames)
        while size > _KEPT_BYTES:
            size -= len(self.frames.popleft().content)


class Follower(Protocol):
    """Someone who wants the marks of some jobs at every poll."""

    def job_ids(self) -> Iterable[str]:
        """The jobs to ask for."""
        ...

    def seen(self, marks: Mapping[str, Mark], asked_at: float) -> None:
        """The marks as they were in the database at `asked_at` (monotonic) or later; a job that is gone is missing."""
        ...


class Watch:
    """Asks for the marks of all watched jobs in one statement, four times a second and at once when this process changed a job.

    `read_news(project_id, job_id, after)` reads one changed job, with the events after number `after` (None: no events).
    """

    def __init__(
        self,
        read_marks: Callable[[Sequence[str]], dict[str, Mark]],
        read_news: Callable[[str, str, int | None], News],
        *followers: Follower,
    ) -> None:
        self._read_marks = read_marks
        self._read_news = read_news
        self._followers = followers
        self._topics: dict[str, Topic] = {}
        self._wake = asyncio.Event()

    @contextlib.contextmanager
    def topic(self, project_id: str, job_id: str) -> Iterator[Topic]:
        """The shared state of one job, for as long as the block runs."""
        topic = self._topics.get(job_id)
        if topic is None:
            topic = self._topics[job_id] = Topic(project_id, job_id)
            self.nudge()
        topic.watchers += 1
        try:
            yield topic
        finally:
            topic.watchers -= 1
            if topic.watchers == 0:
                del self._topics[job_id]

    async def until(self, project_id: str, job_id: str, done: Callable[[Mark | None], bool], seconds: float) -> None:
        """Wait until `done` holds for the job's mark (None: the job is gone), at most `seconds`."""
        deadline = time.monotonic() + seconds
        with self.topic(project_id, job_id) as topic:
            while True:
                changed = topic.next_change()
                left = deadline - time.monotonic()
                if left <= 0 or (topic.polled and done(topic.mark)):
                    return
                await asyncio.wait([changed], timeout=left)

    def nudge(self) -> None:
        """Poll now: this process has just changed a job."""
        self._wake.set()

    async def run(self) -> None:
        """Poll until cancelled. A database that does not answer only delays the news."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
            self._wake.clear()
            try:
                await self._poll()
            except Exception:  # Whatever it is, watching goes on: those who wait would never be answered.
                log.exception("poll_failed")
                await asyncio.sleep(1)

    async def _poll(self) -> None:
        topics = list(self._topics.values())
        wanted = {topic.job_id for topic in topics}.union(*(follower.job_ids() for follower in self._followers))
        if not wanted:
            return
        asked_at = time.monotonic()
        marks = await run_in_threadpool(self._marks, sorted(wanted))
        for follower in self._followers:
            follower.seen(marks, asked_at)
        for topic in topics:
            mark = marks.get(topic.job_id)
            if topic.polled and mark == topic.mark:
                continue
            news = News((), b"")
            if mark is not None:
                after = max(topic.mark.event_seq, topic.frames[-1].seq if topic.frames else 0) if topic.mark is not None else None
                news = await run_in_threadpool(self._read_news, topic.project_id, topic.job_id, after)
            topic.publish(mark, news)

    def _marks(self, job_ids: list[str]) -> dict[str, Mark]:
        marks: dict[str, Mark] = {}
        for start in range(0, len(job_ids), _IDS_IN_A_STATEMENT):
            marks |= self._read_marks(job_ids[start : start + _IDS_IN_A_STATEMENT])
        return marks
