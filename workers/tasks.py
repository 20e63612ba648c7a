"""Celery's edge: open the sealed job, have it verified, reply. No rule of the business stands here."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import redis.exceptions
import structlog
from opentelemetry.trace import SpanKind
from pydantic import ValidationError
from redis.asyncio import Redis

from app import metrics, tracing
from app.domain.errors import ADVICE, Fault
from app.domain.job import State
from app.domain.specs import parse
from app.domain.specs.base import Spec
from app.domain.verification import Report, Step, StepReport
from app.jobs.board import Board
from app.jobs.queue import Job, started_key
from app.jobs.replies import Reply
from app.settings import Settings
from app.store.sealing import NotSealedByUs
from workers.late import LateDeletes
from workers.providers.base import Provider
from workers.verify import verify

log = structlog.get_logger()

_STATES = {Step.UPLOAD: State.UPLOADING, Step.DELETE: State.DELETING}


class Opens(Protocol):
    """What a task needs of a sealer."""

    def open(self, sealed: str) -> dict[str, Any]: ...


class Verifications:
    """Carries out verification jobs, one call each, any number at a time."""

    def __init__(
        self, opener: Opens, provider_for: Callable[[Spec], Provider], redis: Redis, board: Board, settings: Settings
    ) -> None:
        self._opener = opener
        self._provider_for = provider_for
        self._redis = redis
        self._board = board
        self._settings = settings
        self._late = LateDeletes()
        self.running = 0
        """How many jobs are carried out now."""

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
        called = tracing.span("verify", SpanKind.CONSUMER, {"dropoff.job": job.id}, job.traceparent)
        with structlog.contextvars.bound_contextvars(job=job.id), called:
            if time.time() > job.start_by:
                log.info("job expired, nobody waits for it any more")
                self._board.note(job, State.EXPIRED)
                return
            self.running += 1
            try:
                await self._carry_out(job)
            finally:
                self.running -= 1

    async def _carry_out(self, job: Job) -> None:
        attempt = await self._begun(job)
        self._board.note(job, State.RUNNING, attempt=attempt)
        report = await self._verified(job, attempt)
        await self._reply(job, report)
        self._board.note(job, State.SUCCEEDED if report.ok else State.FAILED, attempt=attempt, report=report)

    async def _begun(self, job: Job) -> int:
        """Say that `job` is begun, and be told for which time."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.incr(started_key(job.id))
            pipe.expire(started_key(job.id), round(self._settings.hold_seconds * 2))
            attempt, _ = await pipe.execute()
        return int(attempt)

    async def _verified(self, job: Job, attempt: int) -> Report:
        spec = parse(job.parameters(), allow_http=self._settings.allow_http)
        began = time.monotonic()
        try:
            provider = self._provider_for(spec)
            host = provider.host(spec)

            def begins(step: Step) -> None:
                self._board.note(job, _STATES[step], attempt=attempt, host=host)

            within = self._settings.verify_seconds
            report = await verify(
                provider, spec, job.key, within=within, job=job.id, found=job.found, begins=begins, late=self._late
            )
        except Exception:  # whatever broke, the customer is answered, and the log has the rest
            log.exception("verification broke", type=spec.type)
            report = _broken(spec, job, began)
        tracing.verified(report, began)
        metrics.note(report)
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
                pipe.rpush(job.reply_to, Reply(report=report, at=time.time()).model_dump_json())
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
        region=job.found.region,
        addressing=job.found.addressing,
        duration_ms=round((time.monotonic() - began) * 1000),
        job=job.id,
        steps=tuple(StepReport.skipped(step, reason) for step in Step),
    )
