"""Celery's edge: open the sealed job, have it verified, reply. No rule of the business stands here."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import redis.exceptions
import structlog
from pydantic import ValidationError
from redis.asyncio import Redis

from app.domain.errors import ADVICE, Fault
from app.domain.specs import parse
from app.domain.specs.base import Spec
from app.domain.verification import Report, Step, StepReport
from app.jobs.queue import Job, started_key
from app.settings import Settings
from app.store.sealing import NotSealedByUs
from workers.late import LateDeletes
from workers.providers.base import Provider
from workers.verify import verify

log = structlog.get_logger()


class Opens(Protocol):
    """What a task needs of a sealer."""

    def open(self, sealed: str) -> dict[str, Any]: ...


class Verifications:
    """Carries out verification jobs, one call each, any number at a time."""

    def __init__(
        self, opener: Opens, provider_for: Callable[[Spec], Provider], redis: Redis, settings: Settings
    ) -> None:
        self._opener = opener
        self._provider_for = provider_for
        self._redis = redis
        self._settings = settings
        self._late = LateDeletes()

    async def close(self) -> None:
        """Wait for the deletes that are still owed, for a bounded time."""
        await self._late.close()

    async def carry_out(self, sealed: str) -> None:
        """Verify what `sealed` asks for and reply. A message that we did not seal, or whose time is over, does
        nothing."""
        try:
            job = Job.model_validate(self._opener.open(sealed))
        except (NotSealedByUs, ValidationError):
            log.warning("message refused, it was not sealed by us")
            return
        with structlog.contextvars.bound_contextvars(job=job.id):
            if time.time() > job.start_by:
                log.info("job expired, nobody waits for it any more")
                return
            await self._redis.set(started_key(job.id), "1", ex=round(self._settings.hold_seconds * 2))
            await self._reply(job, await self._verified(job))

    async def _verified(self, job: Job) -> Report:
        spec = parse(job.parameters(), allow_http=self._settings.allow_http)
        began = time.monotonic()
        try:
            provider = self._provider_for(spec)
            report = await verify(
                provider, spec, job.key, within=self._settings.verify_seconds, job=job.id, late=self._late
            )
        except Exception:  # whatever broke, the customer is answered, and the log has the rest
            log.exception("verification broke", type=spec.type)
            report = _broken(spec, job, began)
        failed = next((step for step in report.steps if step.code), None)
        log.info(
            "verification finished",
            type=spec.type, host=report.host, ok=report.ok, code=report.code, ms=report.duration_ms,
            step=failed.step if failed else None, provider_code=failed.provider_code if failed else None,
            request_id=failed.request_id if failed else None,
        )  # fmt: skip
        if report.left_behind and job.id not in self._late:
            log.warning("test file left behind", type=spec.type, host=report.host, object=report.object)
        return report

    async def _reply(self, job: Job, report: Report) -> None:
        seconds = round(self._settings.hold_seconds * 2)
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.rpush(job.reply_to, report.model_dump_json())
                pipe.expire(job.reply_to, seconds)
                await pipe.execute()
        except (redis.exceptions.RedisError, OSError) as error:
            log.error("report not delivered", error=type(error).__name__)


def _broken(spec: Spec, job: Job, began: float) -> Report:
    """The report on a verification that broke on our side: how far it came is not known."""
    reason = "the verification broke on our side"
    return Report(
        ok=False,
        code=Fault.INTERNAL_ERROR,
        message=ADVICE[Fault.INTERNAL_ERROR].text,
        provider=spec.type,
        host="",
        object=job.key,
        left_behind=True,
        duration_ms=round((time.monotonic() - began) * 1000),
        job=job.id,
        steps=tuple(StepReport.skipped(step, reason) for step in Step),
    )
