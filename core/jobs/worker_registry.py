"""Which workers are there: each renews a lease of its own, so that an idle one is seen as well."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import leases
from core.database.clock import db_now
from core.database.tables import Lease

_PREFIX = "worker:"
PRESENT_SECONDS = 20.0
"""How long a worker counts as present after it was last heard of."""
REPEAT_SECONDS = 5.0
"""How often a worker should report that it is there."""


@dataclass(frozen=True)
class Capacity:
    """The largest job that a worker takes."""

    devices: int = 1
    memory_bytes: int = 0
    """Of each device."""

    def fits(self, devices: int, memory_bytes: int) -> bool:
        """Whether a job that needs so many devices of so much memory can run there."""
        return self.devices >= devices and self.memory_bytes >= memory_bytes


def note(session: Session, queue: str, worker: str, capacity: Capacity | None = None, *, trouble: str | None = None) -> None:
    """The worker is there, and takes jobs of `queue`; or takes none, for the reason in `trouble`."""
    details = asdict(capacity or Capacity()) | ({"trouble": trouble} if trouble else {})
    leases.acquire(session, _name(queue, worker), worker, PRESENT_SECONDS, details=details)


def leave(session: Session, queue: str, worker: str) -> None:
    """The worker ends in good order."""
    leases.release(session, _name(queue, worker), worker)


def _name(queue: str, worker: str) -> str:
    """The lease's name; host names may be longer than it can be."""
    return f"{_PREFIX}{queue}:{hashlib.sha256(worker.encode()).hexdigest()[:24]}"


def count(session: Session, queue: str) -> int:
    """How many workers take jobs of a queue."""
    return sum(1 for details in _present(session, queue) if "trouble" not in details)


def capacities(session: Session, queue: str) -> set[Capacity]:
    """What the workers of a queue can do, those in trouble left out."""
    return {Capacity(**details) for details in _present(session, queue) if details and "trouble" not in details}


def troubles(session: Session, queue: str) -> list[str]:
    """Why workers that are there take no jobs of a queue."""
    return sorted({str(details["trouble"]) for details in _present(session, queue) if "trouble" in details})


def _present(session: Session, queue: str) -> list[dict[str, Any]]:
    """What the workers of a queue report about themselves."""
    here = Lease.name.startswith(f"{_PREFIX}{queue}:", autoescape=True), Lease.expires_at > db_now()
    return [details or {} for details in session.scalars(select(Lease.details).where(*here))]
