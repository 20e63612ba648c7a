"""Deletes that a verification still owes when it ends: each is tried once more, in the background."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from app.domain.errors import Fault
from workers.providers.base import Refused

log = structlog.get_logger()

LATE_SECONDS = 10.0
# The store has just failed, and the upload may still be on its way there.
PAUSE_SECONDS = 2.0
AT_ONCE = 256


class LateDeletes:
    """Those under way in this process, by their job. What comes of each is logged, and nobody waits for it."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, job: str) -> bool:
        """Whether the delete that `job` owes is still being tried."""
        return job in self._under_way

    def owe(self, job: str, remove: Callable[[], Awaitable[None]], **about: str) -> None:
        """Call `remove` once, within LATE_SECONDS, and log its outcome with `about`; not where AT_ONCE are tried."""
        if len(self._under_way) < AT_ONCE:
            task = asyncio.create_task(_tried(remove, job=job, **about))
            self._under_way[job] = task
            task.add_done_callback(lambda _: self._under_way.pop(job, None))

    async def close(self) -> None:
        """Wait for those under way, each of which ends by itself within LATE_SECONDS."""
        if self._under_way:
            await asyncio.wait(self._under_way.values())


async def _tried(remove: Callable[[], Awaitable[None]], **about: str) -> None:
    try:
        async with asyncio.timeout(LATE_SECONDS):
            await asyncio.sleep(PAUSE_SECONDS)
            await remove()
    except (Refused, TimeoutError) as error:
        code = error.fault if isinstance(error, Refused) else Fault.TIMEOUT
        # Where there is no bucket or object any more, nothing is left in it.
        if code is not Fault.BUCKET_NOT_FOUND:
            log.warning("test file left behind", code=code, **about)
            return
    except Exception:  # nobody waits for this task: the log has what broke
        log.exception("test file left behind", **about)
        return
    log.info("test file removed late", **about)
