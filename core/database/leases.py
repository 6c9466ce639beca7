"""A right that one process has at a time, by the database's clock."""

from typing import Any

from sqlalchemy import delete, or_
from sqlalchemy.orm import Session

from core.database.clock import db_now
from core.database.dialect import insert
from core.database.tables import Lease


def acquire(session: Session, name: str, owner: str, seconds: float, *, details: dict[str, Any] | None = None) -> bool:
    """Take or renew the lease; False while another owner has it."""
    statement = (
        insert(session, Lease)
        .values(name=name, owner=owner, expires_at=db_now(seconds), details=details)
        .on_conflict_do_update(
            index_elements=[Lease.name],
            set_={"owner": owner, "expires_at": db_now(seconds), "details": details},
            where=or_(Lease.owner == owner, Lease.expires_at < db_now()),
        )
        .returning(Lease.owner)
    )
    return session.scalar(statement) == owner


def expire(session: Session) -> int:
    """Forget leases whose owner has been gone for an hour; returns how many."""
    return len(session.scalars(delete(Lease).where(Lease.expires_at < db_now(-3600)).returning(Lease.name)).all())


def release(session: Session, name: str, owner: str) -> None:
    """Let another process take the lease at once."""
    session.execute(delete(Lease).where(Lease.name == name, Lease.owner == owner))
