"""Records a job's phases, progress, warnings and artifacts: emits them as events and keeps them for the report."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.contract import events
from engine.contract.figures import FileMetrics
from engine.contract.report import ReportedFile, ReportedWarning

PROGRESS_SECONDS = 0.1
_GUESSABLE = 0.05
"""Before this share of the job is done, the time left is not guessed."""


class Recorder:
    """Emits the events of one job."""

    def __init__(self, emit: Callable[[events.Event], None]) -> None:
        self._emit = emit
        self._started = time.monotonic()
        self._progressed = 0.0
        self.warnings: list[ReportedWarning] = []
        self.artifacts: list[ReportedFile] = []

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self._started

    def emit(self, event: events.Event) -> None:
        """Pass an event on; warnings and artifacts are remembered, and progress is emitted at most every 0.1 s."""
        if isinstance(event, events.Progress):
            now = time.monotonic()
            if event.fraction < 1 and now - self._progressed < PROGRESS_SECONDS:
                return
            self._progressed = now
        elif isinstance(event, events.Warned):
            self.warnings.append(ReportedWarning(**dict(event)))
        elif isinstance(event, events.ArtifactWritten):
            self.artifacts.append(ReportedFile(**dict(event)))
        self._emit(event)

    def warn(self, code: str, message: str, **details: Any) -> None:
        """Something that the user should know about the result."""
        self.emit(events.Warned(code=code, message=message, details=details))

    def phase(self, name: str, fraction: float) -> None:
        """Enter a phase at the given share of the whole job."""
        self.emit(events.Phase(phase=name))
        self.progress(fraction, name)

    def progress(self, fraction: float, message: str) -> None:
        """Share of the whole job that is done."""
        left = self.seconds * (1 - fraction) / fraction if fraction > _GUESSABLE else None
        self.emit(events.Progress(fraction=fraction, message=message, eta_seconds=left))

    def artifact(
        self,
        path: Path,
        *,
        kind: str,
        format: str,
        metrics: FileMetrics,
        step_index: int | None = None,
        gzip_bytes: int | None = None,
        settings: tuple[str, ...] = (),
    ) -> None:
        """A verified file in `out/`."""
        self.emit(
            events.ArtifactWritten(
                filename=path.name,
                kind=kind,
                format=format,
                size_bytes=path.stat().st_size,
                gzip_bytes=gzip_bytes,
                sha256=sha256_of(path),
                metrics=metrics,
                settings=settings,
                step_index=step_index,
            )
        )


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
