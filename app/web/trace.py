"""A span for each request, and what its log line is to say of it."""

from typing import Any

import structlog
from aiohttp import web
from opentelemetry.trace import SpanKind

from app import tracing

LOGGED = web.RequestKey("logged", dict[str, Any])


@web.middleware
async def traced(request: web.Request, handler: Any) -> web.StreamResponse:
    """Put the request in a span that knows its route and its answer's status; the rest of it may hold a key. A client
    that sends `traceparent` has its own trace go on here."""
    resource = request.match_info.route.resource
    attributes = {"http.request.method": request.method}
    if resource:
        attributes["http.route"] = resource.canonical
    parent = request.headers.get("traceparent", "")
    with tracing.span(" ".join(attributes.values()), SpanKind.SERVER, attributes, parent) as span:
        response: web.StreamResponse = await handler(request)
        span.set_attribute("http.response.status_code", response.status)
        if response.status >= 500:
            tracing.failed(span, str(response.status))
        request[LOGGED] = structlog.contextvars.get_contextvars()
        return response
