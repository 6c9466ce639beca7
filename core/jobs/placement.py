"""Which queue a job waits in: that of the GPUs, or that of the CPUs.

`device: auto` follows the workers: while a GPU worker that is large enough is there, the job waits for it; when the last one goes, the
reconciler moves the job to the CPUs, and back when one comes. `device: gpu` waits where it is. A claim therefore looks at one queue,
and priorities and fair share hold among all jobs that a worker may take.
"""

from typing import Any

from sqlalchemy import ColumnElement, and_, false, or_, select, update
from sqlalchemy.orm import Session

from core.database import db
from core.database.tables import Job
from core.jobs import worker_registry
from core.settings import Settings
from engine.contract.spec import Spec

_MOST_MOVED = 1000
"""Jobs that are moved in one transaction; the next pass moves the rest."""


def queue_of(session: Session, settings: Settings, spec: Spec) -> str:
    """Where a new job of this spec waits."""
    on_gpu = spec.device == "gpu" or (spec.device == "auto" and _served(session, settings, spec))
    return settings.gpu_queue if on_gpu else settings.cpu_queue


def warnings(session: Session, settings: Settings, spec: Spec) -> list[dict[str, Any]]:
    """That the job will wait for a GPU which is not there; warnings of a queued job are gone when it starts."""
    if spec.device != "gpu" or _served(session, settings, spec):
        return []
    need = spec.limits.gpu_memory_bytes
    size = f"{'a GPU' if spec.devices == 1 else f'{spec.devices} GPUs'}{f' of {need} bytes' if need else ''}"
    return [
        {
            "code": "no_gpu_worker",
            "message": f"No worker with {size} is there now: the job waits until one comes. With device: auto it would run on the CPU.",
            "step_index": None,
            "details": {"devices": spec.devices, "gpu_memory_bytes": need},
        }
    ]


def follow_workers(session: Session, settings: Settings) -> int:
    """Move the waiting jobs that may run anywhere to where they can; rings for them, and returns how many."""
    there = worker_registry.capacities(session, settings.gpu_queue)
    fits: ColumnElement[bool] = or_(
        false(), *(and_(Job.devices <= each.devices, Job.gpu_memory_bytes <= each.memory_bytes) for each in there)
    )
    moved = _move(session, settings.gpu_queue, settings.cpu_queue, ~fits)
    return moved + (_move(session, settings.cpu_queue, settings.gpu_queue, fits) if there else 0)


def _move(session: Session, source: str, target: str, condition: ColumnElement[bool]) -> int:
    wanted = (Job.status == "queued", Job.queue == source, Job.any_device, condition)
    chosen = session.scalars(select(Job.id).where(*wanted).limit(_MOST_MOVED)).all()
    if not chosen:
        return 0
    # A claim may have been quicker: what is no longer queued stays.
    statement = update(Job).where(Job.id.in_(chosen), *wanted).values(queue=target, version=Job.version + 1).returning(Job.id)
    moved = len(session.scalars(statement, execution_options={"synchronize_session": False}).all())
    if moved:
        db.ring(session, target)
    return moved


def _served(session: Session, settings: Settings, spec: Spec) -> bool:
    there = worker_registry.capacities(session, settings.gpu_queue)
    return any(each.fits(spec.devices, spec.limits.gpu_memory_bytes) for each in there)
