"""The front end's composition root."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from app import tracing
from app.health import Health
from app.jobs.board import Board
from app.jobs.feed import READ_SECONDS, Feed
from app.jobs.history import History
from app.jobs.queue import Queue, celery_app, connect
from app.jobs.replies import POP_SECONDS, Replies
from app.jobs.signs import Signs
from app.service import Destinations
from app.settings import Settings
from app.store.claims import Claims
from app.store.engine import open_engine, require_schema
from app.store.repository import Repository
from app.store.sealing import Sealer
from app.web.body import BODY_LIMIT
from app.web.dashboard import DashboardHandlers
from app.web.destinations import DestinationHandlers
from app.web.errors import envelope
from app.web.health import HealthHandlers
from app.web.idempotency import Idempotency
from app.web.jobs import JobHandlers
from app.web.metrics import MetricsHandler, counted
from app.web.openapi import page
from app.web.trace import LOGGED, traced

log = structlog.get_logger()


class AccessLog(AbstractAccessLogger):
    """One line a request: its path, never its query string, which may hold a key."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
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
        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        reading = connect(settings, seconds=max(POP_SECONDS, READ_SECONDS) + 5)
        stack.push_async_callback(reading.aclose)
        replies = Replies(reading)
        await stack.enter_async_context(replies.reading())
        sealer = Sealer(settings.sealing_keys)
        board = Board(redis, settings)
        await stack.enter_async_context(board.writing())
        queue = Queue(celery_app(settings), redis, replies, sealer, board, settings)
        stack.callback(queue.close)
        repository = Repository(engine)
        destinations = Destinations(
            repository, queue, sealer, limit=settings.destination_limit, allow_http=settings.allow_http
        )
        app = web.Application(middlewares=[counted, traced, envelope], client_max_size=BODY_LIMIT)
        idempotency = Idempotency(Claims(engine), sealer, settings.hold_seconds)
        app.add_routes(DestinationHandlers(destinations, repository, idempotency).routes())
        feed = Feed(reading)
        app.on_shutdown.append(feed.end)
        history, signs = History(redis), Signs(redis)
        app.add_routes(JobHandlers(history, feed, repository, settings.operator_key).routes())
        app.add_routes(HealthHandlers(Health(engine, redis), settings.operator_key).routes())
        app.router.add_get("/metrics", MetricsHandler(signs, settings.operator_key).get)
        app.add_routes(DashboardHandlers(history, signs, settings.operator_key).routes())
        app.add_routes(page.routes())
        yield app


async def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; what is held then is answered first. A client that goes away cancels the
    request that it made."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with application(settings) as app:
        runner = web.AppRunner(
            app, access_log_class=AccessLog, handler_cancellation=True, shutdown_timeout=settings.hold_seconds
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
            log.info("listening", host=host, port=port)
            await stopped.wait()
        finally:
            await runner.cleanup()
