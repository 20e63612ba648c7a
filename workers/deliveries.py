"""One delivery: open the sealed message, have the file delivered, tell of it. No rule of the business stands here."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import redis.exceptions
import structlog
from pydantic import ValidationError
from redis.asyncio import Redis

from app.domain.delivery import DeliveryState
from app.domain.types.base import Spec
from app.messages.clock import Clock
from app.messages.delivery import LEASE_SECONDS, REPORT_SECONDS, DeliveryJob, DeliveryReport
from app.messages.keys import DELIVERY_REPORTS
from app.messages.sealing import NotSealedByUs, Sealer
from app.monitor import traffic
from app.observe import metrics
from app.observe.background import Background
from workers.deliver import Delivered, File, Memory, NotDelivered, broken, deliver
from workers.source import Source
from workers.storage.port import Provider

log = structlog.get_logger()

MARGIN_SECONDS = 2.0
"""A worker lets go of a delivery so long before its lease ends."""
STOP_SECONDS = 5.0
"""What is under way when a worker is told to stop may end within this time; the rest is handed back."""
_RETRY_SECONDS = 0.5
_LEFT = (
    " Parts of it may be left there, since an upload that was begun could not be aborted: allow the key to do that, or "
    "let the store remove them by a lifecycle rule."
)


@dataclass
class _Underway:
    """A delivery that this worker has; `lease` ends it where it cannot be renewed, and `upload` is unfinished. Of what
    was `sent`, so much was `counted` as traffic."""

    job: DeliveryJob
    task: "asyncio.Task[None]"
    lease: asyncio.Timeout
    upload: str | None
    sent: int = 0
    counted: int = 0

    def count(self, sent: int) -> int:
        """How many more bytes were sent since this was asked last."""
        more, self.counted = max(0, sent - self.counted), sent
        return more


class Deliveries:
    """Carries out deliveries, one call each, any number at a time, as the worker that is called `worker`. A delivery is
    this worker's while it can tell of it: it lets go before anybody else may have it."""

    def __init__(
        self,
        worker: str,
        sealer: Sealer,
        provider_for: Callable[[Spec], Awaitable[Provider]],
        source: Source,
        client: Redis,
        clock: Clock,
        memory: Memory,
    ) -> None:
        self._worker = worker
        self._sealer = sealer
        self._provider_for = provider_for
        self._source = source
        self._client = client
        self._clock = clock
        self._memory = memory
        self._underway: dict[str, _Underway] = {}
        self.reporting = Background("delivery progress", self._renew)

    @property
    def running(self) -> int:
        """How many are carried out now."""
        return len(self._underway)

    async def stop(self) -> None:
        """Let what is under way end within STOP_SECONDS, and hand the rest back."""
        tasks = {each.task for each in self._underway.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for each in late:
                each.cancel()

    async def carry_out(self, sealed: str) -> None:
        """Deliver what `sealed` asks for, and tell of it. A message that we did not seal, or whose lease has ended,
        does nothing."""
        try:
            job = DeliveryJob.model_validate(self._sealer.open(sealed))
        except (NotSealedByUs, ValidationError):
            metrics.MESSAGES_REFUSED.labels("deliveries").inc()
            log.warning("message refused, it was not sealed by us")
            return
        with structlog.contextvars.bound_contextvars(delivery=job.id, account=job.owner):
            if self._clock.now() > job.start_by - MARGIN_SECONDS or job.id in self._underway:
                log.info("delivery not begun, its lease has ended or it is under way")
                return
            await self._carry_out(job)

    async def _carry_out(self, job: DeliveryJob) -> None:
        began = time.monotonic()
        left = job.start_by - MARGIN_SECONDS - self._clock.now()
        task = asyncio.current_task()
        assert task
        try:
            async with asyncio.timeout(left) as lease:
                self._underway[job.id] = _Underway(job, task, lease, job.abandoned)
                report = await self._delivered(job)
                self._tell(job, report, began)
                await self._report(report)
        except TimeoutError:
            log.warning("delivery let go, it could not be told of", destination=job.destination)
        except asyncio.CancelledError:
            # This worker ends: whoever comes next begins anew.
            log.info("delivery handed back")
            await asyncio.shield(self._hand_back(job))
            raise
        finally:
            del self._underway[job.id]

    async def _delivered(self, job: DeliveryJob) -> DeliveryReport:
        file = File(job.key, job.source, job.bytes, job.sha256, job.content_type)
        try:
            provider = await self._provider_for(job.spec)
            outcome = await deliver(
                provider, job.spec, job.location, file, self._source, self._memory,
                on_progress=lambda sent: self._note(job, sent),
                on_begun=lambda upload: self._record(job, upload),
                abandoned=job.abandoned,
                repeated=job.repeated,
            )  # fmt: skip
        except Exception:  # whatever broke, it is told of, and the log has the rest
            log.exception("delivery broke", type=job.spec.type)
            outcome = broken()
        return self._report_of(job, outcome)

    def _note(self, job: DeliveryJob, sent: int) -> None:
        self._underway[job.id].sent = sent

    async def _record(self, job: DeliveryJob, upload: str | None) -> None:
        """Have it written down what is unfinished, before anything is sent: this process may be killed."""
        underway = self._underway[job.id]
        underway.upload, underway.sent = upload, 0 if upload else underway.sent
        if upload:
            await self._report(self._says(job, DeliveryState.UPLOADING))

    def _report_of(self, job: DeliveryJob, outcome: Delivered | NotDelivered) -> DeliveryReport:
        if isinstance(outcome, NotDelivered):
            left = _LEFT if self._underway[job.id].upload else ""
            return self._says(
                job, DeliveryState.FAILED, self._underway[job.id].sent,
                fault=outcome.fault, message=outcome.message + left, refusal=outcome.refusal,
            )  # fmt: skip
        uploaded = outcome.uploaded
        return self._says(
            job, DeliveryState.OK, outcome.sent,
            etag=uploaded.etag, version=uploaded.version, request_id=uploaded.request_id,
        )  # fmt: skip

    def _says(self, job: DeliveryJob, state: DeliveryState, sent: int = 0, **more: object) -> DeliveryReport:
        return DeliveryReport.model_validate({
            "delivery": job.id, "lease": job.lease, "attempt": job.attempt, "file": job.file, "worker": self._worker,
            "account": job.owner, "at": self._clock.now(), "state": state, "sent": sent,
            "upload": self._underway[job.id].upload, **more,
        })  # fmt: skip

    def _tell(self, job: DeliveryJob, report: DeliveryReport, began: float) -> None:
        seconds = time.monotonic() - began
        metrics.DELIVERIES.labels(job.spec.type, report.fault or report.state).observe(seconds)
        said = asdict(report.refusal) if report.refusal else {"request_id": report.request_id}
        metrics.DELIVERED_BYTES.labels(job.spec.type).inc(report.sent if report.state is DeliveryState.OK else 0)
        log.info(
            "delivery finished",
            destination=job.destination, type=job.spec.type, state=report.state, code=report.fault, bytes=job.bytes,
            ms=round(seconds * 1000), attempt=job.attempt, **said,
        )  # fmt: skip

    async def _report(self, report: DeliveryReport) -> None:
        """Tell of the end, for as long as the lease lasts: Redis may be away just now."""
        sealed = self._sealer.seal(report.content())
        more = self._underway[report.delivery].count(report.sent)
        ended = None if report.state is DeliveryState.UPLOADING else report.state
        while True:
            try:
                async with self._client.pipeline(transaction=False) as pipe:
                    pipe.rpush(DELIVERY_REPORTS, sealed)
                    traffic.note(pipe, report.at, more, ended, report.fault)
                    await pipe.execute()
                return
            except (redis.exceptions.RedisError, OSError):
                await asyncio.sleep(_RETRY_SECONDS)

    async def _hand_back(self, job: DeliveryJob) -> None:
        """Say that somebody else may begin it; where Redis does not answer, they will when the lease has ended."""
        try:
            await self._client.rpush(
                DELIVERY_REPORTS, self._sealer.seal(self._says(job, DeliveryState.PENDING).content())
            )
        except (redis.exceptions.RedisError, OSError) as error:
            log.info("delivery not handed back", error=type(error).__name__)

    async def _renew(self) -> None:
        """Tell of what is under way every REPORT_SECONDS, which renews its lease."""
        await asyncio.sleep(REPORT_SECONDS)
        told = list(self._underway.values())
        if not told:
            return
        reports = [self._says(each.job, DeliveryState.UPLOADING, each.sent) for each in told]
        began = asyncio.get_running_loop().time()
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.rpush(DELIVERY_REPORTS, *(self._sealer.seal(each.content()) for each in reports))
            traffic.note(pipe, self._clock.now(), sum(each.count(each.sent) for each in told))
            await pipe.execute()
        for each in told:
            if each.job.id in self._underway and not each.lease.expired():
                each.lease.reschedule(began + LEASE_SECONDS - MARGIN_SECONDS)
