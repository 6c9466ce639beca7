"""Repairs what a death left behind: one process at a time, under a lease in the database.

Every second it re-queues or ends the jobs whose worker is not heard of, moves jobs that may run anywhere to where a worker for them
is, and rings for jobs that nobody took. Every minute it forgets
what has expired: idempotency keys, sessions, uploads, staged files, blobs without a use.
"""

import socket
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from os import getpid

from sqlalchemy import literal_column, or_, select
from sqlalchemy.exc import DBAPIError

from core import failpoints
from core.access import sessions
from core.blobs import Blobs
from core.database import leases
from core.database.clock import db_now, now
from core.database.db import Database
from core.database.tables import Job
from core.jobs import idempotency, placement
from core.jobs.work import lose
from core.library.uploads import Uploads
from core.logging import logger
from core.queue import Doorbell
from core.settings import Settings
from core.webhooks import deliveries

LEASE = "reconciler"
_TIDY_SECONDS = 60
_MOST_RINGS = 8
_log = logger(__name__)


@dataclass
class Pass:
    """What one pass did."""

    lost: int = 0
    moved: int = 0
    rung: int = 0
    expired_keys: int = 0
    expired_leases: int = 0
    expired_sessions: int = 0
    expired_uploads: int = 0
    expired_deliveries: int = 0
    removed_staged: int = 0
    removed_blobs: int = 0


class Reconciler:
    """Runs in a thread of the API's process and of `modelpress serve`; all but one of them only wait."""

    def __init__(self, settings: Settings, database: Database, blobs: Blobs, doorbell: Doorbell) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._doorbell = doorbell
        self._owner = f"{socket.gethostname()}:{getpid()}:{id(self):x}"
        self._lease_seconds = max(5.0, 5 * settings.reconcile_seconds)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._tidied = float("-inf")
        self._clocks: tuple[float, datetime] | None = None
        self._distrust_until = float("-inf")

    def start(self) -> None:
        """Begin in a background thread."""
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and give the lease back."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def run_once(self) -> Pass | None:
        """One pass; None while another process is the reconciler."""
        with self._database.unit_of_work() as session:
            if not leases.acquire(session, LEASE, self._owner, self._lease_seconds):
                return None
            here = now(session)
        done = Pass()
        if self._clock_is_steady(here):
            done.lost = self.take_back_lost()
        failpoints.hit("reconcile.after_lost")
        with self._database.unit_of_work() as session:
            done.moved = placement.follow_workers(session, self._settings)
        done.rung = self._ring()
        if time.monotonic() - self._tidied >= _TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._tidy(done)
        return done

    def _run(self) -> None:
        while not self._stopped.wait(self._settings.reconcile_seconds):
            try:
                self.run_once()
            except Exception:
                # The database may be away for a while: the next pass finds everything as it is then.
                _log.exception("reconcile_failed")
        try:
            with self._database.unit_of_work() as session:
                leases.release(session, LEASE, self._owner)
        except DBAPIError:
            _log.warning("reconciler_lease_kept")

    def _clock_is_steady(self, here: datetime) -> bool:
        """False for a lease's length after the database's clock jumped, so that a jump does not expire every lease at once."""
        mono = time.monotonic()
        if self._clocks is not None:
            before_mono, before = self._clocks
            jump = (here - before).total_seconds() - (mono - before_mono)
            if abs(jump) > self._settings.lease_seconds / 2:
                _log.warning("database_clock_jumped", seconds=round(jump, 3))
                self._distrust_until = mono + self._settings.lease_seconds
        self._clocks = (mono, here)
        return mono >= self._distrust_until

    def take_back_lost(self) -> int:
        """Re-queue or end every job whose lease has run out; returns how many."""
        with self._database.reader() as session:
            expired = select(Job.id, Job.fence).where(Job.status == literal_column("'running'"), Job.lease_expires_at < db_now())
            rows = list(session.execute(expired))
        count = 0
        for row in rows:
            with self._database.unit_of_work() as session:
                job = lose(session, row.id, row.fence)
            if job is not None:
                count += 1
                _log.warning("worker_lost", job_id=row.id, fence=row.fence, status=job.status)
        return count

    def _ring(self) -> int:
        """Ring for jobs that wait longer than one pass; what the broker still holds is not added to."""
        rung = 0
        for queue in (self._settings.cpu_queue, self._settings.gpu_queue, self._settings.inspect_queue):
            overdue = (
                select(Job.id)
                .where(
                    Job.status == literal_column("'queued'"),
                    Job.queue == queue,
                    Job.created_at < db_now(-self._settings.reconcile_seconds),
                    or_(Job.available_at.is_(None), Job.available_at <= db_now()),
                )
                .limit(_MOST_RINGS)
            )
            with self._database.reader() as session:
                waiting = len(list(session.scalars(overdue)))
            if waiting:
                self._doorbell.ring(queue, count=waiting, only_if_silent=True)
                rung += 1
        return rung

    def _tidy(self, done: Pass) -> None:
        with self._database.unit_of_work() as session:
            done.expired_keys = idempotency.expire(session)
            done.expired_leases = leases.expire(session)
            done.expired_deliveries = deliveries.expire(session)
            done.expired_sessions = sessions.expire(session)
        done.expired_uploads = Uploads(self._settings, self._database, self._blobs).expire()
        done.removed_staged = self._blobs.sweep_staging()
        done.removed_blobs = self._blobs.collect()
