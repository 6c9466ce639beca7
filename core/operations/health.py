"""Is every part of the service there? A part that requests cannot do without makes it `failed`, any other `degraded`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import ServiceError
from core.jobs import worker_registry
from core.service import Service

Status = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True)
class Check:
    """One part, and what is the matter with it."""

    status: Status
    detail: str | None = None


def check(service: Service) -> dict[str, Any]:
    """Ask every part; takes about a second where the broker does not answer."""
    database = _asked(lambda: _database(service))
    checks = {
        "database": database,
        "blobs": _asked(lambda: _blobs(service)),
        "broker": _broker(service),
        "workers": _workers(service) if database.status == "ok" else Check("degraded", "unknown while the database does not answer"),
    }
    worst: Status = next((status for status in _WORST if any(check.status == status for check in checks.values())), "ok")
    return {"status": worst, "checks": {name: {"status": check.status, "detail": check.detail} for name, check in checks.items()}}


_WORST: tuple[Status, ...] = ("failed", "degraded")


def _asked(ask: Callable[[], Check]) -> Check:
    try:
        return ask()
    except ServiceError as error:
        return Check("failed", error.message)
    except Exception as error:
        # Drivers have errors of their own; their texts name hosts and paths, which are not for everyone's eyes.
        return Check("failed", f"it does not answer: {type(error).__name__}")


def _database(service: Service) -> Check:
    from core.database import migrate  # loads Alembic, which nothing else in the API needs

    found, needed = migrate.revision(service.database), migrate.head()
    if found != needed:
        return Check("failed", f"it is at revision {found or 'none'}, this version needs {needed}: run `modelpress migrate`")
    return Check("ok")


def _blobs(service: Service) -> Check:
    service.blobs.store.size("sha256/none")
    try:
        service.blobs.check_room(0)
    except ServiceError as error:
        return Check("degraded", f"{error.message}: uploads are refused")
    return Check("ok")


def _broker(service: Service) -> Check:
    error = service.doorbell.failure()
    return Check("ok") if error is None else Check("degraded", f"{error}: jobs start up to a second later")


def _workers(service: Service) -> Check:
    settings = service.settings
    queues = (settings.cpu_queue, settings.gpu_queue, settings.inspect_queue)
    with service.database.reader() as session:
        found = {queue: worker_registry.count(session, queue) for queue in queues}
        reasons = sorted({reason for queue in queues for reason in worker_registry.troubles(session, queue)})
    counts = ", ".join(f"{queue}: {count}" for queue, count in found.items())
    missing = [queue for queue in (settings.cpu_queue, settings.inspect_queue) if not found[queue]]
    problems = [f"no worker serves {' and '.join(missing)} ({counts})"] if missing else []
    if reasons:
        problems.append(f"workers that take no jobs say: {'; '.join(reasons)}")
    return Check("degraded", "; ".join(problems)) if problems else Check("ok", counts)
