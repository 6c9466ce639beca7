"""Which workers are there: each renews a lease of its own, so that an idle one is seen as well."""

import hashlib

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import leases
from core.clock import db_now
from core.tables import Lease

_PREFIX = "worker:"
PRESENT_SECONDS = 20.0
"""How long a worker counts as present after it was last heard of."""
REPEAT_SECONDS = 5.0
"""How often a worker should say that it is there."""


def note(session: Session, queue: str, worker: str) -> None:
    """The worker is there, and takes jobs of `queue`."""
    leases.acquire(session, _name(queue, worker), worker, PRESENT_SECONDS)


def leave(session: Session, queue: str, worker: str) -> None:
    """The worker ends in good order."""
    leases.release(session, _name(queue, worker), worker)


def _name(queue: str, worker: str) -> str:
    """The lease's name; host names may be longer than it can be."""
    return f"{_PREFIX}{queue}:{hashlib.sha256(worker.encode()).hexdigest()[:24]}"


def count(session: Session, queue: str) -> int:
    """How many workers serve a queue."""
    statement = select(func.count()).where(Lease.name.startswith(f"{_PREFIX}{queue}:", autoescape=True), Lease.expires_at > db_now())
    return session.scalar(statement) or 0
