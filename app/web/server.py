"""The front end's composition root."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.garbage import spare_what_stays
from app.hold.backlog import Backlog
from app.hold.leftovers import Leftovers
from app.hold.replies import POP_SECONDS, Replies
from app.hold.slots import Slots
from app.hold.supervisor import Supervisor
from app.hold.verifier import Verifier
from app.messages.claims import Claims
from app.messages.clock import Clock
from app.messages.connections import parse_redis_url, refuse_cluster
from app.messages.intents import Intents
from app.messages.sealing import Sealer
from app.monitor.board import Board
from app.monitor.failures import RefusalCounts
from app.monitor.feed import READ_SECONDS, Feed
from app.monitor.health import Health
from app.monitor.heartbeats import Heartbeats
from app.monitor.history import History
from app.monitor.outages import Outages
from app.observe import tracing
from app.observe.background import Background
from app.services.collections import Collections
from app.services.destinations import Destinations
from app.services.dispatch import POP_SECONDS as DISPATCH_POP_SECONDS
from app.services.dispatch import Dispatcher
from app.services.notify import Notifier
from app.services.rechecks import Rechecks
from app.services.retention import Retention
from app.settings import Settings
from app.store.accounts import Accounts
from app.store.audit import AuditLog
from app.store.collections import CollectionRepository
from app.store.destinations import DestinationRepository
from app.store.engine import check_database, open_engine, require_schema
from app.store.idempotency import IdempotencyKeys
from app.store.leftovers import Leftovers as LeftoverRepository
from app.store.notifications import Notifications
from app.store.outbox import Outbox
from app.store.result_sets import ResultSetRepository
from app.web.accounts import AccountHandlers
from app.web.admission import Admission, admitting
from app.web.audit import AuditHandlers
from app.web.auth import Operator
from app.web.body import BODY_LIMIT
from app.web.collections import CollectionHandlers
from app.web.connections import IDLE_SECONDS, Connections, Refusals, attended, listen, room_for_connections
from app.web.dashboard import DashboardHandlers
from app.web.deliveries import DeliveryHandlers
from app.web.destinations import DestinationHandlers
from app.web.errors import envelope
from app.web.health import HealthHandlers
from app.web.idempotency import Idempotency
from app.web.jobs import JobHandlers
from app.web.leftovers import LeftoverHandlers
from app.web.metrics import MetricsHandler, counted
from app.web.notifications import NotificationHandlers
from app.web.openapi import page
from app.web.refusals import noting_refusals
from app.web.trace import LOGGED, UNLOGGED, traced

log = structlog.get_logger()


class AccessLog(AbstractAccessLogger):
    """One line a request: its path, never its query string, which may hold a key. None where it is UNLOGGED."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if UNLOGGED in request:
            return
        log.info(
            "request",
            method=request.method,
            path=request.path,
            status=response.status,
            ms=round(time * 1000),
            request=response.headers.get("X-Request-Id"),
            **request.get(LOGGED, {}),
        )


