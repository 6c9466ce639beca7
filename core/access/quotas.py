"""What a project may use, and what it uses: checked and taken in the transaction that takes it.

A quota that is not set is no limit. Where one is set, transactions that take something of the project wait for each other, so that two
of them cannot both have the last of it.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select
from sqlalchemy.orm import Session

from core.database.clock import db_now, now
from core.database.tables import Artifact, Dataset, Job, LedgerEntry, Model, Project, Upload
from core.errors import FieldError, QuotaExceeded

COMPUTE_WINDOW_SECONDS = 30 * 86_400
"""`compute_seconds` are those of the last thirty days."""
MOST_OPEN_UPLOADS = 1000
"""Unfinished uploads of one project, whatever its quotas."""


@dataclass(frozen=True)
class Quotas:
    """Limits of one project; None where there is none."""

    stored_bytes: int | None = None
    models: int | None = None
    queued_jobs: int | None = None
    running_jobs: int | None = None
    compute_seconds: float | None = None


NAMES = tuple(Quotas.__dataclass_fields__)
_HINTS = {
    "stored_bytes": "delete models, datasets, uploads or jobs",
    "models": "delete models",
    "queued_jobs": "wait until some have run",
    "compute_seconds": "wait: seconds that were used thirty days ago are given back",
    "open_uploads": "complete or delete uploads; those without a new part are dropped after a day",
}
_RETRY_SECONDS = {"queued_jobs": 30.0, "compute_seconds": 3600.0}


def limits(session: Session, project_id: str, *, to_take: bool = False) -> Quotas:
    """The project's quotas; `to_take` keeps others who want to take something waiting until this transaction has ended."""
    project = session.get_one(Project, project_id, populate_existing=True)
    found = Quotas(**{name: getattr(project, f"max_{name}") for name in NAMES})
    if to_take and any(limit is not None for limit in vars(found).values()):
        session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    return found


def change(session: Session, project_id: str, **changes: float | None) -> None:
    """Set quotas by name; None lifts one."""
    assert set(changes) <= set(NAMES)
    project = session.get_one(Project, project_id)
    for name, limit in changes.items():
        setattr(project, f"max_{name}", limit)
    session.flush()


def usage(session: Session, project_id: str) -> dict[str, Any]:
    """The usage object of the public contract."""
    granted = limits(session, project_id)
    used = {
        "stored_bytes": stored_bytes(session, project_id),
        "models": _models(session, project_id),
        "queued_jobs": _jobs(session, project_id, "queued"),
        "running_jobs": _jobs(session, project_id, "running"),
        "compute_seconds": round(compute_seconds(session, project_id), 3),
    }
    return {
        "object": "usage",
        "project": session.get_one(Project, project_id).name,
        "quotas": {name: {"used": used[name], "limit": getattr(granted, name)} for name in NAMES},
        "compute_window_seconds": COMPUTE_WINDOW_SECONDS,
    }


def take_bytes(session: Session, project_id: str, more: int) -> None:
    """Raises `quota_exceeded` where so many more bytes do not fit."""
    check_bytes(session, project_id, more, to_take=True)


def check_bytes(session: Session, project_id: str, more: int, *, to_take: bool = False) -> None:
    """The same without taking them, where a session only reads."""
    limit = limits(session, project_id, to_take=to_take).stored_bytes
    if limit is not None:
        _check("stored_bytes", stored_bytes(session, project_id), more, limit)


def take_model(session: Session, project_id: str) -> None:
    """Raises `quota_exceeded` where the project has all the models that it may have."""
    limit = limits(session, project_id, to_take=True).models
    if limit is not None:
        _check("models", _models(session, project_id), 1, limit)


def take_job(session: Session, project_id: str) -> None:
    """Raises `quota_exceeded` where no more job may wait, or the project's compute time is used up."""
    granted = limits(session, project_id, to_take=True)
    if granted.queued_jobs is not None:
        _check("queued_jobs", _jobs(session, project_id, "queued"), 1, granted.queued_jobs)
    if granted.compute_seconds is not None:
        _check("compute_seconds", round(compute_seconds(session, project_id), 1), 0, granted.compute_seconds, full=True)


def take_upload(session: Session, project_id: str, size_bytes: int) -> None:
    """An upload begins that will have so many bytes. Raises `quota_exceeded`."""
    waiting = select(func.count()).select_from(Upload).where(Upload.project_id == project_id, Upload.status == "open")
    _check("open_uploads", session.scalar(waiting) or 0, 1, MOST_OPEN_UPLOADS)
    take_bytes(session, project_id, size_bytes)


def stored_bytes(session: Session, project_id: str) -> int:
    """Bytes of the project's models, datasets, artifacts and uploads; an unfinished upload counts with the size that was announced.

    An upload that a model or dataset was made of counts once.
    """
    named = [exists().where(table.project_id == project_id, table.blob_sha256 == Upload.blob_sha256) for table in (Model, Dataset)]
    announced = func.coalesce(Upload.size_bytes, 0)
    upload_bytes = case((announced > Upload.received_bytes, announced), else_=Upload.received_bytes)
    parts: list[tuple[Any, ColumnElement[bool]]] = [
        (Model.size_bytes, and_(Model.project_id == project_id, Model.deleted_at.is_(None))),
        (Dataset.size_bytes, and_(Dataset.project_id == project_id, Dataset.deleted_at.is_(None))),
        (Artifact.size_bytes, Artifact.project_id == project_id),
        (upload_bytes, and_(Upload.project_id == project_id, or_(Upload.status == "open", ~or_(*named)))),
    ]
    return sum(int(session.scalar(select(func.coalesce(func.sum(size), 0)).where(where)) or 0) for size, where in parts)


def compute_seconds(session: Session, project_id: str) -> float:
    """Seconds that the project's jobs ran within the window, those that run now included."""
    recent = LedgerEntry.created_at > db_now(-COMPUTE_WINDOW_SECONDS)
    charged = session.scalar(select(func.coalesce(func.sum(LedgerEntry.seconds), 0.0)).where(LedgerEntry.project_id == project_id, recent))
    running = select(Job.attempt_started_at).where(Job.project_id == project_id, Job.status == "running")
    time = now(session)
    return float(charged or 0.0) + sum(max(0.0, (time - began).total_seconds()) for began in session.scalars(running) if began is not None)


def _models(session: Session, project_id: str) -> int:
    return session.scalar(select(func.count()).select_from(Model).where(Model.project_id == project_id, Model.deleted_at.is_(None))) or 0


def _jobs(session: Session, project_id: str, status: str) -> int:
    of_project = and_(Job.project_id == project_id, Job.shown, Job.status == status)
    return session.scalar(select(func.count()).select_from(Job).where(of_project)) or 0


def _check(name: str, used: float, more: float, limit: float, *, full: bool = False) -> None:
    if used + more <= limit and not (full and used >= limit):
        return
    detail = (
        f"quota {name}: the project uses {used:g} of {limit:g}"
        if full
        else f"quota {name}: the project uses {used} of {limit}, {more} more do not fit"
    )
    raise QuotaExceeded(
        detail, hint=_HINTS[name], errors=[FieldError("", name, detail, _HINTS[name])], retry_after_seconds=_RETRY_SECONDS.get(name, 60.0)
    )
