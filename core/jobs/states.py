"""The states of a job, the legal edges between them, and the one function that walks an edge."""

from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from core.database.tables import Job, JobEvent
from core.webhooks import outbox


class Status(StrEnum):
    """Where a job stands; the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
EDGES = frozenset(
    {
        (Status.QUEUED, Status.RUNNING),
        (Status.QUEUED, Status.CANCELLED),
        (Status.RUNNING, Status.QUEUED),
        (Status.RUNNING, Status.SUCCEEDED),
        (Status.RUNNING, Status.FAILED),
        (Status.RUNNING, Status.CANCELLED),
    }
)


def transition(
    session: Session,
    source: Status,
    target: Status,
    *conditions: ColumnElement[bool],
    event: str,
    data: dict[str, Any] | None = None,
    parameters: dict[str, Any] | None = None,
    **values: Any,
) -> Job | None:
    """Walk one edge as compare-and-set and write it down in the history; None when no job matched.

    The conditions must select at most one job; `parameters` are those that they name.
    """
    assert (source, target) in EDGES
    statement = (
        update(Job)
        .where(Job.status == source, *conditions)
        .values(status=target, version=Job.version + 1, event_seq=Job.event_seq + 1, **values)
        .returning(Job)
    )
    job = session.scalars(statement, parameters, execution_options={"populate_existing": True, "synchronize_session": False}).one_or_none()
    if job is not None:
        session.add(JobEvent(job_id=job.id, seq=job.event_seq, type=event, fence=job.fence, data=data or {}))
        outbox.post(session, job, event)
    return job
