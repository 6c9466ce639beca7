"""Live progress of a job: a bar on a terminal, a line for each new message elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from modelpress.resources.jobs import Event, JobProgress


class Live:
    """Shows what an event stream tells; give `on_event` to `wait`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._bar = Progress(
            TextColumn("{task.description:<40}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=console, transient=True
        )
        self._task = self._bar.add_task("queued", total=1.0)

    def __enter__(self) -> "Live":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def on_event(self, event: Event | JobProgress) -> None:
        """Draw one piece of news; of the history only what went wrong is worth a line."""
        if isinstance(event, Event):
            if event.type == "requeued":
                self._console.print("  another attempt begins", highlight=False)
            return
        text = " · ".join(part for part in (event.phase, event.progress.message) if part) or event.status
        self._bar.update(self._task, completed=event.progress.fraction, description=text)
        if not self._console.is_terminal and text != self._last:
            self._console.print(f"  {event.progress.fraction:4.0%}  {text}", highlight=False)
        self._last = text
