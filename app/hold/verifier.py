"""The hold: hand a job to the workers and wait for its report."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Protocol

import structlog
from opentelemetry.trace import SpanKind

from app.domain.errors import DropoffError, VerificationTimedOut
from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.verification import Location, Report
from app.hold.backlog import Backlog
from app.hold.leftovers import Leftovers
from app.hold.replies import Replies
from app.hold.slots import Slot, Slots
from app.hold.supervisor import Held, Supervisor
from app.messages.broker import envelope
from app.messages.clock import Clock
from app.messages.job import Job, Left, Reply
from app.messages.sealing import Sealer
from app.monitor.job import JobState
from app.observe import metrics, tracing
from app.settings import HOLD_MARGIN_SECONDS

log = structlog.get_logger()


class Board(Protocol):
    """Where it is noted what each job is doing, for whoever wants to look."""

    def note(self, job: Job, state: JobState) -> None: ...


class Verifier:
    """Has workers verify, and holds each caller until the report is there: for `hold_seconds` at most, of which a
    worker has `verify_seconds`."""

    def __init__(
        self,
        clock: Clock,
        backlog: Backlog,
        slots: Slots,
        replies: Replies,
        supervisor: Supervisor,
        leftovers: Leftovers,
        sealer: Sealer,
        board: Board,
        *,
        hold_seconds: float,
        verify_seconds: float,
        multipart: bool = False,
    ) -> None:
        self._clock = clock
        self._backlog = backlog
        self._slots = slots
        self._replies = replies
        self._supervisor = supervisor
        self._leftovers = leftovers
        self._left: set[asyncio.Task[None]] = set()
        self._sealer = sealer
        self._board = board
        self._hold_seconds = hold_seconds
        self._verify_seconds = verify_seconds
        self._multipart = multipart

    async def verify(
        self,
        account: int,
        spec: Spec,
        key: str,
        destination: str | None = None,
        *,
        location: Location,
        lenient: bool,
        at_once: int | None = None,
        account_name: str = "",
    ) -> Report:
        """The report on writing and deleting `key` as `spec` says, for what is or is to be `destination`, beginning
        with the `location` that is known of its bucket; where it is to be `lenient`, `key` need not be deleted.
        `at_once` is the account's own limit of verifications under way; its name is for who reads logs and looks at the
        board.

        Raises TooManyVerifications where `account` has enough of them under way, Unavailable where the queue does not
        answer, no worker took the job in time or could, or this process holds enough requests, and
        VerificationTimedOut where a worker began and was not done when the hold ended.
        """
        self._backlog.require_room()
        job = self._job(account, account_name, spec, key, destination, location, lenient)
        structlog.contextvars.bind_contextvars(job=job.id)
        began = time.monotonic()
        try:
            with metrics.HELD.track_inprogress(), self._replies.expected(job.id) as reply:
                async with self._submitted(job, at_once) as (job, slot):
                    with tracing.span("hold"), self._supervisor.watched(job, reply) as held:
                        report = await self._held(held, slot)
        except asyncio.CancelledError:
            # The client has gone; what its job leaves is looked after all the same.
            self._follow(job, reply)
            raise
        metrics.HOLD.observe(time.monotonic() - began)
        return report

    def _follow(self, job: Job, reply: "asyncio.Future[Reply]") -> None:
        """Wait for the end of a job that nobody waits for any more, beside everything else. Calls nothing that may
        give way to another task before it expects the reply."""
        if not reply.cancelled():
            if error := reply.exception():
                self._note_given_up(job, error)
            else:
                self._note_left(job, reply.result())
            return
        expecting = contextlib.ExitStack()
        task = asyncio.create_task(self._followed(job, expecting.enter_context(self._replies.expected(job.id))))
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        task.add_done_callback(lambda _: expecting.close())

    async def _followed(self, job: Job, reply: "asyncio.Future[Reply]") -> None:
        published = self._clock.now()
        await asyncio.wait((reply,), timeout=max(0, job.deadline + HOLD_MARGIN_SECONDS - published))
        if reply.done():
            self._note_left(job, reply.result())
        elif await self._supervisor.may_have_begun(job, job.submitted):
            self._leftovers.record(job, Left())

    def _note_left(self, job: Job, reply: Reply) -> None:
        """Put on record what a worker says that it left."""
        if reply.left:
            found = job.model_copy(update={"location": reply.report.location})
            self._leftovers.record(found, reply.left, reply.intent)
        elif job.attempt > 1 and self._supervisor.forgot(job):
            # What the first worker has left is on record nowhere else.
            self._leftovers.record(job, Left())

    def _note_given_up(self, job: Job, error: BaseException) -> None:
        """Put the file of `job` on record where `error` names it, which is where it may remain."""
        if isinstance(error, DropoffError) and "object" in error.details:
            self._leftovers.record(job, Left())

    def _job(
        self,
        account: int,
        account_name: str,
        spec: Spec,
        key: str,
        destination: str | None,
        location: Location,
        lenient: bool,
    ) -> Job:
        now = self._clock.now()
        # Between the last moment to begin and the end of the hold there is room for one whole verification.
        deadline = now + self._hold_seconds - HOLD_MARGIN_SECONDS
        return Job(
            id=str(uuid.uuid4()),
            account=account,
            account_name=account_name,
            destination=destination,
            spec=spec,
            location=location,
            lenient=lenient,
            multipart=self._multipart,
            key=key,
            submitted=now,
            start_by=deadline - self._verify_seconds,
            deadline=deadline,
            reply_to=self._replies.name,
        )

    @contextlib.asynccontextmanager
    async def _submitted(self, job: Job, at_once: int | None) -> AsyncIterator[tuple[Job, Slot]]:
        """`job` as it is on the queue, and the slot of its account that it has for as long as the block lasts."""
        async with contextlib.AsyncExitStack() as stack:
            with tracing.span("publish", SpanKind.PRODUCER, {"dropoff.job": job.id, "dropoff.type": job.spec.type}):
                if parent := tracing.traceparent():
                    job = job.model_copy(update={"traceparent": parent})
                slot = await stack.enter_async_context(
                    self._slots.taken(job.account, job.id, self._message(job), at_once)
                )
            self._backlog.put_in()
            log.info("job submitted", job=job.id, type=job.spec.type)
            self._board.note(job, JobState.QUEUED)
            yield job, slot

    def _message(self, job: Job) -> str:
        return envelope(job.id, self._sealer.seal(job.content()), self._clock.now())

    async def _held(self, held: Held, slot: Slot) -> Report:
        ends = held.job.deadline + HOLD_MARGIN_SECONDS
        await asyncio.wait((held.reply,), timeout=max(0, ends - self._clock.now()))
        try:
            if not held.reply.done():
                raise await self._supervisor.gave_up(held)
            reply = held.reply.result()
            slot.free = reply.freed
            self._note_left(held.job, reply)
            if reply.curtailed and reply.report.code is Fault.TIMEOUT:
                # The store was given less time than it is promised: that it took longer says nothing about it.
                held.lost = held.lost or "a worker"
                raise await self._supervisor.gave_up(held)
        except DropoffError as error:
            lost = isinstance(error, VerificationTimedOut)
            self._note_given_up(held.job, error)
            log.warning("job not finished in time" if lost else "job not begun in time", job=held.job.id)
            self._board.note(held.job, JobState.LOST if lost else JobState.EXPIRED)
            raise
        return reply.report
