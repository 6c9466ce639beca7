"""What workers hand over: errors, events, points, artifacts, reports."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.blobs.digest import Blob
from core.database.serialization import storable


@dataclass(frozen=True)
class NewEvent:
    """One line for the job's history."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One point of a series, such as `train.loss` at epoch 3."""

    name: str
    value: float
    step: int = 0
    unit: str | None = None
    step_index: int | None = None


@dataclass(frozen=True)
class NewArtifact:
    """A verified file whose bytes are in the blob store already."""

    kind: str
    format: str
    filename: str
    blob: Blob
    gzip_bytes: int | None = None
    step_index: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: list[dict[str, Any]] = field(default_factory=list)
    """What was measured on it, as JSON types of `engine.contract.figures.Measured`."""


@dataclass(frozen=True)
class Report:
    """What a worker reports with its heartbeat. None leaves a column as it is; lists of `steps` and `warnings` are whole lists."""

    phase: str | None = None
    progress: dict[str, Any] | None = None
    steps: list[dict[str, Any]] | None = None
    warnings: list[dict[str, Any]] | None = None
    isolation: dict[str, Any] | None = None
    events: Sequence[NewEvent] = ()
    metrics: Sequence[Point] = ()
    log: str = ""

    def __bool__(self) -> bool:
        """Whether it holds anything."""
        return any((self.values(), self.events, self.metrics, self.log))

    def values(self) -> dict[str, Any]:
        """The columns to write."""
        columns = {name: getattr(self, name) for name in ("phase", "progress", "steps", "warnings", "isolation")}
        return {name: storable(value) for name, value in columns.items() if value is not None}


@dataclass(frozen=True)
class Heartbeat:
    """The answer to a heartbeat."""

    cancel_requested: bool
