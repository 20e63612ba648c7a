"""The worker's composition root: settings, the Celery app, the loop, and what lives on it."""

import contextlib
import os
import secrets
import signal
import socket
import sys
from contextlib import AsyncExitStack

import structlog
from prometheus_client import start_http_server
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.garbage import spare_what_stays
from app.messages.claims import Claims
from app.messages.clock import Clock
from app.messages.connections import Address, ClusterMode, parse_redis_url, refuse_cluster
from app.messages.intents import Intents
from app.messages.keys import DELIVERY_QUEUE, QUEUE
from app.messages.sealing import Sealer
from app.monitor.board import Board
from app.monitor.heartbeats import Heartbeats
from app.observe import logs, tracing
from app.settings import Settings
from workers.bulkhead import Bulkhead
from workers.cleanup import Cleanup
from workers.consumer import Consuming, celery_app, serve
from workers.deliver import Memory
from workers.deliveries import Deliveries
from workers.heartbeat import HeartbeatSender
from workers.loop import Loop
from workers.pool import coroutine_pool
from workers.sightings import Sightings
from workers.source import open_source
from workers.storage.multipart import REQUEST_SECONDS
from workers.storage.registry import open_providers
from workers.tasks import Verifications

log = structlog.get_logger()

MEMORY = 48 * 1024 * 1024
"""Bytes of files that a worker which delivers may have in memory at once."""


async def _connected(stack: AsyncExitStack, address: Address) -> tuple[Redis, Clock]:
    """A client of Redis for what is read and written as text, and Redis' time. Raises ClusterMode."""
    redis, clock = address.connect(), Clock()
    stack.push_async_callback(redis.aclose)
    await refuse_cluster(redis)
    with contextlib.suppress(RedisError, OSError):
        await clock.renew(redis)
    return redis, clock


async def _open(
    stack: AsyncExitStack,
    name: str,
    sealer: Sealer,
    address: Address,
    consuming: Consuming,
    settings: Settings,
    bulkhead: Bulkhead,
) -> tuple[Verifications, HeartbeatSender]:
    """What carries jobs out, with all that it needs, and what tells of it; closed with `stack`. Raises ClusterMode."""
    redis, clock = await _connected(stack, address)
    raw = address.connect(decode=False, gather=True)
    stack.push_async_callback(raw.aclose)
    board = Board(redis, clock, jobs=settings.board_jobs, worker=name)
    await stack.enter_async_context(board.writing())
    claims = Claims(raw, settings.hold_seconds * 2)
    providers = await open_providers(stack, settings)
    verifications = Verifications(
        name, sealer, providers, claims, clock, board, Sightings(redis, clock, sealer), settings.verify_seconds,
        propagation_seconds=settings.propagation_seconds, bulkhead=bulkhead,
    )  # fmt: skip
    await stack.enter_async_context(bulkhead.looking.running())
    cleanup = Cleanup(Intents(raw), sealer, providers, clock, settings.verify_seconds)
    await stack.enter_async_context(cleanup.looking.running())
    sender = HeartbeatSender(
        Heartbeats(redis, clock), clock, name, lambda: settings.room + bulkhead.silent, lambda: verifications.running,
        consuming.reading,
    )  # fmt: skip
    stack.push_async_callback(sender.end)
    sender.beating.start()
    return verifications, sender


async def _open_deliveries(
    stack: AsyncExitStack, name: str, sealer: Sealer, address: Address, consuming: Consuming, settings: Settings
) -> tuple[Deliveries, HeartbeatSender]:
    """As `_open`, of a worker that delivers."""
    redis, clock = await _connected(stack, address)
    providers = await open_providers(stack, settings.model_copy(update={"verify_seconds": REQUEST_SECONDS}))
    source = await stack.enter_async_context(open_source(settings.source.get_secret_value()))
    deliveries = Deliveries(name, sealer, providers, source, redis, clock, Memory(MEMORY))
    deliveries.reporting.start()
    stack.push_async_callback(deliveries.reporting.stop)
    sender = HeartbeatSender(
        Heartbeats(redis, clock), clock, name, lambda: settings.delivery_jobs, lambda: deliveries.running,
        consuming.reading, deliveries=True,
    )  # fmt: skip
    stack.push_async_callback(sender.end)
    sender.beating.start()
    return deliveries, sender


def _serve_metrics(stack: AsyncExitStack, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host)
    except OSError as error:
        sys.exit(f"dropoff worker: DROPOFF_WORKER_METRICS: cannot listen on {address} ({error.strerror})")
    stack.callback(server.shutdown)


def main(settings: Settings, *, deliveries: bool = False) -> None:
    """Run one worker process until it is told to stop; jobs under way are finished first. With `deliveries` it is one
    that delivers files, which hands back what it cannot finish soon. Raises BadRedisUrl."""
    try:
        sealer = Sealer(settings.sealing_keys)
    except ValueError as error:
        sys.exit(f"dropoff worker: {error}")
    address = parse_redis_url(settings.redis_url.get_secret_value())
    if deliveries and not settings.delivers:
        sys.exit("dropoff worker: DROPOFF_SOURCE is not set, from which a worker with --deliveries reads files")
    logs.configure("worker", settings.log_level)
    if settings.worker_threads is not None:
        log.warning("a setting has a new name", setting="DROPOFF_WORKER_THREADS", new_name="DROPOFF_WORKER_JOBS")
    app = celery_app(address, DELIVERY_QUEUE if deliveries else QUEUE)
    jobs = settings.delivery_jobs if deliveries else settings.room
    loop = Loop()
    stack = AsyncExitStack()
    # There may be several on one machine. One that is started again, with the same number in its container, must not be
    # taken for the one that died.
    celery_name = f"dropoff-{os.getpid()}@{socket.gethostname()}"
    name = f"{celery_name}:{secrets.token_hex(2)}"
    consuming = Consuming()
    bulkhead = None if deliveries else Bulkhead(jobs)
    try:
        opened = (stack, name, sealer, address, consuming, settings)
        work: Verifications | Deliveries
        if bulkhead is None:
            work, sender = loop.run(_open_deliveries(*opened))
        else:
            work, sender = loop.run(_open(*opened, bulkhead))
    except ClusterMode as error:
        sys.exit(f"dropoff worker: {error}")
    if settings.worker_metrics:
        _serve_metrics(stack, settings.worker_metrics)

    stack.enter_context(tracing.exporting("worker"))
    app.steps["consumer"].add(consuming.step())

    def ready() -> None:
        spare_what_stays()
        loop.run(sender.ready())
        log.info("worker ready", jobs=jobs)

    def stopping() -> None:
        if isinstance(work, Deliveries):
            # Else it would be given more for as long as it seems to read.
            consuming.end()
            loop.start(sender.ready())
            loop.start(work.stop())

    try:
        status = serve(app, coroutine_pool(loop, work.carry_out, bulkhead), celery_name, jobs, ready, stopping)
    finally:
        loop.run(stack.aclose())
        # All is done. Python sets its handlers back at the end: whoever is told to stop again would seem to have died.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    sys.exit(status)
