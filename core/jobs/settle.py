"""What follows from the end of an attempt: its charge, and the verdict on an upload that was inspected."""

from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from core.database.clock import db_now
from core.database.tables import Dataset, Job, LedgerEntry, Model
from core.jobs.states import TERMINAL, Status


def charge(session: Session, job: Job, ended: str) -> None:
    """Write down what the attempt used. The key (job, fence) refuses a second charge."""
    now = session.execute(select(db_now())).scalar_one()
    seconds = (now - job.attempt_started_at).total_seconds() if job.attempt_started_at else 0.0
    session.execute(
        insert(LedgerEntry).values(
            job_id=job.id, fence=job.fence, project_id=job.project_id, device=job.device or "", seconds=max(0.0, seconds), ended=ended
        )
    )


def settle_inspection(session: Session, job: Job) -> None:
    """Store what an inspection found on the model or dataset; a failed one makes it invalid."""
    if job.shown or job.status not in TERMINAL:
        return
    table, row_id = (Model, job.model_id) if job.model_id is not None else (Dataset, job.dataset_id)
    values: dict[str, Any] = {"status": "invalid", "error": job.error}
    if job.status == Status.SUCCEEDED:
        values = {"status": "ready", "inspection": job.summary, "error": None}
    session.execute(update(table).where(table.id == row_id, table.status == "inspecting").values(**values))
