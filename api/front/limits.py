"""How much one client may ask of one API process: requests a second, requests at once, bytes that wait, files under way.

Kept in memory and by process: with n processes behind a proxy a client may have n times as much. Jobs that are answered from memory cost
less than counting them, and are not counted.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from core.errors import RateLimited, Unavailable
from core.settings import Settings

_MOST_CLIENTS = 10_000
"""Clients that are remembered; who was not seen for longest starts afresh."""
BURST_SECONDS = 2.0
"""How much of its rate a client may use at once."""
FAILURES_PER_SECOND, FAILURES_BURST = 10.0, 200.0
"""Keys that are not valid, from one address."""
DOCUMENT_BYTES, PROJECT_DOCUMENT_BYTES = 32 * 2**20, 12 * 2**20
"""Bodies of requests that are being read into memory: of a process, and of one project."""
UPLOADS, DOWNLOADS = 32, 16
"""Files that one project sends, and receives, at once."""
DOWNLOAD_WAIT_SECONDS = 10.0
TURNS = 4
"""Requests of one project that are worked on at once; the others wait, so that a burst of them keeps nobody else waiting: each thread
that computes makes the event loop wait for its turn."""


class Buckets:
    """A token bucket for each client: `rate` tokens a second, `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, tokens: float = 1.0) -> None:
        """Raises `rate_limited`, which says when the next token is there."""
        wait = self.wait_seconds(client)
        if wait > 0:
            detail = f"more than {self._rate:g} requests a second"
            raise RateLimited(detail, hint="slow down; a job's Retry-After says when to ask again", retry_after_seconds=wait)
        left, at = self._left[client]
        self._left[client] = (left - tokens, at)

    def wait_seconds(self, client: str) -> float:
        """How long until a token is there; 0 where one is."""
        now = time.monotonic()
        left, at = self._left.get(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._left[client] = (left, now)
        self._left.move_to_end(client)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self._rate


@dataclass
class _Project:
    """What a project has under way."""

    requests: int = 0
    document_bytes: int = 0
    uploads: int = 0
    downloads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DOWNLOADS))
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TURNS))


class Limits:
    """The limits of one process. All of it runs on the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._requests_at_once = settings.max_requests_at_once
        rate = settings.requests_per_second
        self._requests = Buckets(rate, max(10.0, rate * BURST_SECONDS)) if rate else None
        self._failures = Buckets(FAILURES_PER_SECOND, FAILURES_BURST)
        self._projects: dict[str, _Project] = {}
        self._document_bytes = 0

    def arrive(self, client: str) -> None:
        """A request of a key, or of an address without one. Raises `rate_limited`."""
        if self._requests is not None:
            self._requests.take(client)

    def check_failures(self, address: str) -> None:
        """Raises `rate_limited` where an address sent too many keys that were not valid."""
        wait = self._failures.wait_seconds(address)
        if wait > 0:
            raise RateLimited("too many keys that are not valid came from this address", retry_after_seconds=wait)

    def failed(self, address: str) -> None:
        """A key was not valid."""
        self._failures.take(address)

    @asynccontextmanager
    async def under_way(self, project_id: str) -> AsyncIterator["Held"]:
        """A request that is being answered, and what it holds meanwhile. Raises `rate_limited`."""
        project = self._projects.get(project_id)
        if project is None:
            project = self._projects[project_id] = _Project()
        if project.requests >= self._requests_at_once:
            raise RateLimited(f"{project.requests} requests of the project are being answered", retry_after_seconds=1)
        project.requests += 1
        held = Held(self, project)
        try:
            await held.begin_turn()
            yield held
        finally:
            held.end_turn()
            self.release_document(project, held.document_bytes)
            project.requests -= 1
            if not project.requests:
                del self._projects[project_id]

    def take_document(self, project: _Project, size: int) -> None:
        """Bytes of a body are in memory now. Raises `rate_limited` and `service_unavailable`."""
        if project.document_bytes + size > PROJECT_DOCUMENT_BYTES:
            raise RateLimited("the project sends too many long documents at once", retry_after_seconds=2)
        if self._document_bytes + size > DOCUMENT_BYTES:
            raise Unavailable("too many long documents are being read", hint="try again", retry_after_seconds=2)
        project.document_bytes += size
        self._document_bytes += size

    def release_document(self, project: _Project, size: int) -> None:
        """They are not any more."""
        project.document_bytes -= size
        self._document_bytes -= size


class Held:
    """What one request holds until it is answered."""

    def __init__(self, limits: Limits, project: _Project) -> None:
        self._limits = limits
        self._project = project
        self.document_bytes = 0
        self._working = False

    async def begin_turn(self) -> None:
        """Wait until the project's earlier requests have been worked on."""
        await self._project.turns.acquire()
        self._working = True

    def end_turn(self) -> None:
        """From here the request waits for its client, or for something to happen: the next one may be worked on."""
        if self._working:
            self._working = False
            self._project.turns.release()

    def add_document(self, size: int) -> None:
        """So many more bytes of the body are in memory. Raises `rate_limited` and `service_unavailable`."""
        self._limits.take_document(self._project, size)
        self.document_bytes += size

    @contextmanager
    def upload(self) -> Iterator[None]:
        """A file that is being received. Raises `rate_limited`."""
        if self._project.uploads >= UPLOADS:
            raise RateLimited(f"the project sends {UPLOADS} files at once", hint="send fewer at a time", retry_after_seconds=2)
        self._project.uploads += 1
        try:
            yield
        finally:
            self._project.uploads -= 1

    @asynccontextmanager
    async def download(self) -> AsyncIterator[None]:
        """A file that is being sent; waits for its turn. Raises `rate_limited` where that does not come."""
        try:
            await asyncio.wait_for(self._project.downloads.acquire(), DOWNLOAD_WAIT_SECONDS)
        except TimeoutError:
            raise RateLimited(
                f"the project receives {DOWNLOADS} files at once", hint="fetch fewer at a time", retry_after_seconds=5
            ) from None
        try:
            yield
        finally:
            self._project.downloads.release()
