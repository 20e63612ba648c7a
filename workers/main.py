"""The worker's composition root: settings, the Celery app, the loop, and what lives on it."""

import os
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog
from celery.signals import setup_logging, worker_ready, worker_shutdown
from prometheus_client import start_http_server
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from app import logs, tracing
from app.domain.specs.base import Spec
from app.domain.specs.gcs import GcsSpec
from app.jobs.board import Board
from app.jobs.queue import TASK, celery_app, connect
from app.jobs.signs import Signs
from app.settings import Settings
from app.store.sealing import Sealer
from workers.egress import Guard, blocking_session, guarded_session
from workers.life import Life, show_life
from workers.loop import Loop
from workers.providers.azure import AzureProvider
from workers.providers.base import Provider
from workers.providers.gcs import GcsProvider
from workers.providers.oss import OssProvider
from workers.providers.s3 import S3Provider
from workers.tasks import Verifications

log = structlog.get_logger()


async def open_providers(stack: AsyncExitStack, settings: Settings) -> Callable[[Spec], Provider]:
    """Which provider serves a spec; what they hold open is closed with `stack`."""
    guard = Guard(settings.egress_allow)
    session = await stack.enter_async_context(guarded_session(guard))
    s3 = S3Provider(session, settings)
    await s3.warm_up()
    gcs, azure = GcsProvider(session, settings), AzureProvider(session, settings)
    oss = OssProvider(blocking_session(guard, settings.worker_threads), settings)
    stack.callback(oss.close)
    by_type: dict[str, Provider] = {"s3": s3, "s3compatible": s3, "gcs": s3, "azure": azure, "oss": oss}

    def provider_for(spec: Spec) -> Provider:
        by_service_account = isinstance(spec, GcsSpec) and spec.gcs_service_account_key
        return gcs if by_service_account else by_type[spec.type]

    return provider_for


async def _open(stack: AsyncExitStack, name: str, sealer: Sealer, settings: Settings) -> tuple[Verifications, Life]:
    redis = connect(settings)
    redis.connection_pool.connection_kwargs["retry"] = Retry(ExponentialBackoff(cap=1, base=0.1), 5)
    stack.push_async_callback(redis.aclose)
    board = Board(redis, settings, worker=name)
    await stack.enter_async_context(board.writing())
    verifications = Verifications(sealer, await open_providers(stack, settings), redis, board, settings)
    # Before what they need is closed.
    stack.push_async_callback(verifications.close)
    life = Life(Signs(redis), name, settings.worker_threads, lambda: verifications.running)
    stack.push_async_callback(life.end)
    return verifications, life


def _serve_metrics(stack: AsyncExitStack, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host)
    except OSError as error:
        sys.exit(f"dropoff worker: DROPOFF_WORKER_METRICS: cannot listen on {address} ({error.strerror})")
    stack.callback(server.shutdown)


def main() -> None:
    """Run one worker process until it is told to stop; jobs under way are finished first."""
    settings = Settings()
    try:
        sealer = Sealer(settings.sealing_keys)
    except ValueError as error:
        sys.exit(f"dropoff worker: {error}")
    if not settings.redis_url.get_secret_value():
        sys.exit("dropoff worker: DROPOFF_REDIS_URL is not set")
    app = celery_app(settings)
    loop = Loop(settings.worker_threads)
    stack = AsyncExitStack()
    # There may be several on one machine.
    name = f"dropoff-{os.getpid()}@{socket.gethostname()}"
    verifications, life = loop.run(_open(stack, name, sealer, settings))
    if settings.worker_metrics:
        _serve_metrics(stack, settings.worker_metrics)

    @setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def configure(**_: Any) -> None:
        logs.configure("worker", settings.log_level)
        stack.enter_context(tracing.exporting("worker"))

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def verify(sealed: str) -> None:
        loop.run(verifications.carry_out(sealed))

    show_life(app, loop, life)
    worker_ready.connect(lambda **_: log.info("worker ready", threads=settings.worker_threads), weak=False)
    worker_shutdown.connect(lambda **_: loop.run(stack.aclose()), weak=False)
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=threads",
            f"--hostname={name}",
            f"--concurrency={settings.worker_threads}",
            "--without-gossip",
            "--without-mingle",
        ]
    )


if __name__ == "__main__":
    main()
