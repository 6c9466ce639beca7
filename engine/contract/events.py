"""Events that a job's process sends to its supervisor: typed JSON lines on an inherited file descriptor."""

import os
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.contract.errors import Details, JobError
from engine.contract.figures import FileMetrics, Outcome
from engine.contract.files import FileRef


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    step_index: int | None = None
    """Index of the step that the event belongs to; null outside of the steps."""


class Phase(_Event):
    """The job entered a phase: loading baseline pruning training calibrating exporting verifying measuring …"""

    type: Literal["phase"] = "phase"
    phase: str


class Progress(_Event):
    """Share of the whole job that is done; only the latest one is kept."""

    type: Literal["progress"] = "progress"
    fraction: float = Field(ge=0, le=1)
    message: str = ""
    eta_seconds: float | None = None


class MetricPoint(_Event):
    """One point of a series such as `train.loss`."""

    type: Literal["metric"] = "metric"
    name: str
    value: float
    unit: str | None = None
    step: int = 0
    """Position on the series' own axis: epoch, round or iteration."""


class Log(_Event):
    """A line for the job's log."""

    type: Literal["log"] = "log"
    level: Literal["info", "warning", "error"] = "info"
    message: str


class Warned(_Event):
    """Something that the user should know about the result, under a stable code."""

    type: Literal["warning"] = "warning"
    code: str
    message: str
    details: Details = {}


class StepStarted(_Event):
    """A step begins."""

    type: Literal["step_started"] = "step_started"
    method: str


class StepFinished(_Event):
    """A step is done; its metrics were measured on the network in memory. What it reports stands in the report of the job."""

    type: Literal["step_finished"] = "step_finished"
    method: str
    metrics: dict[str, float] = {}


class Checkpointed(_Event):
    """A file in the job directory from which another attempt can go on.

    Its `step_index` is the last step that the other attempt leaves out; null where it goes through all of them again, with what they
    trained.
    """

    type: Literal["checkpoint"] = "checkpoint"
    path: str


class Resumed(_Event):
    """The job goes on from a checkpoint of an earlier attempt."""

    type: Literal["resumed"] = "resumed"
    trainings_done: int
    """Finished trainings that are not repeated."""
    iteration: int | None = None
    """Optimizer step at which the training that was under way goes on."""


class ArtifactWritten(_Event):
    """A verified file below `out/`; the supervisor hashes it again before it is published."""

    type: Literal["artifact"] = "artifact"
    filename: str
    kind: str
    format: str
    size_bytes: int
    gzip_bytes: int | None = None
    sha256: str
    metrics: FileMetrics = {}
    settings: tuple[str, ...] = ()
    """Names of the settings that were measured on this file; their figures are in the result of the job."""


class Failed(_Event):
    """The job ended with an error that the user reads."""

    type: Literal["failed"] = "failed"
    error: JobError


class Done(_Event):
    """The job reached its end."""

    type: Literal["done"] = "done"
    outcome: Outcome | None = None
    result: FileRef | None = None
    """The `Summary` of a compression, or what an inspection found, as JSON in a file: it may be larger than any line."""
    error: JobError | None = None
    """Set where the outcome fails the job: a missed constraint with `on_violation: fail`. Its files are published all the same."""


Event = Annotated[
    Phase | Progress | MetricPoint | Log | Warned | StepStarted | StepFinished | Checkpointed | Resumed | ArtifactWritten | Failed | Done,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
MAX_LINE_BYTES = 1 << 20


def parse_event(line: bytes) -> Event:
    """One line of a child as an event. Raises pydantic's ValidationError: the child is not trusted."""
    return _EVENT.validate_json(line)


def write_event(fd: int, event: BaseModel) -> None:
    """Write one event as one line."""
    line = event.model_dump_json(exclude_defaults=False).encode() + b"\n"
    view = memoryview(line)
    while view:
        view = view[os.write(fd, view) :]
