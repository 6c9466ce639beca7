"""Events of a job's process, kept for the next heartbeat and for the end. One thread writes them, another reads them."""

import codecs
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from core.jobs import NewEvent, Point, Report
from engine.contract import events
from worker.log_lines import LogLines, dated

MOST_BYTES = 64 << 20
"""Events of one attempt, in bytes of their lines; more is a child that has lost its way."""
MOST_PENDING_LOG = 4 << 20
"""Log that waits for a heartbeat, in characters."""
_CUT = "\n[the job wrote faster than its log is kept: a part is missing here]\n"


class ProtocolError(Exception):
    """The child wrote something that is not an event."""


class Transcript:
    """The running account of one attempt.

    Args:
        steps: The job's steps as they stand in its row.
        warnings: Warnings of earlier attempts.
        resumed_after: Index of the last step that an earlier attempt finished and checkpointed; None to begin from the start.
    """

    def __init__(self, steps: Sequence[dict[str, Any]], warnings: Sequence[dict[str, Any]] = (), resumed_after: int | None = None) -> None:
        done = -1 if resumed_after is None else resumed_after
        self._steps = [dict(step) if step["index"] <= done else {**step, "status": "pending", "metrics": {}} for step in steps]
        self._warnings = [item for item in warnings if item["step_index"] is not None and item["step_index"] <= done]
        self._lock = threading.Lock()
        self._reporting = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._bytes = 0
        self._pending = Report(steps=self._copied_steps(), warnings=list(self._warnings))
        self._events: list[NewEvent] = []
        self._metrics: list[Point] = []
        self._log: list[str] = []
        self._log_bytes = 0
        self._log_ends_line = True
        self._lines = LogLines(len(steps))
        self.phase = "starting"
        self.artifacts: list[events.ArtifactWritten] = []
        self.ending: events.Done | events.Failed | None = None
        """The child's last word."""

    def read_line(self, line: bytes) -> events.Event:
        """Take in one line of the event stream and return the event. Raises ProtocolError."""
        self._bytes += len(line)
        if self._bytes > MOST_BYTES:
            raise ProtocolError(f"it sent more than {MOST_BYTES >> 20} MiB of events")
        try:
            event = events.parse_event(line)
        except ValueError:
            raise ProtocolError(f"it sent a line that is no event: {line[:200]!r}") from None
        if self.ending is not None:
            raise ProtocolError(f"it went on after its last word, with {event.type!r}")
        self._check(event)
        with self._lock:
            self._hear(event)
            self._add_lines(self._lines.of(event))
        return event

    def hear_log(self, data: bytes) -> None:
        """Take in a piece of standard output and error."""
        with self._lock:
            self._add_log(self._decoder.decode(data))

    @contextmanager
    def reporting(self) -> Iterator[Report]:
        """Give what was not reported yet to a transaction; what raises has not arrived, and is reported again.

        One at a time: the attempt's last transaction waits for a heartbeat that is under way, after which nothing more is taken in.
        """
        with self._reporting:
            report = self._taken()
            try:
                yield report
            except BaseException:
                self._take_back(report)
                raise

    def _taken(self) -> Report:
        with self._lock:
            self._add_lines(self._lines.waiting())
            report = replace(self._pending, events=self._events, metrics=self._metrics, log="".join(self._log))
            self._pending, self._events, self._metrics, self._log, self._log_bytes = Report(), [], [], [], 0
            return report

    def _take_back(self, report: Report) -> None:
        with self._lock:
            newer = {
                name: value for name, value in vars(self._pending).items() if value is not None and name not in ("events", "metrics", "log")
            }
            self._pending = replace(report, events=(), metrics=(), log="", **newer)
            self._events = [*report.events, *self._events]
            self._metrics = [*report.metrics, *self._metrics]
            self._log.insert(0, report.log)
            self._log_bytes += len(report.log)

    def close_running_steps(self, status: str) -> None:
        """Give every step that has begun and not ended its last status."""
        with self._lock:
            for step in self._steps:
                if step["status"] == "running":
                    step["status"] = status
            self._pending = replace(self._pending, steps=self._copied_steps())

    def note(self, text: str, level: str = "info") -> None:
        """Add a line of the supervisor's own to the log."""
        with self._lock:
            self._add_lines(dated(text, level))

    def _check(self, event: events.Event) -> None:
        """What the type of an event does not bound and the database does."""
        for index in (event.step_index, event.error.step_index if isinstance(event, events.Failed) else None):
            if index is not None and not 0 <= index < len(self._steps):
                raise ProtocolError(f"it named step {index} of {len(self._steps)}")
        numbers = (getattr(event, name, None) for name in ("step", "size_bytes", "gzip_bytes"))
        if any(number is not None and abs(number) >= 1 << 63 for number in numbers):
            raise ProtocolError(f"a number in its {event.type!r} event is out of range")

    def _hear(self, event: events.Event) -> None:
        match event:
            case events.Phase():
                self.phase = event.phase[:64]
                self._pending = replace(self._pending, phase=self.phase)
                self._add_event("phase", phase=self.phase, step_index=event.step_index)
            case events.Progress():
                progress = event.model_dump(exclude={"type"}) | {"steps_count": len(self._steps)}
                self._pending = replace(self._pending, progress=progress)
            case events.MetricPoint():
                self._metrics.append(Point(event.name, event.value, event.step, event.unit and event.unit[:32], event.step_index))
            case events.Warned():
                warning = event.model_dump(exclude={"type"})
                self._warnings.append(warning)
                self._pending = replace(self._pending, warnings=list(self._warnings))
                self._add_event("warning", **warning)
            case events.StepStarted():
                self._change_step(event.step_index, status="running")
                self._add_event("step_started", step_index=event.step_index, method=event.method)
            case events.StepFinished():
                self._change_step(event.step_index, status="succeeded", metrics=event.metrics)
                self._add_event("step_finished", step_index=event.step_index, method=event.method, metrics=event.metrics)
            case events.ArtifactWritten():
                self.artifacts.append(event)
            case events.Done():
                self.ending = event
            case events.Failed():
                self.ending = event
                if event.error.step_index is not None:
                    self._change_step(event.error.step_index, status="failed")
            case events.Resumed():
                self._add_event("resumed", **event.model_dump(exclude={"type", "step_index"}))
            case events.Log() | events.Checkpointed():
                pass

    def _change_step(self, index: int | None, **values: Any) -> None:
        if index is None:
            raise ProtocolError("it spoke of a step without saying which")
        self._steps[index].update(values)
        self._pending = replace(self._pending, steps=self._copied_steps())

    def _copied_steps(self) -> list[dict[str, Any]]:
        return [dict(step) for step in self._steps]

    def _add_event(self, kind: str, **data: Any) -> None:
        self._events.append(NewEvent(kind, data))

    def _add_lines(self, text: str) -> None:
        """Lines of this service, which begin where a library may have stopped in the middle of one."""
        if text:
            self._add_log(text if self._log_ends_line else "\n" + text)

    def _add_log(self, text: str) -> None:
        """Past a bound on what waits for a heartbeat the text is dropped: an endless log must not fill the memory."""
        room = MOST_PENDING_LOG - self._log_bytes
        if text and room >= 0:  # once nothing more fits, a last line states it, and the count is past the bound
            self._log.append(text if len(text) <= room else text[:room] + _CUT)
            self._log_ends_line = self._log[-1].endswith("\n")
            self._log_bytes += len(text)
