"""A collector of OpenTelemetry that keeps the spans which are sent to it (OTLP over HTTP)."""

import gzip
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.listening import Listening, Quiet


@dataclass(frozen=True)
class Received:
    """One span."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """Listens on loopback."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        outer = self

        class Handler(Quiet):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self._listening = Listening(Handler)
        self.url = self._listening.url

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = (item.value.string_value for item in resource.resource.attributes if item.key == "service.name")
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                attributes = {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}
                self.spans.append(
                    Received(
                        service=service,
                        name=span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        start=span.start_time_unix_nano,
                        end=span.end_time_unix_nano,
                        failed=span.status.code == 2,
                        attributes=attributes,
                    )
                )

    def of(self, trace: str) -> list[Received]:
        """The spans of a trace, in the order in which they began."""
        return sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.start)

    def close(self) -> None:
        self._listening.close()
