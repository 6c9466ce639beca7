"""Jobs as clients find them: always within one project, never the hidden inspections."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from core.database.listing import Listed, Listing
from core.database.paging import Page
from core.database.tables import Artifact, Job, JobLabel
from core.errors import MalformedRequest, NotFound
from core.jobs.states import Status

_LISTED = Listed(Job, JobLabel.job_id)


def get(session: Session, project_id: str, job_id: str) -> Job:
    """One job of the project. Raises `not_found`."""
    statement = select(Job).where(Job.id == job_id, Job.project_id == project_id, Job.shown)
    job = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if job is None:
        raise NotFound(f"there is no job {job_id!r} in this project")
    return job


def search(
    session: Session,
    project_id: str,
    *,
    status: Sequence[str] = (),
    outcome: str | None = None,
    name: str | None = None,
    label: Sequence[str] = (),
    model_id: str | None = None,
    dataset_id: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    expand: Collection[str] = (),
    sort: str = "-created_at",
    limit: int = 20,
    after: str | None = None,
) -> Page[Job]:
    """Jobs of the project, newest first. `label` holds `key:value`, `key=value` or `key`; all must hold. Raises `malformed_request`.

    Their specs are read only where `expand` names `spec` or `normalized_spec`.
    """
    statement = select(Job).where(Job.project_id == project_id, Job.shown)
    if unknown := [value for value in status if value not in set(Status)]:
        raise MalformedRequest(f"no such status: {unknown[0]!r}", hint=f"statuses: {', '.join(Status)}")
    if status:
        statement = statement.where(Job.status.in_(status))
    equal = {"outcome": outcome, "model_id": model_id, "dataset_id": dataset_id}
    asked = Listing(name, label, created_after, created_before, sort, limit, after, equal)
    specs = {"spec": Job.spec, "normalized_spec": Job.normalized_spec}
    statement = statement.options(*(defer(column, raiseload=True) for name, column in specs.items() if name not in expand))
    long = [Job.steps, Job.warnings, Job.summary, Job.error, *(column for name, column in specs.items() if name in expand)]
    return _LISTED.page(session, statement, asked, long)


def version(session: Session, project_id: str, job_id: str) -> tuple[int, str]:
    """Version and status of a job, without the rest. Raises `not_found`."""
    statement = select(Job.version, Job.status).where(Job.id == job_id, Job.project_id == project_id, Job.shown)
    row = session.execute(statement).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id!r} in this project")
    return row.version, row.status


def artifacts(session: Session, project_id: str, job_id: str) -> list[Artifact]:
    """What a job published, in order. Raises `not_found`."""
    version(session, project_id, job_id)
    return list(session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.position)))
