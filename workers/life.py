"""A worker's signs of life, given by the very loop that reads the queue: one that hangs gives none."""

import time
from collections.abc import Callable
from typing import Any

import redis.exceptions
import structlog
from celery import Celery, bootsteps

from app.jobs.signs import EVERY_SECONDS, Sign, Signs
from workers.loop import Loop

log = structlog.get_logger()


class Life:
    """Says every few seconds that this worker reads the queue, and how many jobs it carries out."""

    def __init__(self, signs: Signs, worker: str, threads: int, running: Callable[[], int]) -> None:
        self._signs = signs
        self._worker = worker
        self._threads = threads
        self._running = running
        self._since = time.time()

    async def show(self) -> None:
        sign = Sign(
            worker=self._worker, threads=self._threads, running=self._running(), since=self._since, at=time.time()
        )
        try:
            await self._signs.give(sign)
        except (redis.exceptions.RedisError, OSError) as error:
            log.warning("sign of life not given", error=type(error).__name__)

    async def end(self) -> None:
        try:
            await self._signs.take_back(self._worker)
        except (redis.exceptions.RedisError, OSError) as error:
            log.info("sign of life not taken back", error=type(error).__name__)


def show_life(app: Celery, loop: Loop, life: Life) -> None:
    """Have `app`'s consumer, once it reads the queue, show `life` by its own timer."""

    class Shows(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            loop.submit(life.show())
            self._timer = consumer.timer.call_repeatedly(EVERY_SECONDS, lambda: loop.submit(life.show()))

        def stop(self, consumer: Any) -> None:
            self._timer.cancel()

    app.steps["consumer"].add(Shows)
