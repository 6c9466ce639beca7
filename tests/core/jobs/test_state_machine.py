"""Random lives of jobs against a model of them: only legal edges, one end, growing fences, a history without gaps."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, update

from core import jobs
from core.database.clock import db_now
from core.database.tables import Job, LedgerEntry
from core.errors import JobAlreadyTerminal, JobNotTerminal, LeaseLost, NotFound
from core.jobs import JobError
from core.operations.reconciler import Reconciler
from tests.core.conftest import World, make_world


@dataclass
class Expected:
    """What the model knows of one job."""

    status: str = "queued"
    fence: int = 0
    attempt: int = 0
    cancel: bool = False
    expired: bool = False
    charges: list[int] = field(default_factory=list)


class Lives(RuleBasedStateMachine):
    """Clients, workers (living and dead) and the reconciler act in any order."""

    world: World
    max_attempts = 2

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Expected] = {}
        self.seen_terminal: dict[str, str] = {}

    jobs_ = Bundle("jobs")
    claims = Bundle("claims")

    @initialize()
    def begin(self) -> None:
        with self.world.service.database.unit_of_work() as session:
            session.execute(update(Job).where(Job.status == "queued").values(queue="elsewhere"))

    @rule(target=jobs_)
    def submit(self) -> str:
        job = self.world.submit(max_attempts=self.max_attempts)
        self.model[job.id] = Expected()
        return job.id

    @rule(target=claims)
    def claim(self) -> tuple[str, int]:
        claim = self.world.claim()
        waiting = [job for job, known in self.model.items() if known.status == "queued"]
        if not waiting:
            assert claim is None
            return ("", 0)
        assert claim is not None
        assert claim.job_id == min(waiting)
        known = self.model[claim.job_id]
        known.status, known.expired = "running", False
        known.fence += 1
        known.attempt += 1
        assert (claim.fence, claim.attempt) == (known.fence, known.attempt)
        return (claim.job_id, claim.fence)

    def _holds(self, claim: tuple[str, int]) -> bool:
        known = self.model.get(claim[0])
        return known is not None and known.status == "running" and known.fence == claim[1]

    def _write(self, claim: tuple[str, int], action: Any) -> bool:
        """Do what a worker does; the answer must be what the model says."""
        holds = self._holds(claim)
        try:
            with self.world.service.database.unit_of_work() as session:
                action(session, *claim)
        except LeaseLost:
            assert not holds
            return False
        assert holds
        return True

    def _ended(self, claim: tuple[str, int], status: str) -> None:
        known = self.model[claim[0]]
        known.status = status
        known.charges.append(known.fence)

    @rule(claim=claims)
    def heartbeat(self, claim: tuple[str, int]) -> None:
        answers = []
        if self._write(claim, lambda *at: answers.append(jobs.heartbeat(*at, lease_seconds=60))):
            assert answers[0].cancel_requested == self.model[claim[0]].cancel
            self.model[claim[0]].expired = False

    @rule(claim=claims)
    def finish(self, claim: tuple[str, int]) -> None:
        if self._write(claim, lambda *at: jobs.finish(*at, outcome=None, result={})):
            self._ended(claim, "succeeded")

    @rule(claim=claims, category=st.sampled_from(["user", "transient"]))
    def fail(self, claim: tuple[str, int], category: Any) -> None:
        error = JobError.of("some_error", category, "it went wrong")
        if self._write(claim, lambda session, job, fence: jobs.fail(session, job, fence, error, retry_delay_seconds=0)):
            known = self.model[claim[0]]
            if category == "transient" and known.cancel:
                self._ended(claim, "cancelled")
            else:
                self._ended(claim, "queued" if category == "transient" and known.attempt < self.max_attempts else "failed")

    @rule(claim=claims)
    def release(self, claim: tuple[str, int]) -> None:
        if self._write(claim, jobs.release):
            known = self.model[claim[0]]
            self._ended(claim, "cancelled" if known.cancel else "queued")
            known.attempt -= not known.cancel

    @rule(claim=claims)
    def stop_as_asked(self, claim: tuple[str, int]) -> None:
        known = self.model.get(claim[0])
        if known is not None and self._holds(claim) and not known.cancel:
            with pytest.raises(LeaseLost), self.world.service.database.unit_of_work() as session:
                jobs.cancelled(session, *claim)
        elif self._write(claim, jobs.cancelled):
            self._ended(claim, "cancelled")

    @rule(job_id=jobs_)
    def cancel(self, job_id: str) -> None:
        known = self.model.get(job_id)
        try:
            with self.world.service.database.unit_of_work() as session:
                jobs.cancel(session, self.world.project_id, job_id)
        except JobAlreadyTerminal:
            assert known is not None
            assert known.status in ("succeeded", "failed")
        except NotFound:
            assert known is None
        else:
            assert known is not None
            if known.status == "queued":
                known.status = "cancelled"
            elif known.status == "running":
                known.cancel = True

    @rule(claim=claims)
    def worker_falls_silent(self, claim: tuple[str, int]) -> None:
        if self._holds(claim):
            with self.world.service.database.unit_of_work() as session:
                session.execute(update(Job).where(Job.id == claim[0]).values(lease_expires_at=db_now(-1)))
            self.model[claim[0]].expired = True

    @rule()
    def reconcile(self) -> None:
        service = self.world.service
        Reconciler(service.settings, service.database, service.blobs, service.doorbell).take_back_lost()
        for known in self.model.values():
            if known.status == "running" and known.expired:
                known.charges.append(known.fence)
                if known.cancel:
                    known.status = "cancelled"
                else:
                    known.status = "queued" if known.attempt < self.max_attempts else "failed"

    @rule(job_id=jobs_)
    def delete(self, job_id: str) -> None:
        known = self.model.get(job_id)
        try:
            with self.world.service.database.unit_of_work() as session:
                jobs.delete(session, self.world.project_id, job_id)
        except JobNotTerminal:
            assert known is not None
            assert known.status in ("queued", "running")
        except NotFound:
            assert known is None
        else:
            assert known is not None
            assert known.status in jobs.TERMINAL
            del self.model[job_id]

    @invariant()
    def the_database_agrees(self) -> None:
        if not self.model:
            return
        with self.world.service.database.reader() as session:
            rows = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(self.model)))}
            charged = session.execute(select(LedgerEntry.job_id, LedgerEntry.fence).where(LedgerEntry.job_id.in_(self.model)))
            charges = sorted((row.job_id, row.fence) for row in charged)
        assert rows.keys() == self.model.keys()
        for job_id, known in self.model.items():
            row = rows[job_id]
            assert (row.status, row.fence, row.attempt) == (known.status, known.fence, known.attempt)
            assert (row.lease_expires_at is not None) == (known.status == "running")
            assert (row.finished_at is not None) == (known.status in jobs.TERMINAL)
        assert charges == sorted((job_id, fence) for job_id, known in self.model.items() for fence in known.charges)

    def teardown(self) -> None:
        for job_id, known in self.model.items():
            history = self.world.events(job_id)
            assert sum(event in jobs.TERMINAL for event in history) == (known.status in jobs.TERMINAL)


def test_random_lives_agree_with_the_model(service) -> None:
    Lives.world = make_world(service)
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
        ),
    )
