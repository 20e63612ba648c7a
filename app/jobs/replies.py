"""The way back: one reply list for this process, one reader of it, a future for each job that is waited for."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import redis.exceptions
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis

from app import metrics
from app.domain.verification import Report

log = structlog.get_logger()

POP_SECONDS = 5
_BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0)


class Reply(BaseModel):
    """What a worker pushes on the list: its report, and when it did so, in seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    report: Report
    at: float


class Replies:
    """Pops reports off this process's list and hands each to whoever waits for its job.

    `redis` must allow a call to take longer than POP_SECONDS. A report that nobody waits for is dropped.
    """

    def __init__(self, redis: Redis) -> None:
        self.name = f"dropoff:replies:{uuid.uuid4()}"
        self._redis = redis
        self._waiting: dict[str, asyncio.Future[Report]] = {}
        self._ending = False

    @property
    def held(self) -> int:
        """How many jobs are waited for."""
        return len(self._waiting)

    @contextlib.contextmanager
    def expected(self, job: str) -> Iterator[asyncio.Future[Report]]:
        """A future for the report of `job`, for as long as the block lasts."""
        future: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self._waiting[job] = future
        try:
            with metrics.HELD.track_inprogress():
                yield future
        finally:
            del self._waiting[job]
            future.cancel()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read for as long as the block lasts, through every interruption of Redis."""
        reader = asyncio.create_task(self._read())
        try:
            yield
        finally:
            # Python 3.11 loses a cancellation that comes in the moment in which a command is sent.
            self._ending = True
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _read(self) -> None:
        failures = 0
        while not self._ending:
            try:
                popped = await self._redis.blpop([self.name], timeout=POP_SECONDS)
            except (redis.exceptions.RedisError, OSError) as error:
                if failures == 0:
                    log.warning("replies cannot be read", error=type(error).__name__)
                await asyncio.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
                failures += 1
                continue
            if failures:
                log.info("replies are read again")
                failures = 0
            if popped:
                self._hand_over(popped[1])

    def _hand_over(self, text: str | bytes) -> None:
        try:
            reply = Reply.model_validate_json(text)
        except ValidationError:
            log.warning("a reply is not a report")
            return
        report = reply.report
        metrics.REPLY_LAG.observe(max(0.0, time.time() - reply.at))
        future = self._waiting.get(report.job)
        if future is None or future.done():
            log.info("report dropped, nobody waits for it", job=report.job, ok=report.ok, code=report.code)
        else:
            future.set_result(report)
