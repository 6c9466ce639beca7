"""Jobs that are asked for again and again are answered from memory; the poller keeps the memory true.

An answer is used while the database confirmed, less than a second ago, that the job's version is still the one that was rendered.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.concurrency import run_in_threadpool

from api.http.coding import MIN_BYTES, packed, recoded
from api.http.conditional import tagged
from core.database.serialization import to_json
from core.database.tables import Job
from core.jobs import TERMINAL, Mark, body

MAX_AGE_SECONDS = 0.8
_IDLE_SECONDS = 10.0
_MAX_ENTRIES = 4096
_MAX_BYTES = 16 * 2**20
_MAX_ENTRY_BYTES = 256 * 1024
"""A job whose JSON is longer is read from the database each time."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as it goes out."""

    etag: str
    raw_headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(slots=True)
class Rendered:
    """A job as JSON, and its headers."""

    project_id: str
    job_id: str
    version: int
    terminal: bool
    etag: str
    body: bytes
    retry_after: str | None
    checked_at: float
    used_at: float
    raw_headers: list[tuple[bytes, bytes]]
    """Of an answer with the body, as ASGI takes them."""
    _coded: dict[str, Sent] = field(default_factory=dict)

    def sent(self, coding: str | None) -> Sent:
        """The answer in a coding; packed once for all who ask for it."""
        if coding is None or len(self.body) < MIN_BYTES:
            return Sent(self.etag, self.raw_headers, self.body)
        found = self._coded.get(coding)
        if found is None:
            content = packed(self.body, coding)
            found = Sent(tagged(self.etag, coding), recoded(self.raw_headers, coding, len(content)), content)
            self._coded[coding] = found
        return found


class HotJobs:
    """The rendered jobs of this process."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Rendered] = OrderedDict()
        self._bytes = 0
        self._reading: dict[tuple[str, str], asyncio.Task[Rendered]] = {}
        """What the database is being asked for: those who ask meanwhile wait for the same answer."""

    def get(self, project_id: str, job_id: str) -> Rendered | None:
        """The job, where memory is fresh enough to answer for the database."""
        entry = self._entries.get(job_id)
        if entry is None or entry.project_id != project_id:
            return None
        now = time.monotonic()
        if now - entry.checked_at > MAX_AGE_SECONDS:
            return None
        entry.used_at = now
        return entry

    async def fetch(self, project_id: str, job_id: str, read: Callable[[str, str], Rendered]) -> Rendered:
        """The job as `read` finds it in the database, remembered for those who ask next. Raises what `read` raises."""
        asked = (project_id, job_id)
        reading = self._reading.get(asked)
        if reading is None:
            reading = self._reading[asked] = asyncio.create_task(run_in_threadpool(read, project_id, job_id))
            reading.add_done_callback(lambda done: self._was_read(asked, done))
        return await asyncio.shield(reading)

    def _was_read(self, asked: tuple[str, str], reading: "asyncio.Task[Rendered]") -> None:
        if self._reading.get(asked) is not reading:
            return  # the job was changed meanwhile
        del self._reading[asked]
        if not reading.cancelled() and reading.exception() is None:
            self.put(reading.result())

    def changed(self, job_id: str) -> None:
        """This process has changed a job: what was known, and what is being read, counts no more."""
        self.forget(job_id)
        for asked in [asked for asked in self._reading if asked[1] == job_id]:
            del self._reading[asked]

    def put(self, entry: Rendered) -> None:
        """Remember a job that was read from the database."""
        self.forget(entry.job_id)
        if len(entry.body) > _MAX_ENTRY_BYTES:
            return
        self._entries[entry.job_id] = entry
        self._bytes += len(entry.body)
        while len(self._entries) > _MAX_ENTRIES or self._bytes > _MAX_BYTES:
            self.forget(next(iter(self._entries)))

    def forget(self, job_id: str) -> None:
        """Drop a job."""
        entry = self._entries.pop(job_id, None)
        if entry is not None:
            self._bytes -= len(entry.body)

    def job_ids(self) -> Iterable[str]:
        """The jobs that somebody asked for lately; the others are dropped."""
        horizon = time.monotonic() - _IDLE_SECONDS
        for job_id in [entry.job_id for entry in self._entries.values() if entry.used_at < horizon]:
            self.forget(job_id)
        return list(self._entries)

    def seen(self, marks: Mapping[str, Mark], asked_at: float) -> None:
        """Confirm what is unchanged and drop the rest."""
        for entry in list(self._entries.values()):
            mark = marks.get(entry.job_id)
            if mark is not None and mark.version == entry.version:
                entry.checked_at = max(entry.checked_at, asked_at)
            elif mark is not None or asked_at > entry.checked_at:
                self.forget(entry.job_id)


def render(job: Job) -> Rendered:
    """A job as it was read just now."""
    etag = f'"{job.version}"'
    wait = None
    if job.status not in TERMINAL:
        age = (datetime.now(UTC) - job.created_at).total_seconds()
        wait = str(round(min(max(1.0, age / 20), 30.0)))
    now = time.monotonic()
    content = to_json(body(job)).encode()
    headers = {"etag": etag, "cache-control": "private, no-cache"} | ({"retry-after": wait} if wait else {})
    described = headers | {"content-type": "application/json", "content-length": str(len(content)), "vary": "accept-encoding"}
    raw = [(name.encode(), value.encode()) for name, value in described.items()]
    return Rendered(job.project_id, job.id, job.version, job.status in TERMINAL, etag, content, wait, now, now, raw)
