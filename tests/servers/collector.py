"""A collector of traces: takes what OpenTelemetry's exporter sends by OTLP over HTTP, and keeps it."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.servers.threaded import serving


@dataclass(frozen=True)
class Sent:
    """One span as it came. `start` and `end` are nanoseconds since the epoch; `failed` is whether its status says so,
    `description` what else the status says; `resource` is what is said of the process that sent it."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    start: int
    end: int
    failed: bool
    description: str
    attributes: Mapping[str, Any]
    events: Mapping[str, Mapping[str, Any]]
    resource: Mapping[str, Any]


@dataclass
class Collector:
    """Where it listens, the requests as they came, and the spans that were in them."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    spans: list[Sent] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        self.requests.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _plain(group.resource.attributes)
            for span in (span for scope in group.scope_spans for span in scope.spans):
                self.spans.append(
                    Sent(
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        name=span.name,
                        kind=span.kind,
                        start=span.start_time_unix_nano,
                        end=span.end_time_unix_nano,
                        failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        description=span.status.message,
                        attributes=_plain(span.attributes),
                        events={event.name: _plain(event.attributes) for event in span.events},
                        resource=resource,
                    )
                )


def _plain(attributes: "list[KeyValue]") -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """A collector on loopback, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            running.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    with serving(server):
        yield running
