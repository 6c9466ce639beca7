"""Figures about the jobs for an operator's dashboards; over all projects, and never naming one."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database.tables import Job, JobEvent, LedgerEntry
from core.jobs.states import TERMINAL, Status


@dataclass(frozen=True)
class Finished:
    """One job that has ended."""

    job_id: str
    status: str
    methods: tuple[str, ...]
    queue_seconds: float
    """From its creation to its first claim, or to its end where nobody claimed it."""
    steps: tuple[tuple[str, float], ...]
    """Method and seconds of each step that was finished, as far as heartbeats reported the time."""


def jobs_by_status(session: Session) -> dict[tuple[str, str], int]:
    """Number of compressions by queue and status."""
    statement = select(Job.queue, Job.status, func.count()).where(Job.shown).group_by(Job.queue, Job.status)
    return {(queue, status): count for queue, status, count in session.execute(statement)}


def running_by_queue(session: Session) -> dict[str, int]:
    """Number of jobs in work by queue, inspections included: each keeps one worker busy."""
    statement = select(Job.queue, func.count()).where(Job.status == Status.RUNNING).group_by(Job.queue)
    return {row[0]: row[1] for row in session.execute(statement)}


def attempts_by_end(session: Session) -> dict[str, int]:
    """Number of attempts that have ended, by how: succeeded, failed, cancelled, lost, released, retried. Never gets smaller."""
    statement = select(LedgerEntry.ended, func.count()).group_by(LedgerEntry.ended)
    return {row[0]: row[1] for row in session.execute(statement)}


def finished_since(session: Session, moment: datetime, *, limit: int = 1000) -> tuple[list[Finished], datetime]:
    """Compressions that ended at `moment` or later, oldest first, and the moment to ask from next."""
    statement = (
        select(Job.id, Job.status, Job.steps, Job.created_at, Job.started_at, Job.finished_at)
        .where(Job.shown, Job.status.in_(TERMINAL), Job.finished_at >= moment)
        .order_by(Job.finished_at)
        .limit(limit)
    )
    rows = list(session.execute(statement))
    steps = _steps(session, [row.id for row in rows])
    found = [
        Finished(
            row.id,
            row.status,
            tuple(step["method"] for step in row.steps),
            max(0.0, ((row.started_at or row.finished_at) - row.created_at).total_seconds()),
            tuple(steps.get(row.id, ())),
        )
        for row in rows
    ]
    return found, rows[-1].finished_at if rows else moment


def _steps(session: Session, job_ids: list[str]) -> dict[str, list[tuple[str, float]]]:
    statement = (
        select(JobEvent)
        .where(JobEvent.job_id.in_(job_ids), JobEvent.type.in_(("step_started", "step_finished")))
        .order_by(JobEvent.job_id, JobEvent.seq)
    )
    started: dict[tuple[str, int], datetime] = {}
    found: dict[str, list[tuple[str, float]]] = {}
    for event in session.scalars(statement):
        key = (event.job_id, event.data["step_index"])
        if event.type == "step_started":
            started[key] = event.created_at
        elif key in started:
            found.setdefault(event.job_id, []).append((event.data["method"], (event.created_at - started.pop(key)).total_seconds()))
    return found
