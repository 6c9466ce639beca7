"""What a worker writes while it holds a job. Every write carries its fence and matches no row once the job went to another attempt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.orm import Session

from core import failpoints, ids
from core.blobs.digest import Blob
from core.database import db
from core.database.clock import db_now
from core.database.serialization import storable
from core.database.tables import Artifact, Job
from core.errors import LeaseLost
from core.jobs.bounds import MAX_EVENTS, MAX_POINTS, bounded_error, bounded_event, bounded_warnings
from core.jobs.history import add_events, add_log, add_metrics
from core.jobs.records import Heartbeat, NewArtifact, NewEvent, Report
from core.jobs.settle import charge, settle_inspection
from core.jobs.states import Status, transition
from engine.contract.errors import JobError
from engine.contract.figures import Outcome

_NOTHING = Report()
_RESTING: dict[str, Any] = {"lease_expires_at": None, "worker": None, "phase": None}


def _mine(job_id: str, fence: int) -> ColumnElement[bool]:
    return and_(Job.id == job_id, Job.fence == fence)


def heartbeat(session: Session, job_id: str, fence: int, *, lease_seconds: float, report: Report = _NOTHING) -> Heartbeat:
    """Extend the lease, write the report, and read the cancel flag, in one statement.

    Raises `lease_lost` when the job belongs to another attempt or has ended.
    """
    answer = _tell(session, job_id, fence, report, lease_expires_at=db_now(lease_seconds))
    failpoints.hit("heartbeat.before_commit")
    return answer


def should_stop(session: Session, job_id: str, fence: int) -> bool:
    """Whether the job was asked to stop: the cheap look between heartbeats. Raises `lease_lost`."""
    statement = select(Job.cancel_requested_at).where(_mine(job_id, fence), Job.status == Status.RUNNING)
    row = session.execute(statement).one_or_none()
    if row is None:
        _lease_lost(job_id, fence)
    return row.cancel_requested_at is not None


def checkpoint(session: Session, job_id: str, fence: int, blob: Blob, state: dict[str, Any]) -> None:
    """From here another attempt may go on. `state` holds where that is: `{"step_index": …}` and what the engine adds."""
    event = NewEvent("checkpoint", {**state, "size_bytes": blob.size_bytes})
    _tell(session, job_id, fence, Report(events=[event]), checkpoint_sha256=blob.sha256, checkpoint=storable(state))


def finish(
    session: Session,
    job_id: str,
    fence: int,
    *,
    outcome: Outcome | None,
    result: dict[str, Any],
    artifacts: Sequence[NewArtifact] = (),
    report: Report = _NOTHING,
) -> Job:
    """The job succeeded: its artifacts, metrics and last report appear together with the status, or not at all.

    `result` is the summary of a compression or what an inspection found. Raises `lease_lost`.
    """
    failpoints.hit("finish.before_update")
    _tell(session, job_id, fence, report)
    job = _end(session, job_id, fence, Status.SUCCEEDED, data={"outcome": outcome}, outcome=outcome, summary=storable(result), error=None)
    _add_artifacts(session, job, artifacts)
    failpoints.hit("finish.before_commit")
    return job


def fail(
    session: Session,
    job_id: str,
    fence: int,
    error: JobError,
    *,
    outcome: Outcome | None = None,
    result: dict[str, Any] | None = None,
    artifacts: Sequence[NewArtifact] = (),
    report: Report = _NOTHING,
    retry_delay_seconds: float = 2,
) -> Job:
    """The attempt failed. A transient error leads to another attempt while there are some left, or to the cancellation that was
    asked for; any other error ends the job.

    A job may fail and still publish (`constraints.on_violation: fail`). Raises `lease_lost`.
    """
    error = bounded_error(error)
    _tell(session, job_id, fence, report)
    if error.category == "transient":
        job = _requeue(session, job_id, fence, error, retry_delay_seconds) or _try_end(
            session, job_id, fence, Status.CANCELLED, Job.cancel_requested_at.is_not(None)
        )
        if job is not None:
            return job
    stored = storable(error.model_dump())
    job = _end(session, job_id, fence, Status.FAILED, data={"error": stored}, error=stored, outcome=outcome, summary=storable(result))
    _add_artifacts(session, job, artifacts)
    return job


def cancelled(session: Session, job_id: str, fence: int, *, report: Report = _NOTHING) -> Job:
    """The worker stopped the job as it was asked to. Raises `lease_lost`, also when nobody asked."""
    _tell(session, job_id, fence, report)
    return _end(session, job_id, fence, Status.CANCELLED, Job.cancel_requested_at.is_not(None))


def release(session: Session, job_id: str, fence: int, *, reason: str = "the worker was asked to stop", report: Report = _NOTHING) -> Job:
    """Give a job back so that another worker goes on at once; the attempt does not count. Raises `lease_lost`.

    A job that was to be cancelled is cancelled.
    """
    if _tell(session, job_id, fence, report).cancel_requested:
        return _end(session, job_id, fence, Status.CANCELLED)
    job = transition(
        session,
        Status.RUNNING,
        Status.QUEUED,
        _mine(job_id, fence),
        event="released",
        data={"reason": reason},
        attempt=Job.attempt - 1,
        **_RESTING,
    )
    if job is None:
        _lease_lost(job_id, fence)
    charge(session, job, "released")
    db.ring(session, job.queue)
    return job


def lose(session: Session, job_id: str, fence: int) -> Job | None:
    """The worker is not heard of: the job goes to another attempt, or ends. None when the worker was heard of after all.

    For the reconciler, which found the lease expired; asks again in the same statement.
    """
    expired = Job.lease_expires_at < db_now()
    error = JobError.of(
        "worker_lost", "transient", "the worker that ran the job is not heard of any more", hint="run the job again", retryable=True
    )
    job = _requeue(session, job_id, fence, error, 0, expired)
    if job is not None:
        return job
    asked, stored = Job.cancel_requested_at.is_not(None), storable(error.model_dump())
    return _try_end(session, job_id, fence, Status.CANCELLED, expired, asked) or _try_end(
        session, job_id, fence, Status.FAILED, expired, ~asked, data={"error": stored}, error=stored
    )


def _tell(session: Session, job_id: str, fence: int, report: Report, **values: Any) -> Heartbeat:
    """Write what the worker reports, under its fence."""
    if report:
        values["version"] = Job.version + 1
        report = _bounded(session, job_id, report)
    statement = (
        update(Job)
        .where(_mine(job_id, fence), Job.status == Status.RUNNING)
        .values(
            event_seq=Job.event_seq + len(report.events),
            metric_seq=Job.metric_seq + len(report.metrics),
            **report.values(),
            **values,
        )
        .returning(Job.cancel_requested_at, Job.event_seq, Job.metric_seq, Job.log_bytes)
    )
    row = session.execute(statement, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        _lease_lost(job_id, fence)
    add_events(session, job_id, fence, row.event_seq, report.events)
    add_metrics(session, job_id, fence, row.metric_seq, report.metrics)
    add_log(session, job_id, fence, row.log_bytes, report.log)
    return Heartbeat(row.cancel_requested_at is not None)


def _bounded(session: Session, job_id: str, report: Report) -> Report:
    """The report within the bounds of a job's record. Only the holder of the fence adds to it, so that nothing is added in between."""
    events, metrics = report.events, report.metrics
    if events or metrics:
        had = session.execute(select(Job.event_seq, Job.metric_seq).where(Job.id == job_id)).one_or_none()
        if had is not None:
            events = [bounded_event(event) for event in events[: max(0, MAX_EVENTS - had.event_seq)]]
            metrics = metrics[: max(0, MAX_POINTS - had.metric_seq)]
    warnings = None if report.warnings is None else bounded_warnings(report.warnings)
    return replace(report, events=events, metrics=metrics, warnings=warnings)


