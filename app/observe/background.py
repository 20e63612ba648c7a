"""What a process does beside its requests or jobs, again and again: no error ends it, only its owner does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import redis.exceptions
import structlog

from app.domain.errors import Unavailable
from app.observe import metrics

log = structlog.get_logger()

# A step that was cancelled is cancelled once more after so long, if it goes on.
_CANCELLED_SECONDS = 0.5
# How long to wait after so many failures in a row.
_PAUSES_SECONDS = (0.1, 0.2, 0.5, 1.0)


class Background:
    """Calls `step` over and over in a task of its own, between `start` and `stop`.

    A step that fails is logged, with a traceback unless Redis or the database does not answer, and counted; after a
    short pause the next one is made. Of failures in a row the first is logged.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._step = step
        self._task: asyncio.Task[None] | None = None
        self._failures = 0

    @property
    def ended(self) -> bool:
        """Whether it has stopped although nobody stopped it: this process must be started again then."""
        return self._task is not None and self._task.done()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Return when the step under way has been cancelled."""
        task, self._task = self._task, None
        # Python 3.11 loses a cancellation that comes in the moment in which a command is sent to Redis, and some
        # commands wait for seconds.
        while task and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCELLED_SECONDS)
        if task and not task.cancelled():
            task.result()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start, and stop when the block ends."""
        self.start()
        try:
            yield
        finally:
            await self.stop()

    async def _run(self) -> None:
        # A cancellation that was lost ends it all the same, after the step.
        while self._task is asyncio.current_task():
            try:
                await self._step()
            except (redis.exceptions.RedisError, OSError) as error:
                self._failed()
                if self._failures == 1:
                    log.warning("background task waits for redis", task=self.name, error=type(error).__name__)
            except Unavailable:
                self._failed()
                if self._failures == 1:
                    log.warning("background task waits for the database", task=self.name)
            except Exception:  # whatever it was, this process needs the next step
                self._failed()
                if self._failures == 1:
                    log.exception("background task failed", task=self.name)
            else:
                if self._failures:
                    log.info("background task works again", task=self.name, failures=self._failures)
                self._failures = 0
                continue
            await asyncio.sleep(_PAUSES_SECONDS[min(self._failures, len(_PAUSES_SECONDS)) - 1])

    def _failed(self) -> None:
        self._failures += 1
        metrics.BACKGROUND_FAILURES.labels(self.name).inc()
