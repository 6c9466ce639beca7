"""Projects: nobody sees another one's things."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import ids
from core.database.dialect import insert
from core.database.tables import Project
from core.errors import NotFound

DEFAULT = "default"


def create(
    session: Session,
    name: str,
    *,
    max_queued_jobs: int | None = None,
    max_running_jobs: int | None = None,
    max_stored_bytes: int | None = None,
) -> Project:
    """A new project, or the one of this name, whose quotas stay as they are. None is no limit."""
    session.execute(
        insert(session, Project)
        .values(
            id=ids.new("prj"),
            name=name,
            max_queued_jobs=max_queued_jobs,
            max_running_jobs=max_running_jobs,
            max_stored_bytes=max_stored_bytes,
        )
        .on_conflict_do_nothing()
    )
    return by_name(session, name)


def by_name(session: Session, name: str) -> Project:
    """The project of this name. Raises `not_found`."""
    project = session.scalars(select(Project).where(Project.name == name)).one_or_none()
    if project is None:
        raise NotFound(f"there is no project {name!r}", hint="modelpress keys create --project makes one")
    return project


def default(session: Session) -> Project:
    """The project of a service without authentication; made by the first migration."""
    return by_name(session, DEFAULT)
