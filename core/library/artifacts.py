"""Published files. They are made by `core.jobs.finish`, together with the job's success."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.blobs.digest import Blob
from core.database.tables import Artifact, Job
from core.errors import NotFound
from core.library import inputs


def get(session: Session, project_id: str, artifact_id: str) -> Artifact:
    """One artifact of the project. Raises `not_found`."""
    row = session.scalars(select(Artifact).where(Artifact.id == artifact_id, Artifact.project_id == project_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no artifact {artifact_id!r} in this project")
    return row


def content(session: Session, project_id: str, artifact_id: str) -> tuple[Artifact, Blob]:
    """An artifact and its bytes. Raises `not_found`."""
    artifact = get(session, project_id, artifact_id)
    return artifact, inputs.content(session, artifact)


def report(session: Session, project_id: str, job_id: str) -> Blob:
    """The bytes of a job's `report.json`. Raises `not_found`, also when the job has published none yet."""
    statement = (
        select(Artifact)
        .join(Job, Job.id == Artifact.job_id)
        .where(Artifact.job_id == job_id, Artifact.project_id == project_id, Artifact.kind == "report", Job.shown)
    )
    row = session.scalars(statement).first()
    if row is None:
        raise NotFound(f"{job_id} has no report", hint="a report appears when the job has ended well")
    return inputs.content(session, row)
