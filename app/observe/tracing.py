"""OpenTelemetry where its standard variables ask for it: spans, their way across processes, their ids in the logs."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import structlog
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.domain.verification import Report, Step

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger()

# What a process has not sent when it ends has this long to leave.
FLUSH_SECONDS = 3.0

_PARENT = "traceparent"
_propagator = TraceContextTextMapPropagator()
_off = nullcontext(trace.INVALID_SPAN)
# Ours alone and not OpenTelemetry's global one, which libraries would use to tell of their own requests.
_tracer: Tracer | None = None


@contextlib.contextmanager
def exporting(process: str) -> Iterator[None]:
    """Send this process's spans away while the block lasts, if the variables say where. Never fails: what is wrong is
    one line in the log. Nobody waits for a span to be sent but the end of the block, for FLUSH_SECONDS at most."""
    global _tracer
    provider = _provider(process) if _wanted() else None
    if not provider:
        yield
        return
    _tracer = provider.get_tracer("dropoff")
    log.info("tracing is on")
    try:
        yield
    finally:
        _tracer = None
        flush = threading.Thread(target=provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Mapping[str, str] | None = None, parent: str = ""
) -> AbstractContextManager[Span]:
    """A span for the block: a child of the one around it, or of the one that another process named by `parent`. The
    logs within carry its ids. Does nothing where tracing is off.

    An exception leaves its type on the span, never its text, which may show what nobody should see.
    """
    return _span(_tracer, name, kind, attributes, parent) if _tracer else _off


@contextlib.contextmanager
def _span(
    tracer: Tracer, name: str, kind: SpanKind, attributes: Mapping[str, str] | None, parent: str
) -> Iterator[Span]:
    context = _propagator.extract({_PARENT: parent}) if parent else None
    with tracer.start_as_current_span(
        name, context, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        ids = current.get_span_context()
        trace_id, span_id = trace.format_trace_id(ids.trace_id), trace.format_span_id(ids.span_id)
        with structlog.contextvars.bound_contextvars(trace=trace_id, span=span_id):
            try:
                yield current
            except BaseException as error:
                failed(current, type(error).__name__)
                raise


def traceparent() -> str:
    """What another process calls the span around this line (W3C); empty where there is none."""
    carrier: dict[str, str] = {}
    if _tracer:
        _propagator.inject(carrier)
    return carrier.get(_PARENT, "")


def failed(current: Span, why: str) -> None:
    """Mark a span as failed, by a code or the name of a type."""
    current.set_status(StatusCode.ERROR)
    current.set_attribute("error.type", why)


def verified(report: Report, began: float) -> None:
    """Give the span around this line the verdict of a verification that began at `began` (monotonic), and a child for
    each step that was taken, one after the other as the report times them; the upload in parts has gone beside them. A
    step that was skipped is an event."""
    if not _tracer:
        return
    around = trace.get_current_span()
    around.set_attributes({"dropoff.type": report.type, "dropoff.host": report.host})
    if report.code:
        failed(around, report.code)
    at = time.time_ns() - round((time.monotonic() - began) * 1e9)
    beside = at
    for step in report.steps:
        shown = step.model_dump(mode="json", exclude={"step", "ms"}, exclude_none=True)
        attributes = {f"dropoff.{name}": value for name, value in shown.items()}
        if step.ms is None:
            around.add_event(step.step, attributes)
            continue
        since = beside if step.step is Step.MULTIPART else at
        taken = _tracer.start_span(step.step, kind=SpanKind.CLIENT, attributes=attributes, start_time=since)
        if step.code:
            failed(taken, step.code)
        at = since + step.ms * 1_000_000
        taken.end(at)
        if step.step is Step.LOCATE:
            beside = at


def _wanted() -> bool:
    """Whether the variables ask for spans, and for nothing that we do not speak."""

    def value(*names: str) -> str:
        return next((os.environ[name].strip().lower() for name in names if os.environ.get(name)), "")

    exporter = value("OTEL_TRACES_EXPORTER")
    endpoint = value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if value("OTEL_SDK_DISABLED") == "true" or exporter == "none" or not (exporter or endpoint):
        return False
    protocol = value("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if exporter in ("", "otlp") and protocol == "http/protobuf":
        return True
    log.warning(
        "tracing is off", exporter=exporter, protocol=protocol,
        reason="OTEL_TRACES_EXPORTER must be otlp, and OTEL_EXPORTER_OTLP_PROTOCOL http/protobuf",
    )  # fmt: skip
    return False


def _provider(process: str) -> "TracerProvider | None":
    """What sends the spans as the variables say; imports the SDK, which is there only if it was asked for."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("tracing is off", reason="its packages are not installed: pip install 'dropoff[tracing]' adds them")
        return None
    # One line for each batch that is lost and none for each attempt; a header that cannot be read would be shown whole.
    for name in ("opentelemetry.exporter", "opentelemetry.util"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        resource = Resource.create({"dropoff.process": process})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "dropoff"}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, RuntimeError, OSError) as error:
        log.warning("tracing is off", reason=f"a variable of OpenTelemetry has no valid value: {error}")
        return None
    return provider
