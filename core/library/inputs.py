"""What models and datasets have in common: an uploaded file, its declaration, its inspection, its end."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, undefer, with_expression

from core.access import quotas
from core.blobs.digest import Blob
from core.database.clock import now, timestamp
from core.database.dialect import json_without
from core.database.listing import Listed, Listing
from core.database.paging import Page
from core.database.tables import Artifact, Dataset, DatasetLabel, Job, JobTeacher, Model, ModelLabel
from core.errors import NotFound, ResourceInUse
from core.jobs.control import stop
from core.jobs.create import create_inspection
from core.jobs.states import TERMINAL
from core.library import labels
from core.settings import Settings

Row = TypeVar("Row", Model, Dataset)
_LISTED: dict[type[Any], Listed] = {
    table: Listed(table, owner, {"name": table.name, "size_bytes": table.size_bytes})
    for table, owner in ((Model, ModelLabel.owner_id), (Dataset, DatasetLabel.owner_id))
}


def add(session: Session, settings: Settings, row: Row, blob: Blob, given: Mapping[str, str] = MappingProxyType({})) -> Row:
    """Store a new row for bytes that are in the blob store, with labels, and create the job that inspects it.

    Raises `quota_exceeded` and `labels_invalid`.
    """
    quotas.take_bytes(session, row.project_id, blob.size_bytes)
    if isinstance(row, Model):
        quotas.take_model(session, row.project_id)
    row.blob_sha256 = row.sha256 = blob.sha256
    row.size_bytes, row.status, row.inspection = blob.size_bytes, "inspecting", None
    row.findings = None
    row.labels = {}
    session.add(row)
    labels.put(session, row, given)
    create_inspection(session, settings, row)
    return row


def find(session: Session, table: type[Row], project_id: str, row_id: str) -> Row:
    """A row of the project with its inspection. Raises `not_found`."""
    statement = select(table).where(table.id == row_id, table.project_id == project_id, table.deleted_at.is_(None))
    options = (undefer(table.inspection), with_expression(table.findings, _findings(table)))
    row = session.scalars(statement.options(*options), execution_options={"populate_existing": True}).one_or_none()
    if row is None:
        raise NotFound(f"there is no {table.__name__.lower()} {row_id!r} in this project")
    return row


def search(session: Session, table: type[Row], project_id: str, asked: Listing) -> Page[Row]:
    """Rows of the project with their findings, newest first unless another order is asked for."""
    found = _findings(table)
    statement = (
        select(table).where(table.project_id == project_id, table.deleted_at.is_(None)).options(with_expression(table.findings, found))
    )
    return _LISTED[table].page(session, statement, asked, [table.declared, table.labels, table.error, found])


def change(session: Session, row: Row, *, name: str | None = None, given: Mapping[str, str | None] = MappingProxyType({})) -> Row:
    """Another name and other labels; a label of None is taken away. Raises `labels_invalid`."""
    session.refresh(row, attribute_names=["name", "labels"], with_for_update=True)
    if name is not None:
        row.name = name
    labels.put(session, row, given)
    return row


def names(session: Session, table: type[Row], project_id: str, ids: Iterable[str | None]) -> dict[str, str]:
    """What rows of the project are called, by id; also of those that were deleted, which past jobs still name."""
    wanted = {row_id for row_id in ids if row_id is not None}
    found = session.execute(select(table.id, table.name).where(table.project_id == project_id, table.id.in_(wanted))) if wanted else ()
    return {row.id: row.name for row in found}


def _findings(table: type[Row]) -> json_without:
    """An inspection without its long lists, which have routes of their own."""
    return json_without(table.inspection, "layers", "preview")


def content(session: Session, row: Model | Dataset | Artifact) -> Blob:
    """The bytes behind a row."""
    return Blob.load(session, row.blob_sha256)


def remove(session: Session, row: Model | Dataset) -> None:
    """Take a row out of sight and let go of its blob; its inspection is cancelled.

    Raises `resource_in_use` while a job that has not ended reads it.
    """
    reads = or_(
        Job.model_id == row.id,
        Job.dataset_id == row.id,
        Job.id.in_(select(JobTeacher.job_id).where(JobTeacher.model_id == row.id)),
    )
    waiting = list(session.execute(select(Job.id, Job.shown).where(reads, Job.status.not_in(TERMINAL))))
    for job in waiting:
        if job.shown:
            raise ResourceInUse(f"{row.id} is read by {job.id}, which has not ended", hint="cancel the job, or wait for its end")
    for job in waiting:
        stop(session, job.id)
    row.deleted_at = now(session)
    row.blob_sha256 = None


def body(row: Model | Dataset, kind: str, path: str) -> dict[str, Any]:
    """What models and datasets show alike; the row's findings must be loaded."""
    return {
        "object": kind,
        "id": row.id,
        "name": row.name,
        "format": row.format,
        "metadata": row.declared,
        "labels" if kind == "model" else "tags": row.labels,
        "size_bytes": row.size_bytes,
        "sha256": row.sha256,
        "status": row.status,
        "error": row.error,
        "created_at": timestamp(row.created_at),
        "urls": {"self": path, "content": f"{path}/content"},
    }
