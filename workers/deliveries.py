"""One delivery: open the sealed message, have the file delivered, tell of it. No rule of the business stands here."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import redis.exceptions
import structlog
from pydantic import ValidationError
from redis.asyncio import Redis

from app.domain.delivery import DeliveryState
from app.domain.types.base import Spec
from app.messages.clock import Clock
from app.messages.delivery import (
    LEASE_SECONDS,
    REPORT_SECONDS,
    DeliveryFile,
    DeliveryJob,
    DeliveryReport,
    DeliveryReports,
)
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
_TOGETHER = 100
"""How many reports one message has at most."""
_LEFT = (
    " Parts of it may be left there, since an upload that was begun could not be aborted: allow the key to do that, or "
    "let the store remove them by a lifecycle rule."
)


@dataclass
class _Underway:
    """A delivery that this worker has; `lease` ends it where it cannot be renewed, and `upload` is unfinished. Of what
    was `sent`, so much was `counted` as traffic."""

    job: DeliveryJob
    file: DeliveryFile
    task: "asyncio.Task[None]"
    lease: asyncio.Timeout
    upload: str | None
    sent: int = 0
    counted: int = 0

    def count(self, sent: int) -> int:
        """How many more bytes were sent since this was asked last."""
        more, self.counted = max(0, sent - self.counted), sent
        return more


@dataclass(frozen=True, eq=False)
class _Said:
    """What is to be told, with so many bytes that were sent `more` than was told before."""

    report: DeliveryReport
    more: int = 0


class Deliveries:
    """Carries out deliveries, any number at a time, as the worker that is called `worker`. A delivery is
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
        # In the order in which it happened.
        self._unsaid: dict[_Said, None] = {}
        self._saying = asyncio.Lock()
        self._stops = False
        self.reporting = Background("delivery progress", self._renew)

    @property
    def running(self) -> int:
        """How many are carried out now."""
        return len(self._underway)

    async def stop(self) -> None:
        """Let what is under way end within STOP_SECONDS, and hand the rest back, as what the queue still gives."""
        self._stops = True
        tasks = {each.task for each in self._underway.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for each in late:
                each.cancel()

    async def carry_out(self, sealed: str) -> None:
        """Deliver the files that `sealed` asks for, and tell of each. A message that we did not seal, or whose lease
        has ended, does nothing."""
        try:
            job = DeliveryJob.model_validate(self._sealer.open(sealed))
        except (NotSealedByUs, ValidationError):
            metrics.MESSAGES_REFUSED.labels("deliveries").inc()
            log.warning("message refused, it was not sealed by us")
            return
        ended = await asyncio.gather(*(self._begin(job, file) for file in job.files), return_exceptions=True)
        for each in ended:
            # One that was cancelled has been handed back.
            if isinstance(each, Exception):
                raise each

    async def _begin(self, job: DeliveryJob, file: DeliveryFile) -> None:
        with structlog.contextvars.bound_contextvars(delivery=file.id, account=job.owner):
            if self._clock.now() > job.start_by - MARGIN_SECONDS or file.id in self._underway:
                log.info("delivery not begun, its lease has ended or it is under way")
                return
            await self._carry_out(job, file)

    async def _carry_out(self, job: DeliveryJob, file: DeliveryFile) -> None:
        began = time.monotonic()
        left = job.start_by - MARGIN_SECONDS - self._clock.now()
        task = asyncio.current_task()
        assert task
        try:
            async with asyncio.timeout(left) as lease:
                underway = self._underway[file.id] = _Underway(job, file, task, lease, file.abandoned)
                if self._stops:
                    task.cancel()
                    await asyncio.sleep(0)
                report = await self._delivered(underway)
                self._tell(underway, report, began)
                await self._report(underway, report)
        except TimeoutError:
            log.warning("delivery let go, it could not be told of", destination=job.destination)
        except asyncio.CancelledError:
            # This worker ends: whoever comes next begins anew.
            log.info("delivery handed back")
            await asyncio.shield(self._hand_back(underway))
            raise
        finally:
            del self._underway[file.id]

    async def _delivered(self, underway: _Underway) -> DeliveryReport:
        job, which = underway.job, underway.file
        file = File(which.key, which.source, which.bytes, which.sha256, which.content_type)
        try:
            provider = await self._provider_for(job.spec)
            outcome = await deliver(
                provider, job.spec, job.location, file, self._source, self._memory,
                on_progress=partial(setattr, underway, "sent"),
                on_begun=partial(self._record, underway),
                abandoned=which.abandoned,
                repeated=which.repeated,
            )  # fmt: skip
        except Exception:  # whatever broke, it is told of, and the log has the rest
            log.exception("delivery broke", type=job.spec.type)
            outcome = broken()
        return self._report_of(underway, outcome)

    async def _record(self, underway: _Underway, upload: str | None) -> None:
        """Have it written down what is unfinished, before anything is sent: this process may be killed."""
        underway.upload, underway.sent = upload, 0 if upload else underway.sent
        if upload:
            await self._report(underway, self._says(underway, DeliveryState.UPLOADING))

    def _report_of(self, underway: _Underway, outcome: Delivered | NotDelivered) -> DeliveryReport:
        if isinstance(outcome, NotDelivered):
            left = _LEFT if underway.upload else ""
            return self._says(
                underway, DeliveryState.FAILED, underway.sent,
                fault=outcome.fault, message=outcome.message + left, refusal=outcome.refusal,
            )  # fmt: skip
        uploaded = outcome.uploaded
        return self._says(
            underway, DeliveryState.OK, outcome.sent,
            etag=uploaded.etag or None, version=uploaded.version, request_id=uploaded.request_id,
        )  # fmt: skip

    def _says(self, underway: _Underway, state: DeliveryState, sent: int = 0, **more: object) -> DeliveryReport:
        job, file = underway.job, underway.file
        return DeliveryReport.model_validate({
            "delivery": file.id, "lease": job.lease, "attempt": file.attempt, "file": file.name, "worker": self._worker,
            "account": job.owner, "at": self._clock.now(), "state": state, "sent": sent, "upload": underway.upload,
            **more,
        })  # fmt: skip

    def _tell(self, underway: _Underway, report: DeliveryReport, began: float) -> None:
        job, file = underway.job, underway.file
        seconds = time.monotonic() - began
        metrics.DELIVERIES.labels(job.spec.type, report.fault or report.state).observe(seconds)
        said = asdict(report.refusal) if report.refusal else {"request_id": report.request_id}
        metrics.DELIVERED_BYTES.labels(job.spec.type).inc(report.sent if report.state is DeliveryState.OK else 0)
        log.info(
            "delivery finished",
            destination=job.destination, type=job.spec.type, state=report.state, code=report.fault, bytes=file.bytes,
            ms=round(seconds * 1000), attempt=file.attempt, **said,
        )  # fmt: skip

    async def _report(self, underway: _Underway, report: DeliveryReport) -> None:
        """Tell of it, for as long as the lease lasts: Redis may be away just now."""
        said = _Said(report, underway.count(report.sent))
        self._unsaid[said] = None
        try:
            while said in self._unsaid:
                async with self._saying:
                    # What was said meanwhile by others went in one go, and this may have been among it.
                    if said in self._unsaid:
                        await self._say_all()
        finally:
            self._unsaid.pop(said, None)

    async def _say_all(self) -> None:
        """Tell of what is unsaid, or wait a moment where Redis is away."""
        together = list(self._unsaid)
        try:
            await self._say(together)
        except (redis.exceptions.RedisError, OSError):
            await asyncio.sleep(_RETRY_SECONDS)
            return
        for each in together:
            self._unsaid.pop(each, None)

    async def _say(self, together: Sequence[_Said]) -> None:
        """Raises RedisError or OSError."""
        at, reports = self._clock.now(), [each.report for each in together]
        ended = [(each.state, each.fault) for each in reports if each.state is not DeliveryState.UPLOADING]
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.rpush(DELIVERY_REPORTS, *self._sealed(reports))
            traffic.note(pipe, at, sum(each.more for each in together), ended)
            await pipe.execute()

    def _sealed(self, reports: Sequence[DeliveryReport]) -> list[str]:
        """As messages of _TOGETHER each."""
        cut = (reports[at : at + _TOGETHER] for at in range(0, len(reports), _TOGETHER))
        return [self._sealer.seal(DeliveryReports(reports=tuple(some)).content()) for some in cut]

    async def _hand_back(self, underway: _Underway) -> None:
        """Say that somebody else may begin it; where Redis does not answer, they will when the lease has ended."""
        try:
            said = self._sealed([self._says(underway, DeliveryState.PENDING)])
            await self._client.rpush(DELIVERY_REPORTS, *said)
        except (redis.exceptions.RedisError, OSError) as error:
            log.info("delivery not handed back", error=type(error).__name__)

    async def _renew(self) -> None:
        """Tell of what is under way every REPORT_SECONDS, which renews its lease."""
        await asyncio.sleep(REPORT_SECONDS)
        told = list(self._underway.values())
        if not told:
            return
        began = asyncio.get_running_loop().time()
        await self._say([
            _Said(self._says(each, DeliveryState.UPLOADING, each.sent), each.count(each.sent)) for each in told
        ])  # fmt: skip
        for each in told:
            if each.file.id in self._underway and not each.lease.expired():
                each.lease.reschedule(began + LEASE_SECONDS - MARGIN_SECONDS)
