"""Structured logs: one JSON object a line, with the request or job that it belongs to."""

import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from core.settings import Settings

_CHATTY = ("alembic", "celery", "kombu", "amqp", "py.warnings", "httpx", "botocore")
"""Loggers of libraries that say what they do when all is well."""

MOST_LINES = 10_000
"""Lines that wait to be written; what is logged while so many wait is counted and dropped."""
FLUSH_SECONDS = 2.0


class Beside(logging.Handler):
    """Writes to standard error from a thread of its own: whoever logs never waits for the one who reads."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._wake, self._written = threading.Event(), threading.Event()
        self._written.set()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line for the thread."""
        if len(self._lines) >= MOST_LINES:
            self._dropped += 1
            return
        try:
            self._lines.append(self.format(record))
        except Exception:  # as every handler of the standard library does
            self.handleError(record)
        self._written.clear()
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Wait until everything is written, but not for ever."""
        self._written.wait(FLUSH_SECONDS)

    def _write(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if self._dropped:
                lines.append(f'{{"event": "log_lines_dropped", "lines": {self._dropped}, "level": "warning"}}')
                self._dropped = 0
            try:
                sys.stderr.write("".join(f"{line}\n" for line in lines))
                sys.stderr.flush()
            except (OSError, ValueError):
                pass  # nobody reads any more
            if not self._lines:
                self._written.set()


def configure(settings: Settings, *, beside: bool = False) -> None:
    """Send structlog and the standard library's loggers to standard error in one format; with `beside` from a thread (`flush` at the end)."""
    level = getattr(logging, settings.log_level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if settings.log_format == "console" else structlog.processors.JSONRenderer()
    )
    handler: logging.Handler = Beside() if beside else logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if settings.verbose else logging.WARNING)
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def flush() -> None:
    """Wait until what was logged is written."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; its events are words with key-value pairs, never formatted sentences."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Everything that is logged inside carries `values`, such as `request_id` or `job_id`."""
    with structlog.contextvars.bound_contextvars(**values):
        yield
