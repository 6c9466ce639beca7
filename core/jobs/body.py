"""A job as its clients see it: one pure function for the API, the event stream and the command line."""

from collections.abc import Collection
from typing import Any

from core.database.clock import timestamp
from core.database.tables import Artifact, Job, JobEvent, JobMetric
from core.jobs.states import TERMINAL

EXPANDABLE = ("spec", "normalized_spec", "warnings", "error.details")
"""What a list leaves out of its jobs, or shortens, unless it is asked for."""
_LISTED_WARNINGS = 10
_LISTED_CHARACTERS = 300


def listed(job: Job, expand: Collection[str] = ()) -> dict[str, Any]:
    """A job as lists show it: without its specs, with the first warnings in short, and without the details of its error.

    `expand` names what is shown in full all the same. The columns of specs that are not shown need not be loaded.
    """
    left_out = {name for name in ("spec", "normalized_spec") if name not in expand}
    shown = body(job, left_out=left_out)
    if "warnings" not in expand:
        shown["warnings"] = [_shortened(item) for item in job.warnings[:_LISTED_WARNINGS]]
        shown["warnings_count"] = len(job.warnings)
    if "error.details" not in expand and job.error is not None:
        shown["error"] = {**job.error, "message": job.error["message"][:_LISTED_CHARACTERS], "details": {}}
    return shown


def _shortened(warning: dict[str, Any]) -> dict[str, Any]:
    return {"code": warning["code"], "message": warning["message"][:_LISTED_CHARACTERS], "step_index": warning.get("step_index")}


def body(job: Job, *, left_out: Collection[str] = ()) -> dict[str, Any]:
    """The job object of the public contract, without the specs that `left_out` names."""
    base = f"/v1/jobs/{job.id}"
    specs = {name: getattr(job, name) for name in ("spec", "normalized_spec") if name not in left_out}
    return {
        "object": "job",
        "id": job.id,
        "name": job.name,
        "status": job.status,
        "phase": job.phase,
        "outcome": job.outcome,
        "progress": _progress(job),
        "model_id": job.model_id,
        "dataset_id": job.dataset_id,
        **specs,
        "spec_hash": job.spec_hash,
        "engine_version": job.engine_version,
        "steps": job.steps,
        "summary": job.summary and {"settings": [], **job.summary},
        "warnings": job.warnings,
        "warnings_count": len(job.warnings or ()),
        "error": job.error,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "isolation": job.isolation,
        "queue": job.queue,
        "priority": -job.rank,
        "device": job.device,
        "worker": job.worker,
        "labels": job.labels,
        "retry_of": job.retry_of,
        "cancel_requested_at": timestamp(job.cancel_requested_at),
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
        "urls": {
            "self": base,
            "cancel": f"{base}/cancel",
            "events": f"{base}/events",
            "stream": f"{base}/events/stream",
            "logs": f"{base}/logs",
            "metrics": f"{base}/metrics",
            "artifacts": f"{base}/artifacts",
            "report": f"{base}/report.json",
        },
    }


def _progress(job: Job) -> dict[str, Any]:
    progress = job.progress or {}
    return {
        "fraction": 1.0 if job.status == "succeeded" else progress.get("fraction", 0.0),
        "step_index": progress.get("step_index"),
        "steps_count": len(job.steps),
        "message": "" if job.status in TERMINAL else progress.get("message", ""),
        "eta_seconds": None if job.status in TERMINAL else progress.get("eta_seconds"),
    }


def event_body(event: JobEvent) -> dict[str, Any]:
    """One event; its id orders the events of the job and is what `Last-Event-ID` holds."""
    return {
        "object": "event",
        "id": f"evt_{event.job_id.removeprefix('job_')}{event.seq:08d}",
        "seq": event.seq,
        "job_id": event.job_id,
        "type": event.type,
        "attempt_fence": event.fence,
        "data": event.data,
        "created_at": timestamp(event.created_at),
    }


def metric_body(point: JobMetric) -> dict[str, Any]:
    """One point of a series."""
    return {
        "seq": point.seq,
        "name": point.name,
        "step_index": point.step_index,
        "step": point.step,
        "value": point.value,
        "unit": point.unit,
        "attempt_fence": point.fence,
    }


def artifact_body(artifact: Artifact) -> dict[str, Any]:
    """One published file."""
    return {
        "object": "artifact",
        "id": artifact.id,
        "job_id": artifact.job_id,
        "kind": artifact.kind,
        "format": artifact.format,
        "filename": artifact.filename,
        "name": artifact.name,
        "labels": artifact.labels or {},
        "step_index": artifact.step_index,
        "size_bytes": artifact.size_bytes,
        "gzip_bytes": artifact.gzip_bytes,
        "sha256": artifact.blob_sha256,
        "metrics": artifact.metrics,
        "settings": artifact.settings,
        "created_at": timestamp(artifact.created_at),
        "urls": {"self": f"/v1/artifacts/{artifact.id}", "content": f"/v1/artifacts/{artifact.id}/content"},
    }
