"""The doorbell: wakes workers when a queue has work. The database is the truth; a lost message changes nothing.

Ringing never waits: a thread of its own connects to the broker, with time limits, so that a dead broker, or one that accepts and never
answers, delays no request. Messages carry the queue's name and nothing else.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from typing import TYPE_CHECKING

from core.errors import Unavailable
from core.logging import logger
from core.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

TASK = "modelpress.doorbell"
MOST_WAITING = 32
"""More messages than this are not left with the broker for one queue: one is enough, more wake several workers."""
_PAUSE_SECONDS = 1.0
_log = logger(__name__)


def make_app(settings: Settings) -> Celery:
    """The Celery application of producers and workers: early acknowledgement, no results, no retries, bounded waiting."""
    from celery import Celery  # loaded by what rings or is rung for, which starting an API need not wait for

    app = Celery("modelpress", broker=settings.broker_url or "memory://", set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue=settings.cpu_queue,
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_connect_timeout": 1, "socket_timeout": 5, "socket_keepalive": True, "visibility_timeout": 3600},
    )
    return app


def check_url(settings: Settings) -> None:
    """Raises `service_unavailable` for a broker that cannot be spoken to, whatever stands behind it."""
    from kombu.transport import TRANSPORT_ALIASES

    scheme, separator, _ = settings.broker_url.partition("://")
    if settings.broker_url and (not separator or scheme not in {*TRANSPORT_ALIASES, "redis+socket"}):
        known = "redis://…, rediss://… or redis+socket://…"
        raise Unavailable(
            f"MODELPRESS_BROKER_URL begins with {scheme[:40]!r}, which is no broker that is known here", hint=f"write {known}"
        )


class Doorbell:
    """Rings from a background thread. Without a broker URL it is silent: workers are then woken by their own polling."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._silent = not settings.broker_url
        self._asked: Counter[str] = Counter()
        self._repeated: set[str] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def ring(self, queue: str, *, count: int = 1, only_if_silent: bool = False) -> None:
        """Ask for messages on `queue`; returns at once. What piles up while the broker is away is bounded.

        `only_if_silent` repeats a bell: nothing is sent while the broker still holds a message for the queue.
        """
        if self._silent:
            return
        with self._changed:
            if only_if_silent and queue not in self._asked:
                self._repeated.add(queue)
            elif not only_if_silent:
                self._repeated.discard(queue)
            self._asked[queue] = min(self._asked[queue] + count, MOST_WAITING)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
                self._thread.start()
            self._changed.notify()

    @functools.cached_property
    def _app(self) -> Celery:
        return make_app(self._settings)

    def failure(self) -> str | None:
        """Why the broker cannot be reached, in a word; None when it can, or when there is none. Takes at most a few seconds."""
        if self._silent:
            return None
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=2)
        except Exception as error:
            return type(error).__name__
        return None

    def close(self) -> None:
        """Stop ringing; what was asked for and not sent is left to the reconciler."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._asked and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                asked, self._asked = self._asked, Counter()
                repeated, self._repeated = self._repeated, set()
            try:
                self._send(asked, repeated)
            except Exception as error:
                # Celery, kombu and the broker's client have errors of their own each; none may end this thread.
                _log.warning("doorbell_failed", error=str(error), queues=sorted(asked))
                with self._changed:
                    # Let go of what could not be sent: jobs that nobody took are rung for by the reconciler.
                    self._changed.wait_for(lambda: self._closed, timeout=_PAUSE_SECONDS)

    def _send(self, asked: Counter[str], repeated: set[str]) -> None:
        with self._app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            with connection.channel() as channel:
                for queue, count in asked.items():
                    waiting = channel.queue_declare(queue=queue, durable=True, auto_delete=False).message_count
                    room = 0 if waiting and queue in repeated else MOST_WAITING - waiting
                    for _ in range(min(count, room)):
                        self._app.send_task(TASK, args=[queue], queue=queue, connection=connection, retry=False, ignore_result=True)
