"""Traces of OpenTelemetry: one from the request that made a job to the steps of its process, whoever ran it.

Without MODELPRESS_OTLP_ENDPOINT or without the extra `otel` nothing is loaded and nothing is kept: every span is `OFF` then. Where a
trace goes on in another process it is named by a `traceparent` (W3C Trace Context).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from core.logging import logger
from core.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

Attribute = str | int | float | bool
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_log = logger(__name__)


class Span(Protocol):
    """Something that takes time, and has a place in a trace."""

    @property
    def traceparent(self) -> str | None:
        """Names this span for whoever goes on elsewhere."""

    def begin(self, name: str, **attributes: Attribute | None) -> Span:
        """A span below this one, from now on."""

    def describe(self, **attributes: Attribute | None) -> None:
        """Add what became known."""

    def rename(self, name: str) -> None:
        """Call it by a name that became known."""

    def end(self, failure: str | None = None) -> None:
        """It is over; `failure` says what went wrong."""


class _Off:
    """A span that nobody keeps."""

    traceparent = None

    def begin(self, name: str, **attributes: Attribute | None) -> Span:
        return self

    def describe(self, **attributes: Attribute | None) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def end(self, failure: str | None = None) -> None:
        pass


OFF: Span = _Off()


class _Kept:
    """A span of OpenTelemetry."""

    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self._tracer, self._span = tracer, span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def begin(self, name: str, **attributes: Attribute | None) -> Span:
        from opentelemetry.trace import set_span_in_context

        return _Kept(self._tracer, self._tracer.start_span(name, set_span_in_context(self._span), attributes=_known(attributes)))

    def describe(self, **attributes: Attribute | None) -> None:
        self._span.set_attributes(_known(attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def end(self, failure: str | None = None) -> None:
        if failure is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()


def _known(attributes: dict[str, Attribute | None]) -> dict[str, Attribute]:
    return {name.replace("__", "."): value for name, value in attributes.items() if value is not None}


_provider: TracerProvider | None = None
_current: ContextVar[Span] = ContextVar("span", default=OFF)


def is_on() -> bool:
    """Whether spans are kept in this process."""
    return _provider is not None


@contextmanager
def traces(settings: Settings, service: str) -> Iterator[None]:
    """Keep spans meanwhile and send them to the collector, where one is set; at the end what is left is sent."""
    global _provider  # noqa: PLW0603 - as OpenTelemetry's own
    opened = None if _provider is not None or not settings.otlp_endpoint else _open(settings, service)
    if opened is None:
        yield
        return
    _provider = opened
    try:
        yield
    finally:
        _provider = None
        opened.shutdown()


def _open(settings: Settings, service: str) -> TracerProvider | None:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("traces are not kept: MODELPRESS_OTLP_ENDPOINT needs `pip install 'modelpress[otel]'`")
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=10)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return provider


def begin(name: str, traceparent: str | None = None, *, server: bool = False, **attributes: Attribute | None) -> Span:
    """A span that begins a trace, or goes on with one; one that a client named badly is begun anew."""
    if _provider is None:
        return OFF
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    named = traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None
    context = TraceContextTextMapPropagator().extract({"traceparent": named} if named else {})
    tracer = _provider.get_tracer("modelpress")
    kind = SpanKind.SERVER if server else SpanKind.INTERNAL
    return _Kept(tracer, tracer.start_span(name, context, kind, _known(attributes)))


@contextmanager
def current(span: Span) -> Iterator[Span]:
    """What begins meanwhile in this context, and in threads that work for it, is below this span; ends it."""
    token = _current.set(span)
    try:
        yield span
    except BaseException as error:
        span.end(type(error).__name__)
        raise
    else:
        span.end()
    finally:
        _current.reset(token)


def here() -> str | None:
    """Names the span that is current here."""
    return _current.get().traceparent


def below(name: str, **attributes: Attribute | None) -> Span:
    """A span below the one that is current here."""
    return _current.get().begin(name, **attributes)
