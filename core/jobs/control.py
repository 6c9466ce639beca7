"""What a client may do to its jobs: cancel and delete."""

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from core.database.clock import db_now
from core.database.tables import Job, JobEvent
from core.errors import JobAlreadyTerminal, JobNotTerminal
from core.jobs.queries import get
from core.jobs.settle import settle_inspection
from core.jobs.states import TERMINAL, Status, transition


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancel a queued job at once, or ask the worker of a running one to stop it. Doing it twice changes nothing.

    Raises `job_already_terminal` when the job succeeded or failed.
    """
    get(session, project_id, job_id)
    job = stop(session, job_id) or get(session, project_id, job_id)
    if job.status in (Status.SUCCEEDED, Status.FAILED):
        raise JobAlreadyTerminal(f"{job_id} has {job.status} already", hint="DELETE removes an ended job")
    return job


def stop(session: Session, job_id: str) -> Job | None:
    """Cancel a job that nobody runs, or ask its worker to stop it; None when it was asked before or has ended."""
    return cancel_queued(session, job_id) or _ask(session, job_id)


def cancel_queued(session: Session, job_id: str) -> Job | None:
    """Cancel a job that nobody runs; None when it is not queued."""
    job = transition(
        session,
        Status.QUEUED,
        Status.CANCELLED,
        Job.id == job_id,
        event="cancelled",
        cancel_requested_at=func.coalesce(Job.cancel_requested_at, db_now()),
        checkpoint_sha256=None,
        checkpoint=None,
        available_at=None,
        finished_at=db_now(),
    )
    if job is not None:
        settle_inspection(session, job)
    return job


def _ask(session: Session, job_id: str) -> Job | None:
    """Raise the flag that the worker's next heartbeat reads; None when it is up already or the job does not run."""
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status == Status.RUNNING, Job.cancel_requested_at.is_(None))
        .values(cancel_requested_at=db_now(), version=Job.version + 1, event_seq=Job.event_seq + 1)
        .returning(Job)
    )
    job = session.scalars(statement, execution_options={"populate_existing": True, "synchronize_session": False}).one_or_none()
    if job is not None:
        session.add(JobEvent(job_id=job.id, seq=job.event_seq, type="cancel_requested", fence=job.fence, data={}))
    return job


def delete(session: Session, project_id: str, job_id: str) -> None:
    """Remove an ended job with its history and artifacts; models promoted from them stay. Raises `job_not_terminal`."""
    get(session, project_id, job_id)
    removed = session.scalar(sql_delete(Job).where(Job.id == job_id, Job.status.in_(TERMINAL)).returning(Job.id))
    if removed is None:
        raise JobNotTerminal(f"{job_id} has not ended", hint=f"POST /v1/jobs/{job_id}/cancel first")
