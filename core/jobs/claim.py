"""How a worker gets a job: one statement that picks the next one, raises its fence and sets its lease.

The next job is the one of highest priority; among equals, that of the project with the fewest running jobs on this queue; then the
one that was served longest ago; then the oldest. The waiting projects are walked by index (a loose index scan), so that the cost grows with their number and not with the
number of queued jobs.
"""

import functools
import time
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    FromClause,
    ScalarSelect,
    Select,
    Table,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from core import failpoints
from core.blobs.digest import Blob
from core.database.clock import db_now
from core.database.dialect import insert
from core.database.tables import Dataset, Job, JobTeacher, Model, Project, Turn
from core.jobs.states import Status, transition

SPEC_VERSION = 2
"""Version of the spec that this code writes and runs. Raised when an older worker could not run a newer spec."""

# Literals, not parameters: a partial index is used only where the planner sees its predicate.
_QUEUED: ColumnElement[str] = literal_column("'queued'")
_RUNNING: ColumnElement[str] = literal_column("'running'")
_JOBS, _PROJECTS, _TURNS = (cast(Table, table.__table__) for table in (Job, Project, Turn))
_TRIES = 8
UNBOUNDED = 2**31 - 1
"""More running jobs than a project has."""
UNBOUNDED_MEMORY = 2**63 - 1
"""Memory of a device that no job asks about: the CPU."""


@dataclass(frozen=True)
class Input:
    """A file that the job reads: where it is, and what the client declared about it."""

    id: str
    format: str
    metadata: dict[str, Any]
    blob: Blob


@dataclass(frozen=True)
class Claim:
    """One attempt: everything that a worker needs to run it, and the fence that its writes must carry."""

    job_id: str
    project_id: str
    kind: str
    shown: bool
    """Whether clients see the job: its result is a summary then."""
    fence: int
    attempt: int
    max_attempts: int
    spec: dict[str, Any]
    traceparent: str | None
    """Where the trace of its request stands, where there is one."""
    devices: int
    """How many devices train together."""
    steps: list[dict[str, Any]]
    warnings: list[dict[str, Any]]
    model: Input | None
    dataset: Input | None
    teachers: dict[str, Input]
    checkpoint: Blob | None
    checkpoint_state: dict[str, Any] | None

    @property
    def timeout_seconds(self) -> float:
        """Wall-clock limit of this attempt."""
        return float(self.spec["limits"]["timeout_seconds"])


def claim(
    session: Session,
    queue: str,
    *,
    worker: str,
    device: str,
    lease_seconds: float,
    isolation: dict[str, Any] | None = None,
    device_memory_bytes: int = UNBOUNDED_MEMORY,
    devices: int = 1,
    most_per_project: int = UNBOUNDED,
    spec_version: int = SPEC_VERSION,
) -> Claim | None:
    """Take the next job of `queue`, or None when there is none that this worker can run.

    The caller commits at once: the lease runs from now on. The worker has `devices` devices of `device_memory_bytes` each. A project
    that has `most_per_project` running jobs on the queue gets no more.
    """
    may_take: dict[str, Any] = {"p_queue": queue, "p_spec_version": spec_version, "p_most_per_project": most_per_project}
    may_take |= {"p_memory_bytes": device_memory_bytes, "p_devices": devices}
    for attempt in range(_TRIES):
        job = transition(
            session,
            Status.QUEUED,
            Status.RUNNING,
            Job.id == next_job(),
            event="started",
            data={"worker": worker, "device": device},
            parameters=may_take,
            worker=worker,
            device=device,
            isolation=isolation,
            phase="starting",
            fence=Job.fence + 1,
            attempt=Job.attempt + 1,
            lease_expires_at=db_now(lease_seconds),
            attempt_started_at=db_now(),
            started_at=func.coalesce(Job.started_at, db_now()),
            available_at=None,
        )
        if job is not None:
            _note_turn(session, queue, job.project_id)
            failpoints.hit("claim.before_commit")
            return _claim_of(session, job)
        if session.scalar(select(_next_project()), may_take) is None:
            return None
        # Every free job of the chosen project was being claimed by others just now: choose again.
        time.sleep(0.002 * attempt)
    return None


def _note_turn(session: Session, queue: str, project_id: str) -> None:
    """The project was served just now: among equals the others come first."""
    statement = insert(session, Turn).values(queue=queue, project_id=project_id, served_at=db_now())
    session.execute(statement.on_conflict_do_update(index_elements=[Turn.queue, Turn.project_id], set_={"served_at": db_now()}))


