"""Test files that may have been left behind: put into the database, and their deletes tried until one is confirmed."""

import asyncio
import contextlib
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import redis.exceptions
import structlog
from pydantic import ValidationError
from redis.asyncio import Redis

from app.domain.errors import Unavailable
from app.domain.faults import UNWRITABLE
from app.domain.leftover import Leftover, LeftoverState
from app.hold.replies import Replies
from app.messages.broker import publish
from app.messages.clock import Clock
from app.messages.intents import ORPHANED_SECONDS, Intents
from app.messages.job import Job, Left, Reply
from app.messages.sealing import NotSealedByUs, Sealer
from app.observe import metrics
from app.observe.background import Background

log = structlog.get_logger()

LOOK_SECONDS = 5.0
# What a process of the same hold has not taken by then is taken by any.
_UNSETTLED_SECONDS = 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 3600.0
TRIED_FOR = timedelta(hours=24)
# For a worker to take a removal, and to carry it out.
_START_SECONDS, _REMOVE_SECONDS = 10.0, 15.0
_LEASE = timedelta(seconds=60)
_AT_ONCE = 50
_CLOSE_SECONDS = 5.0

_ON_RECORD = "Its delete was not confirmed: it is tried again until it is."
_NO_WORKER = "No worker has taken the delete: it is tried again."
_HIDDEN = (
    "The bucket keeps versions: the file is deleted, but a version of it may remain, since the store did not tell "
    "which it wrote or the key may not delete one. Remove the versions of this object."
)
_UNREADABLE = "None of the sealing keys opens its credentials, so that nobody can delete it here."


class LeftoverStore(Protocol):
    """Where leftovers are kept; each method raises Unavailable."""

    async def add(self, leftover: Leftover, sealed: str) -> None: ...
    async def due(self, now: datetime, lease: timedelta, most: int) -> list[tuple[Leftover, str]]: ...
    async def postpone(self, leftover: str, due_at: datetime, reason: str, message: str) -> None: ...
    async def keep(self, leftover: str, reason: str | None, message: str | None) -> None: ...
    async def remove(self, leftover: str) -> None: ...