def _requeue(
    session: Session, job_id: str, fence: int, error: JobError, delay_seconds: float, *conditions: ColumnElement[bool]
) -> Job | None:
    """Queue the job for another attempt; None when its attempts are used up or it was asked to stop."""
    job = transition(
        session,
        Status.RUNNING,
        Status.QUEUED,
        _mine(job_id, fence),
        Job.attempt < Job.max_attempts,
        Job.cancel_requested_at.is_(None),
        *conditions,
        event="requeued",
        data={"error": storable(error.model_dump())},
        available_at=db_now(delay_seconds) if delay_seconds else None,
        **_RESTING,
    )
    if job is not None:
        charge(session, job, "lost" if error.code == "worker_lost" else "retried")
        db.ring(session, job.queue)
    return job


def _end(session: Session, job_id: str, fence: int, target: Status, *conditions: ColumnElement[bool], **values: Any) -> Job:
    job = _try_end(session, job_id, fence, target, *conditions, **values)
    if job is None:
        _lease_lost(job_id, fence)
    return job


def _try_end(
    session: Session,
    job_id: str,
    fence: int,
    target: Status,
    *conditions: ColumnElement[bool],
    data: dict[str, Any] | None = None,
    **values: Any,
) -> Job | None:
    """The one terminal transition of a job that ran."""
    job = transition(
        session,
        Status.RUNNING,
        target,
        _mine(job_id, fence),
        *conditions,
        event=target,
        data=data,
        lease_expires_at=None,
        phase=None,
        checkpoint_sha256=None,
        checkpoint=None,
        finished_at=db_now(),
        **values,
    )
    if job is not None:
        charge(session, job, target)
        settle_inspection(session, job)
    return job


def _add_artifacts(session: Session, job: Job, artifacts: Sequence[NewArtifact]) -> None:
    for position, new in enumerate(artifacts):
        session.add(
            Artifact(
                id=ids.new("art"),
                project_id=job.project_id,
                job_id=job.id,
                fence=job.fence,
                position=position,
                kind=new.kind,
                format=new.format,
                filename=new.filename,
                step_index=new.step_index,
                blob_sha256=new.blob.sha256,
                size_bytes=new.blob.size_bytes,
                gzip_bytes=new.gzip_bytes,
                metrics=storable(new.metrics),
                settings=storable(new.settings),
                labels={},
            )
        )
    session.flush()


def _lease_lost(job_id: str, fence: int) -> NoReturn:
    raise LeaseLost(f"{job_id} is no longer held under fence {fence}", hint="stop the child: another attempt has the job, or it has ended")