def confined(session: Session, claim: Claim, isolation: dict[str, Any]) -> None:
    """Say what confines this attempt, where that depends on the job; in the claim's own transaction."""
    session.execute(update(Job).where(Job.id == claim.job_id, Job.fence == claim.fence).values(isolation=isolation))


def _line(job: FromClause) -> Select[str]:
    """Ids of the jobs that the worker may take."""
    return select(job.c.id).where(
        job.c.status == _QUEUED,
        job.c.queue == bindparam("p_queue"),
        job.c.spec_version <= bindparam("p_spec_version"),
        job.c.gpu_memory_bytes <= bindparam("p_memory_bytes"),
        job.c.devices <= bindparam("p_devices"),
        or_(job.c.available_at.is_(None), job.c.available_at <= db_now()),
    )


@functools.cache
def next_job() -> ScalarSelect[str]:
    """The head of the chosen project's line, passing over rows that another claim holds. Built once: that costs milliseconds."""
    job = _JOBS.alias("job")
    return (
        _line(job)
        .where(job.c.project_id == _next_project())
        .order_by(job.c.rank, job.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )


@functools.cache
def _next_project() -> ScalarSelect[str]:
    """The project whose turn it is."""
    first, later, own, running, head = (_JOBS.alias(name) for name in ("first", "later", "own", "running", "head"))
    queue: BindParameter[str] = bindparam("p_queue")
    waiting = (
        select(func.min(first.c.project_id).label("project_id"))
        .where(first.c.status == _QUEUED, first.c.queue == queue)
        .cte("waiting", recursive=True)
    )
    following = (
        select(func.min(later.c.project_id))
        .where(later.c.status == _QUEUED, later.c.queue == queue, later.c.project_id > waiting.c.project_id)
        .scalar_subquery()
    )
    waiting = waiting.union_all(select(following).where(waiting.c.project_id.is_not(None)))
    best = _line(own).where(own.c.project_id == waiting.c.project_id).order_by(own.c.rank, own.c.id).limit(1).scalar_subquery()
    busy = (
        select(func.count())
        .select_from(running)
        .where(running.c.status == _RUNNING, running.c.queue == queue, running.c.project_id == waiting.c.project_id)
        .scalar_subquery()
    )
    lines = select(waiting.c.project_id, best.label("head_id"), busy.label("running")).where(waiting.c.project_id.is_not(None)).subquery()
    return (
        select(lines.c.project_id)
        .join(head, head.c.id == lines.c.head_id)
        .join(_PROJECTS, _PROJECTS.c.id == lines.c.project_id)
        .outerjoin(_TURNS, and_(_TURNS.c.queue == queue, _TURNS.c.project_id == lines.c.project_id))
        .where(
            or_(_PROJECTS.c.max_running_jobs.is_(None), lines.c.running < _PROJECTS.c.max_running_jobs),
            lines.c.running < bindparam("p_most_per_project"),
        )
        .order_by(head.c.rank, lines.c.running, _TURNS.c.served_at.asc().nulls_first(), head.c.id)
        .limit(1)
        .scalar_subquery()
    )


def _claim_of(session: Session, job: Job) -> Claim:
    model = session.get_one(Model, job.model_id) if job.model_id else None
    dataset = session.get_one(Dataset, job.dataset_id) if job.dataset_id else None
    teachers = session.scalars(select(Model).join(JobTeacher, JobTeacher.model_id == Model.id).where(JobTeacher.job_id == job.id))
    return Claim(
        job_id=job.id,
        project_id=job.project_id,
        kind=job.kind,
        shown=job.shown,
        fence=job.fence,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        spec=job.normalized_spec,
        traceparent=job.traceparent,
        devices=job.devices,
        steps=job.steps,
        warnings=job.warnings,
        model=_input_of(session, model) if model else None,
        dataset=_input_of(session, dataset) if dataset else None,
        teachers={teacher.id: _input_of(session, teacher) for teacher in teachers},
        checkpoint=Blob.load(session, job.checkpoint_sha256) if job.checkpoint_sha256 else None,
        checkpoint_state=job.checkpoint,
    )


def _input_of(session: Session, row: Model | Dataset) -> Input:
    return Input(row.id, row.format, row.declared, Blob.load(session, row.blob_sha256))
