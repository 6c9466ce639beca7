"""Jobs come into being: by a spec, as a retry, or for the inspection of an upload."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from core import failpoints, ids, tracing
from core.access import quotas
from core.database import db
from core.database.tables import Dataset, Job, JobEvent, JobLabel, JobTeacher, JsonObject, Model
from core.errors import JobNotTerminal
from core.jobs import idempotency, placement
from core.jobs.check import Submission, check
from core.jobs.claim import SPEC_VERSION
from core.jobs.queries import get
from core.jobs.states import TERMINAL, Status
from core.settings import Settings
from core.webhooks import outbox
from engine import __version__ as engine_version

_INSPECTION_ATTEMPTS = 3


@dataclass(frozen=True)
class Created:
    """The job of a submission; `replayed` when the same `Idempotency-Key` had made it before."""

    job: Job
    replayed: bool


def create(
    session: Session,
    settings: Settings,
    project_id: str,
    submission: Submission | JsonObject,
    *,
    idempotent: idempotency.Request | None = None,
    retry_of: str | None = None,
) -> Created:
    """Make a job of a spec, read already or given as JSON types; the job, its first event and the idempotency key appear together.

    An upload whose inspection failed for a reason that may have passed, such as a full disk, is inspected again.
    Raises what `core.jobs.check.check` and `core.jobs.idempotency.reserve` raise, and `quota_exceeded`.
    """
    job_id = ids.new("job")
    with tracing.current(tracing.below("job.submit", job__id=job_id)) as span:
        further = {"retry_of": retry_of, "traceparent": span.traceparent}
        made = _create(session, settings, project_id, submission, job_id=job_id, idempotent=idempotent, further=further)
        span.describe(job__id=made.job.id, job__replayed=made.replayed)
        return made


def _create(
    session: Session,
    settings: Settings,
    project_id: str,
    submission: Submission | JsonObject,
    *,
    job_id: str,
    idempotent: idempotency.Request | None,
    further: Mapping[str, str | None],
) -> Created:
    if idempotent is not None:
        bound = idempotency.reserve(session, project_id, idempotent, job_id)
        if bound != job_id:
            return Created(get(session, project_id, bound), replayed=True)
    read = submission if isinstance(submission, Submission) else Submission.read(submission)
    checked = check(session, project_id, read)
    quotas.take_job(session, project_id)
    for row in (checked.model, checked.dataset, *checked.teachers):
        if row is not None and row.status == "invalid":
            _inspect_again(session, settings, row)
    spec = checked.spec
    job = _job(
        job_id,
        project_id,
        "compress",
        shown=True,
        name=spec.name,
        labels=dict(spec.labels),
        spec=read.document,
        normalized_spec=spec.normalized(),
        spec_hash=spec.spec_hash(),
        model_id=checked.model.id,
        dataset_id=checked.dataset.id if checked.dataset else None,
        queue=placement.queue_of(session, settings, spec),
        rank=-spec.priority,
        gpu_memory_bytes=0 if spec.device == "cpu" else spec.limits.gpu_memory_bytes,
        devices=spec.processes,
        any_device=spec.device == "auto",
        warnings=placement.warnings(session, settings, spec),
        max_attempts=spec.max_attempts,
        steps=[
            {"index": index, "id": step.id, "method": step.wire_name(), "status": "pending", "metrics": {}}
            for index, step in enumerate(spec.steps)
        ],
        **further,
    )
    session.add(job)
    session.flush()
    session.add_all(JobLabel(job_id=job_id, key=key, value=value) for key, value in spec.labels.items())
    session.add_all(JobTeacher(job_id=job_id, model_id=teacher.id) for teacher in checked.teachers)
    _first_event(session, job)
    return Created(job, replayed=False)


def retry(session: Session, settings: Settings, project_id: str, job_id: str, *, idempotent: idempotency.Request | None = None) -> Created:
    """A new job of an ended job's spec. Raises `job_not_terminal`, and what `create` raises."""
    old = get(session, project_id, job_id)
    if old.status not in TERMINAL:
        raise JobNotTerminal(f"{job_id} is {old.status}: only a job that has ended can be run again", hint="cancel it first, or wait")
    return create(session, settings, project_id, old.spec, idempotent=idempotent, retry_of=job_id)


def rerun(
    session: Session,
    settings: Settings,
    project_id: str,
    job_id: str,
    submission: Submission,
    *,
    idempotent: idempotency.Request | None = None,
) -> Created:
    """A new job of a spec that was made of another job's. Raises `not_found`, and what `create` raises."""
    get(session, project_id, job_id)
    return create(session, settings, project_id, submission, idempotent=idempotent, retry_of=job_id)


def create_inspection(session: Session, settings: Settings, row: Model | Dataset) -> Job:
    """The hidden job that parses an upload in a sandbox and reports what is in it."""
    kind: Literal["inspect_model", "inspect_dataset"] = "inspect_model" if isinstance(row, Model) else "inspect_dataset"
    spec = {"limits": {"timeout_seconds": settings.inspection_seconds, "memory_bytes": None}}
    job = _job(
        ids.new("job"),
        row.project_id,
        kind,
        shown=False,
        name=None,
        labels={},
        spec={},
        normalized_spec=spec,
        spec_hash=None,
        model_id=row.id if kind == "inspect_model" else None,
        dataset_id=row.id if kind == "inspect_dataset" else None,
        retry_of=None,
        traceparent=tracing.here(),
        queue=settings.inspect_queue,
        rank=0,
        gpu_memory_bytes=0,
        devices=1,
        any_device=False,
        warnings=[],
        max_attempts=_INSPECTION_ATTEMPTS,
        steps=[],
    )
    session.add(job)
    session.flush()
    _first_event(session, job)
    return job


def _inspect_again(session: Session, settings: Settings, row: Model | Dataset) -> None:
    """Repeat an inspection that failed for a reason of the machine's, unless another job's submission just did."""
    table = type(row)
    again = update(table).where(table.id == row.id, table.status == "invalid").values(status="inspecting", error=None).returning(table.id)
    if session.execute(again).one_or_none() is not None:
        create_inspection(session, settings, row)


def _job(job_id: str, project_id: str, kind: str, **columns: Any) -> Job:
    return Job(
        id=job_id,
        project_id=project_id,
        kind=kind,
        spec_version=SPEC_VERSION,
        engine_version=engine_version,
        status=Status.QUEUED,
        attempt=0,
        fence=0,
        version=1,
        event_seq=1,
        metric_seq=0,
        log_bytes=0,
        **columns,
    )


def _first_event(session: Session, job: Job) -> None:
    session.add(JobEvent(job_id=job.id, seq=1, type="created", fence=0, data={"retry_of": job.retry_of} if job.retry_of else {}))
    session.flush()
    outbox.post(session, job, "created")
    db.ring(session, job.queue)
    failpoints.hit("create.before_commit")
    db.after_commit(session, lambda: failpoints.hit("create.after_commit"))