@contextlib.asynccontextmanager
async def application(settings: Settings) -> AsyncIterator[web.Application]:
    """The application with all it needs open. Raises SchemaMismatch where the database is not ready for it."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(tracing.exporting("api"))
        engine = await stack.enter_async_context(open_engine(settings.database))
        await require_schema(engine)
        sealer, clock = Sealer(settings.sealing_keys), Clock()
        redis = await _connected(stack, settings, clock)
        board = Board(redis, clock, jobs=settings.board_jobs)
        await stack.enter_async_context(board.writing())
        operator = Operator(settings.operator_key, settings.operator_read_key)
        accounts, leftovers = Accounts(engine), LeftoverRepository(engine)
        repository, notifications = DestinationRepository(engine, notify=settings.notifies), Notifications(engine)
        verifier, backlog, tasks = await _open_hold(stack, settings, redis, sealer, clock, board, leftovers)
        destinations = Destinations(
            repository, verifier, sealer,
            limit=settings.destination_limit, allow_http=settings.allow_http, delete=settings.delete,
        )  # fmt: skip
        refusals = RefusalCounts(redis, clock)
        tasks.append(await _running(stack, refusals.writing))
        admission = Admission(backlog.is_full, room=settings.waiting_requests)
        middlewares = [attended, counted, admitting(admission, refusals), traced, envelope, noting_refusals(refusals)]
        app = web.Application(middlewares=middlewares, client_max_size=BODY_LIMIT)
        idempotency = Idempotency(IdempotencyKeys(engine), sealer, settings.hold_seconds)
        app.add_routes(DestinationHandlers(destinations, accounts, operator, idempotency).routes())
        app.add_routes(AccountHandlers(accounts, operator).routes())
        app.add_routes(AuditHandlers(AuditLog(engine), operator).routes())
        heartbeats = Heartbeats(redis, clock)
        dispatcher = await _open_dispatcher(stack, settings, engine, redis, heartbeats, sealer, clock)
        feed = Feed(_client(stack, settings, decode=False, seconds=READ_SECONDS + 5))
        app.on_shutdown.append(feed.end)
        history = History(redis, clock)
        app.add_routes(JobHandlers(history, feed, accounts, operator).routes())
        result_sets = ResultSetRepository(engine)
        collections = Collections(CollectionRepository(engine), result_sets, dispatcher, has_source=settings.delivers)
        app.add_routes(CollectionHandlers(collections, destinations, accounts, operator, idempotency).routes())
        app.add_routes(DeliveryHandlers(result_sets, accounts, operator).routes())
        if settings.delivers:
            tasks += [dispatcher.dispatching, dispatcher.receiving]
        tasks += await _open_regular(stack, settings, repository, destinations, result_sets, notifications, clock)
        health = Health(partial(check_database, engine), redis, clock, delivers=settings.delivers)
        outages = Outages(health.checks)
        tasks.append(await _running(stack, outages.looking))
        app.add_routes(HealthHandlers(health, (*tasks, feed.reader), operator).routes())
        app.add_routes(LeftoverHandlers(leftovers, accounts, operator).routes())
        app.add_routes(NotificationHandlers(notifications, operator).routes())
        app.router.add_get(
            "/metrics", MetricsHandler(heartbeats, Outbox(engine), leftovers, notifications, operator).get
        )
        app.add_routes(DashboardHandlers(history, heartbeats, result_sets, repository, clock, operator).routes())
        app.add_routes(page.routes())
        yield app


async def _open_dispatcher(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    engine: AsyncEngine,
    redis: Redis,
    heartbeats: Heartbeats,
    sealer: Sealer,
    clock: Clock,
) -> Dispatcher:
    """What has workers deliver; at work where there is a source, without which there is nothing to deliver."""
    reports = _client(stack, settings, decode=False, seconds=DISPATCH_POP_SECONDS + 5)
    dispatcher = Dispatcher(
        Outbox(engine, notify=settings.notifies), redis, reports, heartbeats, sealer, clock,
        per_destination=settings.destination_deliveries, per_account=settings.account_deliveries,
    )  # fmt: skip
    if settings.delivers:
        await stack.enter_async_context(dispatcher.running())
    return dispatcher


async def _running(stack: contextlib.AsyncExitStack, task: Background) -> Background:
    """The task, started, which ends with `stack`."""
    await stack.enter_async_context(task.running())
    return task


async def _open_regular(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    repository: DestinationRepository,
    destinations: Destinations,
    result_sets: ResultSetRepository,
    notifications: Notifications,
    clock: Clock,
) -> list[Background]:
    """What is done regularly and not for a request: checks, what the platform is told, what is removed as old."""
    tasks: list[Background] = []
    if settings.recheck_hours:
        rechecks = Rechecks(repository, destinations, settings.recheck_hours)
        tasks.append(await _running(stack, rechecks.checking))
    if settings.notifies:
        address = settings.notify_url.get_secret_value()
        notifier = Notifier(notifications, clock, address, settings.signing_keys)
        await stack.enter_async_context(notifier.running())
        tasks.append(notifier.telling)
    if settings.retention_days:
        retention = Retention(result_sets, notifications, settings.retention_days)
        tasks.append(await _running(stack, retention.cleaning))
    return tasks


async def _connected(stack: contextlib.AsyncExitStack, settings: Settings, clock: Clock) -> Redis:
    """A client of Redis for what is read and written as text, and Redis' time for `clock`. One that does not answer yet
    is no reason not to start. Raises ClusterMode, and ValueError for a bad address."""
    redis = _client(stack, settings)
    await refuse_cluster(redis)
    with contextlib.suppress(RedisError, OSError):
        await clock.renew(redis)
    return redis


def _client(stack: contextlib.AsyncExitStack, settings: Settings, **options: Any) -> Redis:
    client = parse_redis_url(settings.redis_url.get_secret_value()).connect(**options)
    stack.push_async_callback(client.aclose)
    return client


async def _open_hold(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    redis: Redis,
    sealer: Sealer,
    clock: Clock,
    board: Board,
    store: LeftoverRepository,
) -> tuple[Verifier, Backlog, list[Background]]:
    """What has workers verify and holds requests meanwhile, what knows whether they keep up, and the tasks of both."""
    raw = _client(stack, settings, decode=False, gather=True)
    replies = Replies(_client(stack, settings, decode=False, seconds=POP_SECONDS + 5), sealer, clock)
    slots = Slots(
        raw, clock,
        per_account=settings.account_verifications, in_process=settings.held_requests, seconds=settings.hold_seconds,
    )  # fmt: skip
    supervisor = Supervisor(raw, Claims(raw, settings.hold_seconds * 2), replies, sealer, clock)
    backlog = Backlog(raw, clock, start_seconds=settings.start_seconds)
    leftovers = Leftovers(store, raw, Intents(raw), replies, sealer, clock)
    stack.push_async_callback(leftovers.close)
    tasks = [
        replies.reading,
        slots.releasing,
        supervisor.watching,
        leftovers.writing,
        leftovers.retrying,
        backlog.looking,
    ]
    for task in tasks:
        await _running(stack, task)
    verifier = Verifier(
        clock, backlog, slots, replies, supervisor, leftovers, sealer, board,
        hold_seconds=settings.hold_seconds, verify_seconds=settings.verify_seconds,
        multipart=settings.delivers,
    )  # fmt: skip
    return verifier, backlog, [board.writer, *tasks]


async def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; what is held then is answered first. A client that goes away cancels the
    request that it made."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with application(settings) as app:
        runner = web.AppRunner(
            app, access_log_class=AccessLog, handler_cancellation=True, shutdown_timeout=settings.hold_seconds,
            keepalive_timeout=IDLE_SECONDS,
        )  # fmt: skip
        await runner.setup()
        try:
            async with _listening(runner, settings, host, port):
                spare_what_stays()
                log.info("listening", host=host, port=port)
                await stopped.wait()
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def _listening(runner: web.AppRunner, settings: Settings, host: str, port: int) -> AsyncIterator[None]:
    """Take connections for `runner` until the block ends; those that are there then stay."""
    assert runner.server
    refusals = Refusals()
    limit = room_for_connections(settings.connections)
    connections = Connections(runner.server, refusals, limit=limit, per_address=settings.address_connections)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(refusals.on_loop_error)
    logging.getLogger("aiohttp.server").addFilter(refusals.is_news)
    listener = await listen(connections, host, port)
    try:
        yield
    finally:
        listener.close()
        logging.getLogger("aiohttp.server").removeFilter(refusals.is_news)
