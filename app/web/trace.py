"""A span for each request, and what its log line is to say of it."""

from typing import Any

import structlog
from aiohttp import web
from opentelemetry.trace import SpanKind

from app.observe import tracing

LOGGED = web.RequestKey("logged", dict[str, Any])
UNLOGGED = web.RequestKey("unlogged", bool)
"""That a request is to have no line in the log."""


@web.middleware
async def traced(request: web.Request, handler: Any) -> web.StreamResponse:
    """Put the request in a span, a child of the one that the client names in `traceparent`. The span has the route and
    the status and nothing else of the request, which may hold a key."""
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
