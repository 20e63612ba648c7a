"""What Prometheus asks this process for, and the counting of its requests."""

from typing import Any

import redis.exceptions
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr

from app import metrics
from app.jobs.signs import Signs
from app.web.auth import require_operator


class MetricsHandler:
    """`GET /metrics`, for the operator's key."""

    def __init__(self, signs: Signs, operator: SecretStr) -> None:
        self._signs = signs
        self._operator = operator

    async def get(self, request: web.Request) -> web.Response:
        require_operator(request, self._operator)
        try:
            metrics.QUEUED.set(await self._signs.waiting())
            metrics.WORKERS.set(len(await self._signs.alive()))
        except (redis.exceptions.RedisError, OSError):
            # The rest is worth more than an error; what is not known is no number.
            metrics.QUEUED.set(float("nan"))
            metrics.WORKERS.set(float("nan"))
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@web.middleware
async def counted(request: web.Request, handler: Any) -> web.StreamResponse:
    """Count every answer under its route's pattern, so that paths nobody has do not make series of their own."""
    response: web.StreamResponse = await handler(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    metrics.REQUESTS.labels(route, request.method if resource else "any", response.status).inc()
    return response
