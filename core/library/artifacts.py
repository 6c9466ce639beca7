"""Published files. They are made by `core.jobs.finish`, together with the job's success."""

from collections.abc import Mapping
from types import EllipsisType

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.blobs.digest import Blob
from core.database.listing import ALL, Listed, Listing
from core.database.paging import Page
from core.database.tables import Artifact, ArtifactLabel, Job
from core.errors import NotFound
from core.library import inputs, labels

_LISTED = Listed(Artifact, ArtifactLabel.owner_id, {"filename": Artifact.filename, "size_bytes": Artifact.size_bytes})


def get(session: Session, project_id: str, artifact_id: str) -> Artifact:
    """One artifact of the project. Raises `not_found`."""
    row = session.scalars(select(Artifact).where(Artifact.id == artifact_id, Artifact.project_id == project_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no artifact {artifact_id!r} in this project")
    return row


def search(session: Session, project_id: str, asked: Listing = ALL) -> Page[Artifact]:
    """Artifacts of all jobs of the project, newest first unless another order is asked for."""
    statement = select(Artifact).where(Artifact.project_id == project_id)
    return _LISTED.page(session, statement, asked, [Artifact.metrics, Artifact.settings, Artifact.labels])


def named(session: Session, project_id: str, job_id: str, filename: str) -> Artifact:
    """The artifact of a job with this file name. Raises `not_found`."""
    statement = select(Artifact).where(Artifact.job_id == job_id, Artifact.project_id == project_id, Artifact.filename == filename)
    row = session.scalars(statement.order_by(Artifact.position)).first()
    if row is None:
        raise NotFound(f"there is no artifact {filename!r} of {job_id!r} in this project", hint="GET /v1/jobs/{id}/artifacts lists them")
    return row


def change(
    session: Session, project_id: str, artifact_id: str, given: Mapping[str, str | None], name: str | EllipsisType | None = ...
) -> Artifact:
    """Give an artifact a name (None takes it away), and other labels. Raises `not_found` and `labels_invalid`."""
    row = get(session, project_id, artifact_id)
    session.refresh(row, attribute_names=["name", "labels"], with_for_update=True)
    if not isinstance(name, EllipsisType):
        row.name = name
    labels.put(session, row, given)
    return row


def content(session: Session, project_id: str, artifact_id: str) -> tuple[Artifact, Blob]:
    """An artifact and its bytes. Raises `not_found`."""
    artifact = get(session, project_id, artifact_id)
    return artifact, inputs.content(session, artifact)


def report_of(session: Session, project_id: str, job_id: str) -> Blob | None:
    """The bytes of a job's `report.json`, None where it has published none."""
    statement = (
        select(Artifact)
        .join(Job, Job.id == Artifact.job_id)
        .where(Artifact.job_id == job_id, Artifact.project_id == project_id, Artifact.kind == "report", Job.shown)
    )
    row = session.scalars(statement).first()
    return None if row is None else inputs.content(session, row)


def report(session: Session, project_id: str, job_id: str) -> Blob:
    """The bytes of a job's `report.json`. Raises `not_found`, also when the job has published none yet."""
    found = report_of(session, project_id, job_id)
    if found is None:
        raise NotFound(f"{job_id} has no report", hint="a report appears when the job has ended")
    return found
