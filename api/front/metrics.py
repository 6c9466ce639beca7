"""Prometheus figures: what this process has served, and what the database holds about the jobs."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import Scope

from core.database import clock
from core.database.db import Session
from core.jobs import worker_registry
from core.operations import statistics
from core.service import Service

CONTENT_TYPE = CONTENT_TYPE_LATEST
_LATE_COMMIT = timedelta(seconds=30)
"""A job's end is written down a little before it can be read."""
_PAGE = 1000
_JOB_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)


class Attempts(Collector):
    """Claims and what became of them, of the whole service and since it began: every API process reports the same."""

    def __init__(self) -> None:
        self._ended: dict[str, int] = {}
        self._running = 0

    def update(self, ended: dict[str, int], running: int) -> None:
        """Take over the database's counts."""
        self._ended, self._running = ended, running

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The three counters."""
        claims = CounterMetricFamily("modelpress_claims", "Jobs and inspections taken by workers, once for each attempt.")
        claims.add_metric([], sum(self._ended.values()) + self._running)
        lost = CounterMetricFamily("modelpress_leases_lost", "Attempts whose worker was not heard of any more.")
        lost.add_metric([], self._ended.get("lost", 0))
        attempts = CounterMetricFamily("modelpress_attempts_ended", "Attempts that ended, by how.", labels=["ended"])
        for ended, count in self._ended.items():
            attempts.add_metric([ended], count)
        return iter((claims, lost, attempts))


class Metrics:
    """One process's registry. Counters of jobs begin when the process does, as Prometheus expects of a restart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("modelpress_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry)
        self._request_seconds = Histogram(
            "modelpress_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["method", "route"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2.5, 10, 60),
            registry=self.registry,
        )
        self._damage = Counter(
            "modelpress_checksum_mismatches", "Downloads that were refused or cut off at damaged bytes.", registry=self.registry
        )
        self._jobs = Gauge("modelpress_jobs", "Jobs in the database.", ["queue", "status"], registry=self.registry)
        self._workers = Gauge("modelpress_workers", "Workers that are there.", ["queue"], registry=self.registry)
        self._busy = Gauge("modelpress_workers_busy", "Workers that have a job.", ["queue"], registry=self.registry)
        self._attempts = Attempts()
        self.registry.register(self._attempts)
        self._finished = Counter(
            "modelpress_jobs_finished", "Jobs that ended, once for each of their methods.", ["method", "status"], registry=self.registry
        )
        self._queue_seconds = Histogram(
            "modelpress_job_queue_seconds", "Time from submission to the first claim.", buckets=_JOB_BUCKETS, registry=self.registry
        )
        self._step_seconds = Histogram(
            "modelpress_step_seconds", "Time that a finished step took.", ["method"], buckets=_JOB_BUCKETS, registry=self.registry
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._lock = threading.Lock()
        self._begun = self._since = datetime.max.replace(tzinfo=UTC)
        self._counted: dict[str, None] = {}

    def observe_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request under its route; the path itself would be a label without bounds."""
        key = (scope["method"], getattr(scope.get("route"), "path", "none"), status)
        found = self._children.get(key)
        if found is None:
            method = key[0] if key[0] in _METHODS else "other"
            found = self._requests.labels(method, key[1], status), self._request_seconds.labels(method, key[1])
            if method != "other":
                self._children[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def count_damage(self) -> None:
        """Count a download that met damaged bytes."""
        self._damage.inc()

    def begin(self, service: Service) -> None:
        """Count jobs that end from now on."""
        with service.database.reader() as session:
            self._begun = self._since = clock.now(session)

    def exposition(self, service: Service) -> bytes:
        """Everything in Prometheus' text format, brought up to date."""
        with self._lock, service.database.reader() as session:
            self._jobs.clear()
            for (queue, status), count in statistics.jobs_by_status(session).items():
                self._jobs.labels(queue, status).set(count)
            running = statistics.running_by_queue(session)
            settings = service.settings
            for queue in (settings.cpu_queue, settings.gpu_queue, settings.inspect_queue):
                self._workers.labels(queue).set(worker_registry.count(session, queue))
                self._busy.labels(queue).set(running.get(queue, 0))
            self._attempts.update(statistics.attempts_by_end(session), sum(running.values()))
            self._count_finished(session)
        return generate_latest(self.registry)

    def _count_finished(self, session: Session) -> None:
        """Look once more at the last seconds, whose jobs may have been committed since, and then go on."""
        since = max(self._since - _LATE_COMMIT, self._begun)
        while True:
            found, moment = statistics.finished_since(session, since, limit=_PAGE)
            for job in found:
                if job.job_id not in self._counted:
                    self._counted[job.job_id] = None
                    self._count(job)
            if len(found) < _PAGE or moment == since:
                break
            since = moment
        self._since = max(self._since, moment)
        while len(self._counted) > 10 * _PAGE:
            del self._counted[next(iter(self._counted))]

    def _count(self, job: statistics.Finished) -> None:
        for method in dict.fromkeys(job.methods):
            self._finished.labels(method, job.status).inc()
        self._queue_seconds.observe(job.queue_seconds)
        for method, seconds in job.steps:
            self._step_seconds.labels(method).observe(seconds)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
