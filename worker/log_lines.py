"""A job's log for people: what its process reports, one dated line each, between whatever its libraries print."""

from collections.abc import Mapping
from datetime import UTC, datetime

from engine.contract import events

_MOST_FIGURES = 8
"""Figures in one line."""


class LogLines:
    """Turns events into lines; points of series that belong to one epoch, round or iteration share a line."""

    def __init__(self, steps_count: int) -> None:
        self._steps_count = steps_count
        self._points: dict[str, float] = {}
        self._place: tuple[int | None, int] | None = None

    def of(self, event: events.Event) -> str:
        """The lines of an event, and of what was waiting for it."""
        if isinstance(event, events.MetricPoint):
            place = (event.step_index, event.step)
            before = self.waiting() if place != self._place or event.name in self._points else ""
            self._place = place
            self._points[event.name] = event.value
            return before
        level, text = self._line(event)
        return self.waiting() + (dated(text, level) if text else "")

    def waiting(self) -> str:
        """The line of the points that were collected."""
        if not self._points or self._place is None:
            return ""
        at = f"at {self._place[1]}: " if self._place[1] else ""
        line = dated(f"{at}{_figures(self._points)}")
        self._points = {}
        return line

    def _line(self, event: events.Event) -> tuple[str, str]:
        match event:
            case events.Phase():
                return "info", f"phase: {event.phase}"
            case events.Log():
                return event.level, event.message
            case events.Warned():
                return "warning", f"{event.message} [{event.code}]"
            case events.StepStarted():
                return "info", f"{self._step(event)} begins: {event.method}"
            case events.StepFinished():
                figures = _figures(event.metrics)
                return "info", f"{self._step(event)} is done{': ' if figures else ''}{figures}"
            case events.Resumed():
                place = "" if event.iteration is None else f", on at iteration {event.iteration}"
                return "info", f"an earlier attempt's state was read: {event.trainings_done} trainings are not repeated{place}"
            case events.ArtifactWritten():
                return "info", f"wrote {event.filename}, {event.size_bytes} bytes"
            case events.Failed():
                return "error", f"{event.error.message} [{event.error.code}]"
            case events.Done():
                return "info", f"done{'' if event.outcome is None else f': {event.outcome}'}"
        return "info", ""

    def _step(self, event: events.StepStarted | events.StepFinished) -> str:
        return f"step {(event.step_index or 0) + 1} of {self._steps_count}"


def dated(text: str, level: str = "info") -> str:
    """One line of the log: when (UTC), how grave, and what; further lines of the text follow as they are."""
    now = datetime.now(UTC)
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {level} {text}\n"


def _figures(values: Mapping[str, float]) -> str:
    shown = [f"{name} {value:.6g}" for name, value in list(values.items())[:_MOST_FIGURES]]
    more = len(values) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])
