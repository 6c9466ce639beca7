"""The report of a job that did not end well: how far it came, what was measured by then, and why it ended."""

from datetime import datetime
from typing import Any, Literal

from pydantic import RootModel

from engine.contract.errors import JobError
from engine.contract.figures import Record
from engine.contract.report import REPORT_VERSION, Report, ReportedWarning


class Stage(Record):
    """A phase that an attempt entered."""

    attempt_fence: int
    phase: str
    step_index: int | None = None
    began_at: datetime
    duration_seconds: float | None = None
    """Null where nothing tells when it ended."""


class StepSoFar(Record):
    """What became of a step."""

    index: int
    method: str
    status: Literal["finished", "begun", "not_begun"]
    metrics: dict[str, float | None] = {}
    """Measured after it."""


class SeriesSoFar(Record):
    """What was measured while the job ran, such as `train.loss`."""

    name: str
    unit: str | None = None
    step_index: int | None = None
    attempt_fence: int
    points: tuple[tuple[int, float | None], ...]


class PartialReport(Record):
    """How far a job came."""

    object: Literal["partial_report"] = "partial_report"
    report_version: int = REPORT_VERSION
    job_id: str
    name: str | None
    status: Literal["failed", "cancelled"]
    error: JobError | None
    """Null where it was cancelled."""
    attempts: int
    baseline: dict[str, float | None]
    """Metrics of the uploaded model; empty where the job ended before they were measured."""
    stages: tuple[Stage, ...]
    steps: tuple[StepSoFar, ...]
    series: tuple[SeriesSoFar, ...]
    warnings: tuple[ReportedWarning, ...]
    spec: dict[str, Any]
    spec_hash: str
    started_at: datetime | None
    finished_at: datetime | None
    sentence: str
    """How it ended, in one sentence."""


class AnyReport(RootModel[PartialReport | Report]):
    """What `report.json` of an ended job is."""
