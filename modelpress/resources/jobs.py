"""A job and what belongs to it, as `core.jobs.body` renders them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from engine.contract.errors import JobError
from engine.contract.figures import Measured, Summary
from modelpress.resources.common import Resource

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


class Progress(Resource):
    """How far the job is, and what it does."""

    fraction: float = Field(ge=0, le=1)
    step_index: int | None
    steps_count: int
    message: str
    eta_seconds: float | None


class Step(Resource):
    """One step of the job; its metrics were measured on the network in memory."""

    model_config = ConfigDict(extra="allow")

    index: int
    id: str | None
    method: str
    status: str
    metrics: dict[str, float | None]


class Warned(Resource):
    """Something that the user should know, under a stable code."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    step_index: int | None = None


class Isolation(Resource):
    """How the job's process was fenced off."""

    model_config = ConfigDict(extra="allow")

    tier: int = Field(ge=0, le=3)
    layers: list[str]


class Job(Resource):
    """One compression. `status` is a closed list; phases, metric names and codes may grow."""

    object: Literal["job"]
    id: str
    name: str | None
    status: Status
    phase: str | None
    outcome: str | None
    """`constraints_met`, `constraints_not_met` or `no_constraints`, once the job has ended."""
    progress: Progress
    model_id: str
    dataset_id: str | None
    spec: dict[str, Any]
    """As it was sent."""
    normalized_spec: dict[str, Any]
    """With every default written out."""
    spec_hash: str
    engine_version: str
    steps: list[Step]
    summary: Summary | None
    """`baseline` and `result`: the same keys, measured the same way; `settings`: the same for every setting of the network."""
    warnings: list[Warned]
    warnings_count: int
    error: JobError | None
    attempt: int
    max_attempts: int
    isolation: Isolation | None
    queue: str
    priority: int
    device: str | None
    worker: str | None
    labels: dict[str, str]
    retry_of: str | None
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    urls: dict[str, str]


class ListedJob(Job):
    """A job in a list: its specs, its warnings in full and the details of its error come only where `expand` names them."""

    spec: dict[str, Any] = {}
    """Only with `expand=spec`."""
    normalized_spec: dict[str, Any] = {}
    """Only with `expand=normalized_spec`."""
    warnings: list[Warned]
    """The first ten, in short, unless `expand=warnings`."""


class Event(Resource):
    """One entry of a job's history; entries are numbered from 1 without a gap and never change."""

    object: Literal["event"]
    id: str
    seq: int
    job_id: str
    type: str
    attempt_fence: int
    data: dict[str, Any]
    created_at: datetime


class JobProgress(Resource):
    """How far a job is, as its event stream tells between events."""

    object: Literal["progress"]
    job_id: str
    status: Status
    phase: str | None
    progress: Progress
    attempt: int


class Artifact(Resource):
    """A published file; `metrics` were measured on this very file."""

    object: Literal["artifact"]
    id: str
    job_id: str
    kind: str
    format: str
    filename: str
    name: str | None = None
    """What a client calls it."""
    labels: dict[str, str] = {}
    """The client's own pairs, to find it by."""
    step_index: int | None
    size_bytes: int
    gzip_bytes: int | None
    sha256: str
    metrics: dict[str, Any]
    settings: list[Measured]
    """What was measured on this very file: one entry for each setting of the network that it holds; empty where it is not a network
    that runs."""
    created_at: datetime
    urls: dict[str, str]


class Series(Resource):
    """One series of figures, such as `train.loss`; each point is `[step, value]`."""

    name: str
    unit: str | None
    step_index: int | None
    attempt_fence: int
    points: list[tuple[int, float | None]]


class SeriesList(Resource):
    """The series of a job."""

    object: Literal["list"]
    data: list[Series]
    has_more: bool
    next_cursor: str | None


class PlanStep(Resource):
    """What a step will do, needs and changes."""

    index: int
    id: str | None
    method: str
    title: str
    summary: str
    needs: dict[str, Any]
    effect: dict[str, str]
    duration_seconds: float | None
    """A rough guess; null while the model has not been inspected."""


class Estimate(Resource):
    """A rough guess from the model's size and the examples that it will see; null while an upload has not been inspected."""

    duration_seconds: float | None
    peak_memory_bytes: int | None


class Verdict(Resource):
    """Whether a spec would be accepted, and what it would do."""

    valid: bool
    normalized_spec: dict[str, Any] | None
    spec_hash: str | None
    plan: list[PlanStep]
    warnings: list[Warned]
    estimate: Estimate
    errors: list[dict[str, Any]]


class Template(Resource):
    """A spec, or a part of one, that jobs are made of."""

    object: Literal["template"]
    id: str
    name: str
    description: str | None
    spec: dict[str, Any]
    created_at: datetime
    urls: dict[str, str]
