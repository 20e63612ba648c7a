"""The dispatcher: hands what is due in the outbox to the workers that deliver, and notes what they say of it."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.domain import prefix
from app.domain.delivery import (
    AnyFault,
    Claimed,
    DeliveryState,
    Outcome,
    blames_destination,
    is_tried_again,
    parse_fault,
    pause_before,
)
from app.domain.faults import Fault, Role
from app.domain.types import SPECS, restore
from app.domain.types.base import Spec
from app.domain.verification import Location
from app.messages.broker import envelope
from app.messages.clock import Clock
from app.messages.delivery import LEASE_SECONDS, DeliveryFile, DeliveryJob, DeliveryReport, DeliveryReports
from app.messages.keys import DELIVERY_QUEUE, DELIVERY_REPORTS
from app.messages.sealing import NotSealedByUs, Sealer
from app.monitor import failures, traffic
from app.monitor.heartbeats import Heartbeats
from app.observe import metrics
from app.observe.background import Background

log = structlog.get_logger()

TURN_SECONDS = 1.0
GATHER_SECONDS = 0.02
"""How long what comes one by one is waited for, so that one transaction has all of it."""
POP_SECONDS = 5
BATCH = 50
"""Messages of workers, each of which may tell of a hundred deliveries, that are popped at once."""
SMALL, TOGETHER = 1024 * 1024, 8
"""Files of at most so many bytes are told of so many at a time: to a small one the message costs as much as the put."""
_REDIS_PAUSE_SECONDS = 5.0
_LEASE = timedelta(seconds=LEASE_SECONDS)


class OutboxStore(Protocol):
    """Where deliveries are kept."""

    async def claim(
        self,
        lease: str,
        now: datetime,
        until: datetime,
        key_of: Callable[[Claimed], str | None],
        *,
        room: int,
        per_destination: int,
        per_account: int,
    ) -> list[Claimed]: ...
    async def under_way(self) -> int: ...
    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]: ...
    async def expire(self, now: datetime) -> tuple[int, list[Outcome]]: ...


class Dispatcher:
    """Looks every TURN_SECONDS, and when it is woken, at what is due, and dispatches as much as the workers that are
    there have room for: no message waits in the queue for longer than a moment. Any number of processes do the same.

    `reports` must allow a call to take longer than POP_SECONDS, and must not decode what it reads.
    """

    def __init__(
        self,
        store: OutboxStore,
        client: Redis,
        reports: Redis,
        heartbeats: Heartbeats,
        sealer: Sealer,
        clock: Clock,
        *,
        per_destination: int,
        per_account: int,
    ) -> None:
        self._store = store
        self._client = client
        self._reports = reports
        self._heartbeats = heartbeats
        self._sealer = sealer
        self._clock = clock
        self._bounds = {"per_destination": per_destination, "per_account": per_account}
        self._woken = asyncio.Event()
        # Popped and not yet noted, as they came.
        self._popped: list[bytes] = []
        self._expires_at = 0.0
        self.dispatching = Background("dispatcher", self._turn)
        self.receiving = Background("delivery reports", self._receive)

    def wake(self) -> None:
        """Look at what is due now, rather than in a second; with it at what comes within GATHER_SECONDS."""
        asyncio.get_running_loop().call_later(GATHER_SECONDS, self._woken.set)

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        """Dispatch and receive until the block ends. What was popped and not noted by then is left to others."""
        async with self.receiving.running(), self.dispatching.running():
            yield
        if self._popped:
            with contextlib.suppress(RedisError, OSError):
                await self._client.lpush(DELIVERY_REPORTS, *reversed(self._popped))

    # Dispatching.

    async def _turn(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TURN_SECONDS):
                await self._woken.wait()
        self._woken.clear()
        workers = await self._heartbeats.alive(deliveries=True)
        room = sum(worker.jobs for worker in workers if worker.reading)
        under_way = await self._store.under_way()
        if under_way and time.monotonic() > self._expires_at:
            self._expires_at = time.monotonic() + TURN_SECONDS
            await self._expire()
        if room > under_way:
            await self.dispatch(room - under_way)

    async def _expire(self) -> None:
        """End the leases of workers that are not heard of any more; not while they may have been heard of and what they
        said was not noted yet."""
        if self._popped or await self._client.llen(DELIVERY_REPORTS):
            return
        again, given_up = await self._store.expire(self._now())
        if again or given_up:
            log.warning("deliveries lost with their workers", again=again, given_up=len(given_up))
        await self._tell(given_up, by_us=True)

    async def dispatch(self, room: int) -> int:
        """Hand up to `room` deliveries that are due to the workers: how many were due."""
        now = self._now()
        lease = str(uuid.uuid4())
        claimed = await self._store.claim(
            lease, now, now + _LEASE, lambda each: _key(each, now), room=room, **self._bounds
        )
        if not claimed:
            return 0
        jobs: list[DeliveryJob] = []
        refused: list[Outcome] = []
        for some in _together(claimed):
            prepared = self._prepared(some, now)
            if isinstance(prepared, DeliveryJob):
                jobs.append(prepared)
            else:
                refused += prepared
        try:
            await self._publish(jobs)
        except (RedisError, OSError) as error:
            due = now + timedelta(seconds=_REDIS_PAUSE_SECONDS)
            back = [
                Outcome(file.id, lease, DeliveryState.PENDING, now, due_at=due, returned=True)
                for job in jobs
                for file in job.files
            ]
            log.warning("deliveries not published", deliveries=len(back), error=type(error).__name__)
            refused += back
        if refused:
            await self._tell(await self._store.settle(refused), by_us=True)
        return len(claimed)

    async def _publish(self, jobs: Sequence[DeliveryJob]) -> None:
        if not jobs:
            return
        published = self._clock.now()
        messages = [
            envelope(str(uuid.uuid4()), self._sealer.seal(job.content()), published, DELIVERY_QUEUE) for job in jobs
        ]
        await self._client.lpush(DELIVERY_QUEUE, *messages)

    def _prepared(self, together: Sequence[Claimed], now: datetime) -> DeliveryJob | list[Outcome]:
        """What a worker is told of deliveries to one destination, or why it is told nothing."""
        claimed = together[0]

        def end(state: DeliveryState, text: str, **more: Any) -> list[Outcome]:
            about: dict[str, Any] = {"text": text, "message": text, "account": claimed.account_name}
            return [Outcome(each.id, each.lease, state, now, **about, **more) for each in together]

        if claimed.sealed is None:
            return end(DeliveryState.SKIPPED, "The destination was deleted before the file was delivered.")
        if not claimed.enabled:
            return end(DeliveryState.SKIPPED, "The destination was disabled before the file was delivered.")
        try:
            spec = self._spec(claimed, claimed.sealed)
        except (NotSealedByUs, ValueError, TypeError):
            log.error(
                "credentials cannot be opened with any of the sealing keys",
                destination=claimed.destination, account=claimed.account_name,
            )  # fmt: skip
            message = (
                "The credentials of this destination cannot be read any more: send them again with PUT "
                f"/destinations/{claimed.destination}."
            )
            return end(DeliveryState.FAILED, message, fault=Fault.INTERNAL_ERROR, failing=True)
        return DeliveryJob(
            lease=claimed.lease,
            account=claimed.account,
            account_name=claimed.account_name,
            destination=claimed.destination,
            spec=spec,
            location=Location.told_by(claimed.verification or {}),
            files=tuple(map(self._file, together)),
            start_by=(now + _LEASE).timestamp(),
        )

    def _file(self, claimed: Claimed) -> DeliveryFile:
        file = claimed.file
        return DeliveryFile(
            id=claimed.id,
            attempt=claimed.attempt,
            key=claimed.key or "",
            name=file.name,
            source=file.source,
            bytes=file.bytes,
            sha256=file.sha256,
            content_type=file.content_type,
            abandoned=self._abandoned(claimed),
            repeated=claimed.repeated,
        )

    def _spec(self, claimed: Claimed, sealed: str) -> Spec:
        return restore({"type": claimed.type, **(claimed.parameters or {}), **self._sealer.open(sealed)})

    def _abandoned(self, claimed: Claimed) -> str | None:
        """The upload that an earlier attempt may have left; None where no key opens it any more."""
        if claimed.upload is None:
            return None
        try:
            return str(self._sealer.open(claimed.upload)["id"])
        except NotSealedByUs:
            reason = "no sealing key opens their upload's id"
            log.warning("parts left behind", delivery=claimed.id, account=claimed.account_name, reason=reason)
            return None

    # Receiving.

    async def _receive(self) -> None:
        if not self._popped:
            popped: Any = await self._reports.blmpop(POP_SECONDS, 1, DELIVERY_REPORTS, direction="LEFT", count=BATCH)
            self._popped = list(popped[1]) if popped else []
            if self._popped:
                await asyncio.sleep(GATHER_SECONDS)
                more: Any = await self._reports.lpop(DELIVERY_REPORTS, BATCH)
                self._popped += more or []
        outcomes = [outcome for each in self._popped for outcome in self._outcomes(each)]
        noted = await self._store.settle(outcomes) if outcomes else []
        self._popped = []
        if any(each.state is not DeliveryState.UPLOADING for each in noted):
            # What came with it was waited for already.
            self._woken.set()
        await self._tell(noted)

    def _outcomes(self, sealed: bytes) -> list[Outcome]:
        try:
            said = DeliveryReports.model_validate(self._sealer.open(sealed))
        except (NotSealedByUs, ValidationError):
            metrics.MESSAGES_REFUSED.labels("delivery_reports").inc()
            log.warning("delivery report refused, it was not sealed by us")
            return []
        # Where Google is the store, whoever knows the id of an upload may write there.
        return [
            replace(outcome_of(each), upload=self._sealer.seal({"id": each.upload}) if each.upload else None)
            for each in said.reports
        ]

    async def _tell(self, noted: Sequence[Outcome], *, by_us: bool = False) -> None:
        """Log and count what was `noted`, and thus happened once; `by_us` says that it is no worker's attempt. What
        cannot be counted in Redis is for looking at, and hinders nothing."""
        for each in noted:
            _log(each)
        failed = [(each, each.fault) for each in noted if each.state is DeliveryState.FAILED and each.fault]
        for _, fault in failed:
            metrics.DELIVERIES_FAILED.labels(fault).inc()
        if not failed:
            return
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for each, fault in failed:
                    await failures.note_undelivered(pipe, each.at.timestamp(), fault, each.account)
                    if by_us:
                        traffic.note(pipe, each.at.timestamp(), 0, [(each.state, parse_fault(fault))])
                await pipe.execute()
        except (RedisError, OSError) as error:
            log.info("failed deliveries not counted", deliveries=len(failed), error=type(error).__name__)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def _together(claimed: Sequence[Claimed]) -> list[list[Claimed]]:
    """`claimed` as workers are told of it: small files for one destination up to TOGETHER at a time, of which the first
    has the place, and others one by one."""
    messages: list[list[Claimed]] = []
    filling: dict[str, list[Claimed]] = {}
    for each in claimed:
        if each.file.bytes > SMALL:
            messages.append([each])
            continue
        message = filling.get(each.destination)
        if message is None or len(message) == TOGETHER:
            message = filling[each.destination] = []
            messages.append(message)
        message.append(each)
    return messages


def outcome_of(report: DeliveryReport) -> Outcome:
    """What is to be noted of what a worker says; it decides whether a delivery that failed is tried again, and when."""
    at = datetime.fromtimestamp(report.at, UTC)
    common: dict[str, Any] = {"worker": report.worker, "sent": report.sent, "account": report.account}

    def says(state: DeliveryState, **more: Any) -> Outcome:
        return Outcome(report.delivery, report.lease, state, at, **common, **more)

    match report.state:
        case DeliveryState.UPLOADING:
            return says(DeliveryState.UPLOADING, leased_until=at + _LEASE)
        case DeliveryState.PENDING:
            return says(DeliveryState.PENDING, due_at=at, returned=True)
        case DeliveryState.OK:
            receipt = {"etag": report.etag, "version": report.version, "request_id": report.request_id}
            return says(DeliveryState.OK, text=f"{report.file}: delivered, {report.sent} bytes.", **receipt)
    fault: AnyFault = report.fault or Fault.INTERNAL_ERROR
    failed: dict[str, Any] = {"fault": fault, "message": report.message, "refusal": report.refusal}
    told = f"{report.file}: {report.message}"
    if report.refusal:
        told = f"{told} {report.refusal.as_text()}"
    if is_tried_again(fault, report.attempt):
        due = at + pause_before(report.attempt + 1)
        later = f"{told} It is tried again at {due:%Y-%m-%d %H:%M:%S} UTC."
        return says(DeliveryState.PENDING, text=later, due_at=due, **failed)
    return says(DeliveryState.FAILED, text=told, failing=blames_destination(fault), **failed)


def _log(outcome: Outcome) -> None:
    if outcome.state is DeliveryState.FAILED:
        log.warning("delivery failed", delivery=outcome.delivery, account=outcome.account, code=outcome.fault)
    elif outcome.state is not DeliveryState.UPLOADING:
        about = {"delivery": outcome.delivery, "account": outcome.account}
        log.debug("delivery settled", **about, state=outcome.state, code=outcome.fault)


def _key(claimed: Claimed, now: datetime) -> str | None:
    """Where the file goes that is first dispatched at `now`; None where its destination is gone."""
    spec = SPECS.get(claimed.type)
    if spec is None:
        return None
    path_prefix = (claimed.parameters or {}).get(spec.roles[Role.PREFIX], "")
    values = {
        "COLLECTION_ID": claimed.collection,
        "COLLECTION_NAME": claimed.collection_name,
        "RESULT_SET_ID": str(claimed.result_set),
        "DATE": now.strftime("%Y_%m_%d"),
    }
    return prefix.key(path_prefix, values, claimed.file.name)
