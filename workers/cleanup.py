"""Removes the test files that verifications have left: at once where a worker died, else when a job asks for it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from pydantic import ValidationError

from app.domain.faults import UNWRITABLE
from app.domain.types.base import Spec
from app.domain.verification import Report
from app.messages.clock import Clock
from app.messages.intents import ORPHANED_SECONDS, Intents
from app.messages.job import Job, Left
from app.messages.sealing import NotSealedByUs, Sealer
from app.observe import metrics
from app.observe.background import Background
from workers.storage.port import Provider
from workers.verify import remove

log = structlog.get_logger()

LOOK_SECONDS = 5.0
REMOVE_SECONDS = 10.0
"""The longest that the removal of one file may take."""
AT_ONCE = 256


async def removed(
    job: Job, provider_for: Callable[[Spec], Awaitable[Provider]], seconds: float = REMOVE_SECONDS
) -> tuple[Report, Left | None]:
    """What came of removing the file of `job`, and what may remain of it."""
    left = job.left or Left()
    report, remains = await remove(
        await provider_for(job.spec), job.spec, job.key, left, timeout=seconds, job=job.id, location=job.location
    )
    about = {"type": job.spec.type, "host": report.host, "object": job.key}
    if remains:
        log.warning("test file left behind", code=report.code or "version_may_remain", **about)
    else:
        log.info("test file removed late", **about)
    return report, remains


class Cleanup:
    """Looks every LOOK_SECONDS for orphans, whoever left them, and removes their files; where that fails, an API
    process has it tried again. A verification takes `seconds` at most."""

    def __init__(
        self,
        intents: Intents,
        sealer: Sealer,
        provider_for: Callable[[Spec], Awaitable[Provider]],
        clock: Clock,
        seconds: float,
    ) -> None:
        self._intents = intents
        self._sealer = sealer
        self._provider_for = provider_for
        self._clock = clock
        self._age = seconds + ORPHANED_SECONDS
        self.looking = Background("cleanup", self._look)

    async def _look(self) -> None:
        await asyncio.sleep(LOOK_SECONDS)
        await self.clean_up()

    async def clean_up(self) -> None:
        """Remove the files of the orphans that there are now, AT_ONCE at most."""
        now = self._clock.now()
        orphans = await self._intents.take_orphans(now - self._age, now, AT_ONCE)
        await asyncio.gather(*(self._settle(intent, sealed) for intent, sealed in orphans.items()))

    async def _settle(self, intent: str, sealed: bytes) -> None:
        try:
            job = Job.model_validate(self._sealer.open(sealed))
        except (NotSealedByUs, ValidationError):
            metrics.MESSAGES_REFUSED.labels("intents").inc()
            log.error("intent refused, it was not sealed by us", intent=intent)
            await self._intents.settle([intent])
            return
        with structlog.contextvars.bound_contextvars(job=job.id, account=job.owner):
            try:
                report, left = await removed(job, self._provider_for)
            except Exception:  # nobody waits for this: the log has what broke, and an API process has it tried again
                log.exception("test file left behind", type=job.spec.type, object=job.key)
                left = job.left or Left()
            else:
                if left and not left.written and report.code in UNWRITABLE:
                    log.info("no test file can have been left", code=report.code, type=job.spec.type, object=job.key)
                    left = None
            if left is None:
                await self._intents.settle([intent])
            else:
                content = job.model_copy(update={"left": left}).content()
                await self._intents.hand_over(intent, self._sealer.seal(content), self._clock.now())
