"""The heartbeat of one attempt: renews the lease, writes the progress, and reads whether the job should stop."""

import math
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from core import jobs
from core.errors import LeaseLost, StorageFull, Unavailable
from core.logging import logger
from core.service import Service
from worker.stop import Reason, Stop
from worker.transcript import Transcript

_LOOK_SECONDS = 0.3
"""How often the cancel flag is read between heartbeats."""
_SHORTEST_SECONDS = 0.2
"""Between two heartbeats, however much there is to report."""
_MARGIN = 1 / 3
"""Share of the lease that is left for killing the child when no heartbeat gets through."""
_log = logger(__name__)


class Pulse(threading.Thread):
    """Beats from `start` to `end`. Asks `stop` to end the attempt when the job is cancelled or the lease is, or will be, lost."""

    def __init__(self, service: Service, claim: jobs.Claim, transcript: Transcript, stop: Stop) -> None:
        super().__init__(name=f"pulse-{claim.job_id}", daemon=True)
        self._service = service
        self._claim = claim
        self._transcript = transcript
        self._asked = stop
        self._woken = threading.Event()
        self._ended = False
        self._has_news = False
        self._renewed = time.monotonic()  # the claim did
        self._last_beat = -math.inf

    def nudge(self) -> None:
        """There is something to report that should not wait for the next heartbeat."""
        self._has_news = True
        self._woken.set()

    def end(self) -> None:
        """Stop beating; returns when no statement is under way."""
        self._ended = True
        self._woken.set()
        self.join()

    def run(self) -> None:
        """Beat until the end."""
        settings = self._service.settings
        look = min(_LOOK_SECONDS, settings.heartbeat_seconds / 2)
        while not self._ended:
            self._woken.wait(look)
            self._woken.clear()
            now = time.monotonic()
            try:
                if now >= self._renewed + settings.heartbeat_seconds or (self._has_news and now >= self._last_beat + _SHORTEST_SECONDS):
                    self._has_news = False
                    asked = self._beat(settings.lease_seconds)
                    self._renewed = self._last_beat = now
                else:
                    asked = self._look()
                if asked:
                    self._asked.ask(Reason.CANCELLED)
            except LeaseLost:
                self._asked.ask(Reason.LEASE_LOST)
                return
            except (Unavailable, StorageFull, SQLAlchemyError) as error:
                _log.warning("heartbeat failed", error=str(error).splitlines()[0])
            if time.monotonic() - self._renewed > settings.lease_seconds * (1 - _MARGIN):
                # Another worker may take the job from now on: two of them must not run it.
                self._asked.ask(Reason.LEASE_LOST)

    def _beat(self, lease_seconds: float) -> bool:
        with self._transcript.reporting() as report, self._service.database.unit_of_work() as session:
            beat = jobs.heartbeat(session, self._claim.job_id, self._claim.fence, lease_seconds=lease_seconds, report=report)
        return beat.cancel_requested

    def _look(self) -> bool:
        with self._service.database.reader() as session:
            return jobs.should_stop(session, self._claim.job_id, self._claim.fence)
