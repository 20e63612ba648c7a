"""One job: open the sealed message, claim it, have it verified, reply. No rule of the business stands here."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import redis.exceptions
import structlog
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from app.domain.faults import ADVICE, Fault
from app.domain.types.base import Spec
from app.domain.verification import Report, Step, StepReport
from app.messages.claims import Claims
from app.messages.clock import Clock
from app.messages.job import Job, Left, Reply
from app.messages.sealing import NotSealedByUs, Sealer
from app.monitor.board import Board
from app.monitor.job import JobState
from app.observe import metrics, tracing
from workers.bulkhead import SILENT_SECONDS, Bulkhead
from workers.cleanup import REMOVE_SECONDS, removed
from workers.sightings import STAYING, Sightings
from workers.storage.port import Provider
from workers.verify import Patience, unanswered, verify

log = structlog.get_logger()

_STATES = {Step.UPLOAD: JobState.UPLOADING, Step.DELETE: JobState.DELETING}
_RETRY_SECONDS = 0.5


class Verifications:
    """Carries out verification jobs, one call each, any number at a time, as the worker that is called `worker`; each
    takes `seconds` at most. What may be refused because a key is new is tried again for `propagation_seconds` of
    them."""

    def __init__(
        self,
        worker: str,
        sealer: Sealer,
        provider_for: Callable[[Spec], Awaitable[Provider]],
        claims: Claims,
        clock: Clock,
        board: Board,
        sightings: Sightings,
        seconds: float,
        *,
        propagation_seconds: float,
        bulkhead: Bulkhead | None = None,
    ) -> None:
        self._worker = worker
        self._sealer = sealer
        self._provider_for = provider_for
        self._claims = claims
        self._clock = clock
        self._board = board
        self._sightings = sightings
        self._seconds = seconds
        self._propagation_seconds = propagation_seconds
        self._bulkhead = bulkhead or Bulkhead(1)
        self.running = 0
        """How many jobs are carried out now."""

    async def carry_out(self, sealed: str) -> None:
        """Do what `sealed` asks for, a verification or a removal, and reply. A message that we did not seal, whose time
        is over, or whose job is done or in the hands of another worker, does nothing."""
        try:
            job = Job.model_validate(self._sealer.open(sealed))
        except (NotSealedByUs, ValidationError):
            metrics.MESSAGES_REFUSED.labels("queue").inc()
            log.warning("message refused, it was not sealed by us")
            return
        name = "remove" if job.left else "verify"
        called = tracing.span(name, SpanKind.CONSUMER, {"dropoff.job": job.id}, job.traceparent)
        with structlog.contextvars.bound_contextvars(job=job.id, account=job.owner), called:
            if self._clock.now() > job.start_by:
                log.info("job expired, nobody waits for it any more")
                if not job.left:
                    self._board.note(job, JobState.EXPIRED)
                return
            token = uuid.uuid4().hex
            # The message itself is the intent: it has all that a delete needs. A removal's is in the database.
            if await self._claimed(job, token, "" if job.left else sealed):
                self.running += 1
                try:
                    await (self._remove(job, token) if job.left else self._carry_out(job, token))
                finally:
                    self.running -= 1

    async def _claimed(self, job: Job, token: str, intent: str) -> bool:
        """Whether the job is this call's to carry out. Redis is asked until it answers or the job's time is over."""
        while self._clock.now() < job.start_by:
            try:
                taken = await self._claims.take(job.id, self._worker, token, intent, account=job.account)
            except (redis.exceptions.RedisError, OSError):
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not taken:
                log.info("job is done or under way already", attempt=job.attempt)
            return taken
        log.warning("job not claimed, redis does not answer")
        return False

    async def _remove(self, job: Job, token: str) -> None:
        began = time.monotonic()
        left: Left | None
        try:
            report, left = await removed(job, self._provider_for, min(REMOVE_SECONDS, job.deadline - self._clock.now()))
        except Exception:  # it is tried again, and the log has the rest
            log.exception("removal broke", type=job.spec.type)
            report, left = _broken(job, began), job.left
        await self._reply(
            job, Reply(report=_known(report, job), at=self._clock.now(), left=left, account=job.owner), token
        )

    async def _carry_out(self, job: Job, token: str) -> None:
        began = time.monotonic()
        self._board.note(job, JobState.RUNNING)
        seconds = min(self._seconds, job.deadline - self._clock.now())
        left: list[Left] = []
        try:
            report = await self._verified(job, seconds, left.append)
        except Exception:  # whatever broke, the customer is answered, and the log has the rest
            log.exception("verification broke", type=job.spec.type)
            report, left = _broken(job, began), [Left()]
        report = _known(report, job)
        failing = report.code in STAYING
        if failing:
            report = await self._sightings.staying(job, report)
        self._tell(job, report, began)
        curtailed = job.attempt > 1 and seconds < self._seconds
        reply = Reply(report=report, at=self._clock.now(), curtailed=curtailed, account=job.owner, freed=True)
        if left:
            reply = reply.model_copy(update={"left": left[0], "intent": token})
        await self._reply(job, reply, token, () if failing else (self._sightings.failing(job),))
        self._board.note(job, JobState.SUCCEEDED if report.ok else JobState.FAILED, report=report)
        # Behind the answer, which nobody need wait for.
        await self._sightings.seen(job)

    async def _verified(self, job: Job, seconds: float, on_left: Callable[[Left], None]) -> Report:
        ends = self._clock.now() + seconds
        provider = await self._provider_for(job.spec)
        host = provider.host(job.spec)
        # What fails when a host is dead: all buckets of it.
        place = host.removeprefix(f"{job.spec.bucket}.")
        if self._bulkhead.full(place):
            log.info("not called, the host answers nobody", host=host)
            return unanswered(host, job.spec, job.key, job=job.id, location=job.location)

        def on_step(step: Step) -> None:
            self._board.note(job, _STATES[step], host=host)

        patience = Patience(self._propagation_seconds, partial(self._sightings.is_new, job))
        with self._bulkhead.calling(place):
            report = await verify(
                provider, job.spec, job.key,
                timeout=ends - self._clock.now(), job=job.id, location=job.location, on_step=on_step, on_left=on_left,
                patience=patience, lenient=job.lenient, multipart=bool(job.multipart),
            )  # fmt: skip
        # Our own network's fault may also be one that is found at once, and keeps nobody waiting.
        silent = report.code in (Fault.TIMEOUT, Fault.EGRESS_UNAVAILABLE) and report.duration_ms > SILENT_SECONDS * 1000
        self._bulkhead.note(place, timed_out=silent)
        return report

    def _tell(self, job: Job, report: Report, began: float) -> None:
        """Trace, count and log what came of it."""
        tracing.verified(report, began)
        metrics.note(report)
        failed = next((step for step in report.steps if step.code), None)
        log.info(
            "verification finished",
            type=report.type, host=report.host, ok=report.ok, code=report.code, ms=report.duration_ms,
            step=failed.step if failed else None, provider_code=failed.provider_code if failed else None,
            request_id=failed.request_id if failed else None,
        )  # fmt: skip
        if report.left_behind:
            # Where it is accepted, the customer has a warning, and nobody need do anything.
            tell = log.info if report.ok else log.warning
            tell("test file left behind", type=report.type, host=report.host, object=report.object)

    async def _reply(self, job: Job, reply: Reply, token: str, forget: Sequence[str] = ()) -> None:
        """Reply, for as long as somebody waits: Redis may be away just now. Where it stays away, the intent is an
        orphan when it is back. The keys `forget` are deleted with it."""
        sealed, left = self._sealer.seal(reply.content()), None
        if reply.intent:
            found = {"left": reply.left, "location": reply.report.location}
            left = self._sealer.seal(job.model_copy(update=found).content())
        while True:
            try:
                await self._claims.finish(
                    job.id,
                    job.reply_to,
                    sealed,
                    account=job.account,
                    token=token,
                    left=left,
                    at=reply.at,
                    forget=forget,
                )
                return
            except (redis.exceptions.RedisError, OSError) as error:
                if self._clock.now() > job.deadline:
                    log.error("report not delivered", error=type(error).__name__)
                    return
            await asyncio.sleep(_RETRY_SECONDS)


def _known(report: Report, job: Job) -> Report:
    """`report` as an API process of the release before can read it, where such a one handed `job` in."""
    if job.multipart is not None:
        return report
    return report.model_copy(update={"steps": tuple(each for each in report.steps if each.step is not Step.MULTIPART)})


def _broken(job: Job, began: float) -> Report:
    """The report on a verification that broke on our side: how far it came is not known."""
    reason = "the verification broke on our side"
    return Report(
        ok=False,
        code=Fault.INTERNAL_ERROR,
        message=ADVICE[Fault.INTERNAL_ERROR].text,
        type=job.spec.type,
        host="",
        object=job.key,
        left_behind=True,
        region=job.location.region,
        addressing=job.location.addressing,
        duration_ms=round((time.monotonic() - began) * 1000),
        job=job.id,
        steps=tuple(StepReport.skipped(step, reason) for step in Step),
    )
