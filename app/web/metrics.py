"""What Prometheus asks this process for, and the counting of its requests."""

from collections.abc import Awaitable, Iterable, Mapping
from enum import StrEnum
from typing import Any

import redis.exceptions
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

from app.domain.delivery import DeliveryState
from app.domain.errors import Unavailable
from app.domain.leftover import LeftoverState
from app.domain.notification import NotificationState
from app.monitor.heartbeats import Heartbeats
from app.observe import metrics
from app.store.leftovers import Leftovers
from app.store.notifications import Notifications
from app.store.outbox import Outbox
from app.web.auth import Operator, require_operator


class MetricsHandler:
    """`GET /metrics`, for the operator's key."""

    def __init__(
        self,
        heartbeats: Heartbeats,
        outbox: Outbox,
        leftovers: Leftovers,
        notifications: Notifications,
        operator: Operator,
    ) -> None:
        self._heartbeats = heartbeats
        self._outbox = outbox
        self._leftovers = leftovers
        self._notifications = notifications
        self._operator = operator

    async def get(self, request: web.Request) -> web.Response:
        require_operator(request, self._operator)
        try:
            metrics.QUEUED.set(await self._heartbeats.waiting())
            metrics.WORKERS.set(len(await self._heartbeats.alive()))
            metrics.DELIVERY_WORKERS.set(len(await self._heartbeats.alive(deliveries=True)))
        except (redis.exceptions.RedisError, OSError):
            # Redis does not answer: the other metrics are still worth having, and these are not known.
            metrics.QUEUED.set(float("nan"))
            metrics.WORKERS.set(float("nan"))
            metrics.DELIVERY_WORKERS.set(float("nan"))
        unended = (DeliveryState.PENDING, DeliveryState.UPLOADING)
        await _set_counts(metrics.UNENDED_DELIVERIES, unended, self._outbox.unended())
        await _set_counts(metrics.LEFTOVERS, LeftoverState, self._leftovers.counts())
        await _set_counts(metrics.NOTIFICATIONS, NotificationState, self._notifications.counts())
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _set_counts(gauge: Gauge, states: Iterable[StrEnum], counting: Awaitable[Mapping[Any, int]]) -> None:
    """How many there are in each state; not a number while the database does not answer."""
    try:
        counts: Mapping[Any, float] = await counting
    except Unavailable:
        counts = dict.fromkeys(states, float("nan"))
    for state, count in counts.items():
        gauge.labels(state).set(count)


@web.middleware
async def counted(request: web.Request, handler: Any) -> web.StreamResponse:
    """Count every answer under its route's pattern: a path that is not there must not make a series of its own."""
    response: web.StreamResponse = await handler(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    metrics.REQUESTS.labels(route, request.method if resource else "any", response.status).inc()
    return response
