"""The trace of one attempt: its child's process, its phases and its steps.

The child has no network, and is not trusted with one: it says over its event stream what begins and ends, and its supervisor keeps the
spans.
"""

from core import jobs, tracing
from core.tracing import OFF, Span
from engine.contract import events


class AttemptTrace:
    """Spans of an attempt, below the request that made its job. Used by one thread."""

    def __init__(self, claim: jobs.Claim, device: str) -> None:
        self._attempt = tracing.begin(
            "job.attempt", claim.traceparent, job__id=claim.job_id, job__kind=claim.kind, job__attempt=claim.attempt, device=device
        )
        self._child = self._step = self._phase = OFF

    def child_starts(self) -> None:
        """The child's process is about to start."""
        self._child = self._attempt.begin("job.process")

    def hear(self, event: events.Event) -> None:
        """What the child said."""
        match event:
            case events.StepStarted():
                self._end_phase()
                self._step = self._child.begin(f"step {event.method}", step__index=event.step_index)
            case events.StepFinished():
                self._end_phase()
                self._step.end()
                self._step = OFF
            case events.Phase():
                self._end_phase()
                above: Span = self._child if self._step is OFF else self._step
                self._phase = above.begin(f"phase {event.phase[:64]}")

    def child_ended(self, status: int) -> None:
        """The child's process has ended."""
        self._close(None if status == 0 else f"it ended with {status}")

    def end(self, failure: str | None) -> None:
        """The attempt is over."""
        self._close(failure)
        self._attempt.end(failure)

    def _close(self, failure: str | None) -> None:
        for span in (self._phase, self._step, self._child):
            span.end(failure)
        self._child = self._step = self._phase = OFF

    def _end_phase(self) -> None:
        self._phase.end()
        self._phase = OFF