class Leftovers:
    """Takes what the holds of this process leave, and what workers could not settle; has workers try the deletes.

    `client` must not decode what it reads.
    """

    def __init__(
        self, store: LeftoverStore, client: Redis, intents: Intents, replies: Replies, sealer: Sealer, clock: Clock
    ) -> None:
        self._store = store
        self._client = client
        self._intents = intents
        self._replies = replies
        self._sealer = sealer
        self._clock = clock
        self._pending: dict[str, tuple[Job, str]] = {}
        self._any = asyncio.Event()
        self.writing = Background("leftovers", self._write)
        self.retrying = Background("leftover deletes", self._retry)

    def record(self, job: Job, left: Left, intent: str = "") -> None:
        """Put the file of `job` on record as soon as the database takes it; `intent` is what it is on record by in
        Redis until then. Of two records of one job the first counts."""
        log.warning("test file may remain", job=job.id, account=job.owner, type=job.spec.type, object=job.key)
        self._pending.setdefault(job.id, (job.model_copy(update={"left": left}), intent))
        self._any.set()

    async def close(self) -> None:
        """Write what is not written yet, for a bounded time."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._write_pending()
        except (TimeoutError, Unavailable, redis.exceptions.RedisError, OSError) as error:
            log.warning("leftovers not written", jobs=[*self._pending], error=type(error).__name__)

    async def _write(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._any.wait()
        await self._write_pending()
        await self._collect()

    async def _write_pending(self) -> None:
        self._any.clear()
        try:
            for job, intent in [*self._pending.values()]:
                await self._add(job, job.left or Left())
                del self._pending[job.id]
                if intent:
                    await self._intents.settle([intent])
        except BaseException:
            self._any.set()
            raise

    async def _collect(self) -> None:
        """Take over what workers have handed over, and the process that held it did not take."""
        unsettled = await self._intents.unsettled(self._clock.now() - _UNSETTLED_SECONDS, _AT_ONCE)
        for intent, sealed in unsettled.items():
            try:
                job = Job.model_validate(self._sealer.open(sealed))
            except (NotSealedByUs, ValidationError):
                metrics.MESSAGES_REFUSED.labels("intents").inc()
                log.error("intent refused, it was not sealed by us", intent=intent)
            else:
                await self._add(job, job.left or Left())
            await self._intents.settle([intent])

    async def _add(self, job: Job, left: Left) -> None:
        now = self._now()
        if job.attempt > 1:
            # Another worker may have written a version of its own, so that the one that is known is not all.
            left = left.model_copy(update={"version": None})
        # An upload whose connection broke needs time to arrive before its file can be deleted for good.
        pause = FIRST_PAUSE_SECONDS if left.written else ORPHANED_SECONDS
        leftover = Leftover(
            id=job.id,
            account=job.account,
            destination=job.destination,
            type=job.spec.type,
            parameters=job.spec.public(),
            object=job.key,
            state=LeftoverState.WAITING,
            created_at=now,
            due_at=now + timedelta(seconds=pause),
            message=_ON_RECORD,
        )
        if left.hidden:
            leftover = replace(leftover, state=LeftoverState.KEPT, reason="version_may_remain", message=_HIDDEN)
        await self._store.add(leftover, self._sealer.seal(job.model_copy(update={"left": left}).content()))

    async def _retry(self) -> None:
        await asyncio.sleep(LOOK_SECONDS)
        due = await self._store.due(self._now(), _LEASE, _AT_ONCE)
        if due:
            await asyncio.gather(*(self._try(leftover, sealed) for leftover, sealed in due))

    async def _try(self, leftover: Leftover, sealed: str) -> None:
        try:
            job = Job.model_validate(self._sealer.open(sealed))
        except (NotSealedByUs, ValidationError):
            await self._store.keep(leftover.id, "credentials_unreadable", _UNREADABLE)
            return
        reply = await self._removal(job)
        await self._settle(leftover, job, reply)

    async def _removal(self, job: Job) -> Reply | None:
        """A worker's reply to the removal of the file of `job`; None where there was none in time."""
        now = self._clock.now()
        times = {"submitted": now, "start_by": now + _START_SECONDS, "deadline": now + _START_SECONDS + _REMOVE_SECONDS}
        change = {"id": str(uuid.uuid4()), "reply_to": self._replies.name, "attempt": 1, "traceparent": "", **times}
        removal = job.model_copy(update={**change, "left": job.left or Left()})
        with self._replies.expected(removal.id) as reply:
            try:
                await publish(self._client, removal.id, self._sealer.seal(removal.content()), now)
            except (redis.exceptions.RedisError, OSError):
                return None
            await asyncio.wait((reply,), timeout=_START_SECONDS + _REMOVE_SECONDS + 1)
            return reply.result() if reply.done() else None

    async def _settle(self, leftover: Leftover, job: Job, reply: Reply | None) -> None:
        left = job.left or Left()
        about: Mapping[str, object] = {
            "job": leftover.id, "account": job.owner, "type": leftover.type, "object": leftover.object,
        }  # fmt: skip
        never_written = reply and not leftover.tries and not left.written and reply.report.code in UNWRITABLE
        if reply and (reply.left is None or never_written):
            await self._store.remove(leftover.id)
            log.info("leftover settled", tries=leftover.tries + 1, **about)
        elif reply and reply.left and reply.left.hidden:
            await self._store.keep(leftover.id, "version_may_remain", _HIDDEN)
            log.warning("leftover kept", reason="version_may_remain", **about)
        else:
            reason = str(reply.report.code or "") if reply else "unavailable"
            message = reply.report.message if reply else _NO_WORKER
            due = self._now() + timedelta(seconds=pause_after(leftover.tries + 1))
            await self._store.postpone(leftover.id, due, reason, message)
            if due > leftover.created_at + TRIED_FOR:
                await self._store.keep(leftover.id, None, None)
                log.warning("leftover kept", reason=reason, **about)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def pause_after(tries: int) -> float:
    """How many seconds after so many tries the next is made."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 20))
