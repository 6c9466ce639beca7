"""What an ended job says about itself, in MLflow's terms: parameters, metrics, tags, files and the model that came out."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from core import jobs
from core.blobs.digest import Blob
from core.database.clock import timestamp
from core.database.serialization import to_json
from core.database.tables import Artifact, Dataset, Job, Model
from engine.contract.figures import Comparison, Figures, Summary

MODEL_FOLDER = "model"
MOST_PARAMS = 500
MOST_POINTS = 1000
"""Of one series: longer ones are thinned out evenly."""
_PARAM_CHARACTERS = 500
_TAG_CHARACTERS = 5000
_NAME_CHARACTERS = 200
_ODD = re.compile(r"[^\w\-. /]", re.ASCII)
_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


@dataclass(frozen=True)
class Point:
    """One value of a metric; `step` counts within a series and is 0 for what was measured at the end."""

    key: str
    value: float
    step: int
    timestamp: int
    """Milliseconds since 1970."""


@dataclass(frozen=True)
class File:
    """A file of the run, by its path there."""

    path: str
    blob: Blob
    url: str
    """Where this service serves it."""
    format: str
    is_model: bool


@dataclass(frozen=True)
class Story:
    """An ended job. Reading it again gives the same, so that writing it again changes nothing."""

    job_id: str
    name: str
    status: str
    """As MLflow calls it."""
    started_ms: int
    ended_ms: int
    params: Mapping[str, str]
    metrics: tuple[Point, ...]
    tags: Mapping[str, str]
    files: tuple[File, ...]
    spec: bytes
    model_name: str
    """What the network is called that was compressed."""
    lineage: Mapping[str, str]
    """Where the result comes from."""
    dataset: tuple[str, str] | None
    """Name and hash."""


def read(session: Session, project_id: str, job_id: str) -> Story:
    """The story of a job of the project. Raises `not_found`."""
    job = jobs.get(session, project_id, job_id)
    model, dataset = session.get(Model, job.model_id), session.get(Dataset, job.dataset_id) if job.dataset_id else None
    started, ended = _ms(job.started_at or job.created_at), _ms(job.finished_at or job.created_at)
    lineage = _lineage(job, model, dataset)
    files = tuple(_files(session, job.id))
    return Story(
        job_id=job.id,
        name=job.name or job.id,
        status=_STATUS.get(job.status, "RUNNING"),
        started_ms=started,
        ended_ms=ended,
        params=dict(list(_flat(job.normalized_spec))[:MOST_PARAMS]),
        metrics=(*_series(session, job.id, started), *_figures(job.summary, ended)),
        tags={**_tags(job), **lineage, **{f"modelpress.file.{file.path}"[:_NAME_CHARACTERS]: file.url for file in files}},
        files=files,
        spec=to_json(job.spec).encode(),
        model_name=named((model.name if model else "") or job.id),
        lineage=lineage,
        dataset=(dataset.name, dataset.sha256) if dataset else None,
    )


def named(text: str) -> str:
    """A name that MLflow takes: of a metric, a parameter, or, without slashes, of a model."""
    return _ODD.sub("_", text)[:_NAME_CHARACTERS]


def _lineage(job: Job, model: Model | None, dataset: Dataset | None) -> dict[str, str]:
    told = {"job_id": job.id, "spec_hash": job.spec_hash, "engine_version": job.engine_version, "outcome": job.outcome}
    for noun, row in (("model", model), ("dataset", dataset)):
        if row is not None:
            told |= {f"{noun}_id": row.id, f"{noun}_name": row.name, f"{noun}_sha256": row.sha256}
    return {f"modelpress.{key}": str(value) for key, value in told.items() if value}


def _tags(job: Job) -> dict[str, str]:
    error = job.error or {}
    verdict = (job.summary or {}).get("verdict")
    told = {"status": job.status, "verdict": verdict, "retry_of": job.retry_of, "device": job.device, "url": f"/v1/jobs/{job.id}"}
    told |= {"error_code": error.get("code"), "error": error.get("message"), "finished_at": timestamp(job.finished_at)}
    labels = {f"modelpress.label.{named(key)}": str(value) for key, value in job.labels.items()}
    tags = {f"modelpress.{key}": str(value)[:_TAG_CHARACTERS] for key, value in told.items() if value} | labels
    return tags | {"mlflow.source.name": "modelpress", "mlflow.source.type": "JOB"}


def _files(session: Session, job_id: str) -> Iterator[File]:
    rows = session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.position))
    for row in rows.all():
        is_model = row.kind == "model"
        path = f"{MODEL_FOLDER}/{row.filename}" if is_model else row.filename
        yield File(path, Blob.load(session, row.blob_sha256), f"/v1/artifacts/{row.id}/content", row.format, is_model)


def _flat(value: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a document under the path to each."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else ((str(place), item) for place, item in enumerate(value))
        for key, item in pairs:
            yield from _flat(item, f"{path}.{key}" if path else key)
    elif value is not None and path:
        text = value if isinstance(value, str) else json.dumps(value)
        yield named(path), text[:_PARAM_CHARACTERS]


def _series(session: Session, job_id: str, started_ms: int) -> Iterator[Point]:
    """What trainings measured; where an attempt repeats what a lost one had done, the later one's values."""
    points: dict[tuple[str, int], float] = {}
    for series in jobs.series(session, job_id, max_points=MOST_POINTS):
        place = series["step_index"]
        key = named(series["name"] if place is None else f"steps/{place}/{series['name']}")
        points |= {(key, step): value for step, value in series["points"] if value is not None}
    for (key, step), value in points.items():
        yield Point(key, value, step, started_ms)


def _figures(summary: dict[str, Any] | None, ended_ms: int) -> Iterator[Point]:
    """The figures of the baseline, of the setting that was judged, and of every setting by its name."""
    try:
        read = Summary.model_validate(summary)
    except ValidationError:  # none, or another version's
        return
    found = {f"baseline/{key}": value for key, value in _file(read.baseline)}
    judged = next((item for item in read.settings if item.setting.name == read.judged_setting), None)
    figures, comparison = (judged.figures, judged.comparison) if judged else (read.result, read.comparison)
    found |= {f"result/{key}": value for key, value in (*_file(figures), *_compared(comparison))}
    for item in read.settings:
        if item.setting.name:
            pairs = (*_file(item.figures), *_compared(item.comparison))
            found |= {f"settings/{item.setting.name}/{key}": value for key, value in pairs}
    for key, value in found.items():
        if value is not None:
            yield Point(named(key), float(value), 0, ended_ms)


def _file(figures: Figures) -> Iterator[tuple[str, float | None]]:
    yield from figures.metrics.items()
    yield from (("file_bytes", figures.file_bytes), ("gzip_bytes", figures.gzip_bytes), ("params_count", figures.params_count))
    yield from (("nonzero_params_count", figures.nonzero_params_count), ("macs_count", figures.macs_count))
    for latency in figures.latencies:
        batch = f"batch_{latency.batch_size}"
        yield from ((f"latency_p50_ms/{batch}", latency.p50), (f"latency_p95_ms/{batch}", latency.p95))


def _compared(comparison: Comparison) -> Iterator[tuple[str, float | None]]:
    yield from (("file_ratio", comparison.file_ratio), ("gzip_ratio", comparison.gzip_ratio))
    yield from (("params_ratio", comparison.params_ratio), ("macs_ratio", comparison.macs_ratio))
    yield from ((f"change/{name}", change) for name, change in comparison.metric_changes.items())
    yield from ((f"speedup/batch_{speed.batch_size}", speed.speedup) for speed in comparison.latencies)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
