"""The partial report of a job that failed or was cancelled: read from the job's own record, so that no ending is too sudden for one."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from core.database.tables import Job, JobEvent
from core.errors import NotFound
from core.jobs.history import events, series
from core.jobs.queries import get
from core.jobs.states import Status
from engine.contract.errors import JobError
from engine.contract.partial import PartialReport, SeriesSoFar, Stage, StepSoFar
from engine.contract.report import ReportedWarning

BASELINE = "baseline."
"""How the series begin that hold what was measured of the uploaded model."""
_MOST_EVENTS, _MOST_POINTS = 5000, 500
_TYPES = ("phase", "step_started", "step_finished", "requeued", "failed", "cancelled")


def partial_report(session: Session, project_id: str, job_id: str) -> PartialReport:
    """How far the job came. Raises `not_found`, also for a job that has not ended, or has ended well."""
    job = get(session, project_id, job_id)
    if job.status not in (Status.FAILED, Status.CANCELLED):
        raise NotFound(f"{job_id} has no report", hint="a report appears when the job has ended")
    happened = events(session, job_id, limit=_MOST_EVENTS, types=_TYPES)
    measured = [SeriesSoFar.model_validate(item) for item in series(session, job_id, max_points=_MOST_POINTS)]
    error = None if job.error is None else JobError.model_validate(job.error)
    return PartialReport(
        job_id=job.id,
        name=job.name,
        status="failed" if job.status == Status.FAILED else "cancelled",
        error=error,
        attempts=job.attempt,
        baseline={item.name.removeprefix(BASELINE): item.points[-1][1] for item in measured if item.name.startswith(BASELINE)},
        stages=tuple(_stages(happened, _utc(job.finished_at))),
        steps=tuple(_steps(job, happened)),
        series=tuple(item for item in measured if not item.name.startswith(BASELINE)),
        warnings=tuple(ReportedWarning.model_validate(item) for item in job.warnings or ()),
        spec=job.normalized_spec,
        spec_hash=job.spec_hash,
        started_at=_utc(job.started_at),
        finished_at=_utc(job.finished_at),
        sentence=_sentence(job, error, happened),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)


def _stages(happened: Sequence[JobEvent], ended: datetime | None) -> Iterable[Stage]:
    """Each phase lasted until the next event that ends one: another phase of the same attempt, or the attempt's end."""
    marks = [item for item in happened if item.type not in ("step_started", "step_finished")]
    for item, after in zip(marks, [*marks[1:], None], strict=True):
        if item.type == "phase":
            begin, end = _utc(item.created_at), ended if after is None else _utc(after.created_at)
            assert begin is not None
            yield Stage(
                attempt_fence=item.fence,
                phase=str(item.data["phase"]),
                step_index=item.data.get("step_index"),
                began_at=begin,
                duration_seconds=None if end is None else max(0.0, round((end - begin).total_seconds(), 3)),
            )


def _steps(job: Job, happened: Sequence[JobEvent]) -> Iterable[StepSoFar]:
    """Of the last attempt that came to a step: what was finished before it is done again."""
    begun = {item.data["step_index"] for item in happened if item.type == "step_started"}
    finished = {item.data["step_index"]: item.data["metrics"] for item in happened if item.type == "step_finished"}
    for index, step in enumerate(job.normalized_spec.get("steps", ())):
        status = "finished" if index in finished else "begun" if index in begun else "not_begun"
        yield StepSoFar.model_validate({"index": index, "method": step["method"], "status": status, "metrics": finished.get(index, {})})


def _sentence(job: Job, error: JobError | None, happened: Sequence[JobEvent]) -> str:
    phases = [str(item.data["phase"]) for item in happened if item.type == "phase"]
    where = f" in phase {phases[-1]!r}" if phases else " before it began"
    if error is None:
        return f"The job was cancelled{where}."
    return f"The job failed{where}: {error.message}"
