"""A worker's heartbeat, given by the loop that carries out its jobs: a worker that hangs gives none."""

import asyncio
import contextlib
from collections.abc import Callable

import redis.exceptions
import structlog

from app.messages.clock import Clock
from app.monitor.heartbeats import EVERY_SECONDS, Heartbeat, Heartbeats
from app.observe.background import Background

log = structlog.get_logger()


class HeartbeatSender:
    """Says every EVERY_SECONDS that `worker` is there, has room for `jobs()` of which it carries out `running()`,
    whether it is `reading()` its queue, and whether that is the one of `deliveries`; also while it finishes its last
    jobs and reads no more."""

    def __init__(
        self,
        heartbeats: Heartbeats,
        clock: Clock,
        worker: str,
        jobs: Callable[[], int],
        running: Callable[[], int],
        reading: Callable[[], bool],
        *,
        deliveries: bool = False,
    ) -> None:
        self._heartbeats = heartbeats
        self._clock = clock
        self._worker = worker
        self._jobs = jobs
        self._running = running
        self._reading = reading
        self._deliveries = deliveries
        self._since = clock.now()
        self.beating = Background("heartbeat", self._step)

    async def beat(self) -> None:
        """Say it now. Raises what Redis' client raises, RedisError or OSError."""
        heartbeat = Heartbeat(
            worker=self._worker,
            jobs=self._jobs(),
            running=self._running(),
            reading=self._reading(),
            since=self._since,
            at=self._clock.now(),
            clock_offset=round(self._clock.offset, 3),
            deliveries=self._deliveries,
        )
        await self._heartbeats.give(heartbeat)

    async def _step(self) -> None:
        await self.beat()
        await asyncio.sleep(EVERY_SECONDS)

    async def ready(self) -> None:
        """Say at once whether the queue is read, or a moment later where Redis does not answer."""
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            await self.beat()

    async def end(self) -> None:
        await self.beating.stop()
        try:
            await self._heartbeats.withdraw(self._worker)
        except (redis.exceptions.RedisError, OSError) as error:
            log.info("heartbeat not withdrawn", error=type(error).__name__)
