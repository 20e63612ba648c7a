"""Watches over the jobs that requests of this process wait for: one whose worker died, or whose message was lost, is
handed in again, once, while there is time."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import redis.exceptions
import structlog
from redis.asyncio import Redis

from app.domain.errors import DropoffError, Unavailable, VerificationTimedOut
from app.hold.continuity import Continuity
from app.hold.replies import Replies
from app.messages.broker import NotOurs, opened, publish
from app.messages.claims import ALIVE_SECONDS, Claim, Claims
from app.messages.clock import Clock
from app.messages.job import Job, Reply
from app.messages.keys import QUEUE, WORKERS
from app.messages.sealing import Sealer
from app.observe import metrics
from app.observe.background import Background
from app.settings import HOLD_MARGIN_SECONDS

log = structlog.get_logger()

LOOK_SECONDS = 1.5
# A worker is given up when it was missed so often in a row: after Redis was away it may be found before its heartbeat.
_MISSES = 2
# A message that was published so long ago and is not in the queue any more should have been begun.
_BEGUN_SECONDS = 3.0
MOST_ATTEMPTS = 2
# With less time than this left, a job is not begun again.
_LEAST_SECONDS = 2.0
# How long Redis is asked, at the end of a hold, whether the job was begun.
_LAST_LOOK_SECONDS = 1.0

_NOTHING = "nothing was created or changed"


@dataclass
class Held:
    """A job that a request waits for, its `reply`, and what is known of it: when its message was `published` (by
    Redis' clock), the `worker` that has it, and the one that it was `lost` with."""

    job: Job
    reply: asyncio.Future[Reply]
    published: float
    worker: str = ""
    lost: str = ""
    misses: int = 0

    @property
    def start_by(self) -> float:
        """The last moment at which a worker may begin the next attempt."""
        return self.job.deadline - _LEAST_SECONDS if self.lost else self.job.start_by

    def fail(self, error: DropoffError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


@dataclass(frozen=True)
class _Seen:
    """What one look found: the claims of the jobs asked for, the living workers, and when the message was published
    that is taken from the queue next; None where none waits or it tells no time."""

    claims: Sequence[Claim | None]
    alive: frozenset[str]
    next_published: float | None
    empty: bool


class Supervisor:
    """Looks every LOOK_SECONDS, while anything is held, at all jobs that are older than that: one that ends sooner
    costs nothing. `client` must not decode what it reads."""

    def __init__(self, client: Redis, claims: Claims, replies: Replies, sealer: Sealer, clock: Clock) -> None:
        self._client = client
        self._claims = claims
        self._replies = replies
        self._sealer = sealer
        self._clock = clock
        self._held: dict[str, Held] = {}
        self._continuity = Continuity()
        self.watching = Background("supervisor", self._look)

    @contextlib.contextmanager
    def watched(self, job: Job, reply: asyncio.Future[Reply]) -> Iterator[Held]:
        """Watch over `job`, which was just published, for as long as the block lasts. Where it cannot be done any more
        the future fails: with VerificationTimedOut where a worker had begun it, Unavailable where none had."""
        self._held[job.id] = held = Held(job, reply, self._clock.now())
        try:
            yield held
        finally:
            del self._held[job.id]

    async def _look(self) -> None:
        if not self._continuity.known:
            await self._continuity.look(self._client, self._clock.now())
        await asyncio.sleep(LOOK_SECONDS)
        await self._clock.renew(self._client)
        before = self._clock.now() - LOOK_SECONDS
        held = [each for each in self._held.values() if each.published < before and not each.reply.done()]
        if not held:
            return
        try:
            seen = await self._see(held)
        except BaseException:
            for each in held:
                each.misses = 0
            raise
        for each, claim in zip(held, seen.claims, strict=True):
            await self._settle(each, claim, seen)

    async def _see(self, held: Sequence[Held]) -> _Seen:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.zrangebyscore(WORKERS, self._clock.now() - ALIVE_SECONDS, "+inf")
            # Messages are put in at the left and taken out at the right.
            pipe.lindex(QUEUE, -1)
            self._continuity.ask(pipe)
            alive, message, *found = await pipe.execute()
        self._continuity.note(found, self._clock.now())
        claims = await self._claims.look([each.job.id for each in held])
        try:
            published = opened(message).published if message else None
        except NotOurs:
            published = None
        return _Seen(claims, frozenset(name.decode(errors="replace") for name in alive), published, message is None)

    async def _settle(self, held: Held, claim: Claim | None, seen: _Seen) -> None:
        """Do what has to be done about one job, if anything."""
        now = self._clock.now()
        if claim and claim.reply:
            # The reply itself did not come: it was popped and then lost, with a connection for instance.
            self._replies.hand_over(claim.reply)
        elif claim and claim.worker != held.lost:
            held.worker = claim.worker
            held.misses = 0 if held.worker in seen.alive else held.misses + 1
            if held.misses >= _MISSES:
                await self._lost(held, now)
        elif now > held.start_by + HOLD_MARGIN_SECONDS:
            held.fail(self._gave_up(held, begun=held.published < self._continuity.broken_at))
        elif now - held.published > _BEGUN_SECONDS and held.job.attempt < MOST_ATTEMPTS and self._gone(held, seen):
            await self._hand_in_again(held, "message_lost")

    def _gone(self, held: Held, seen: _Seen) -> bool:
        """Whether the message of a job that nobody began is not in the queue any more."""
        return seen.empty or (seen.next_published is not None and seen.next_published > held.published)

    async def _lost(self, held: Held, now: float) -> None:
        """The worker that has the job is dead."""
        about = {"job": held.job.id, "account": held.job.owner, "attempt": held.job.attempt}
        log.warning("worker lost", worker=held.worker, **about)
        held.lost, held.worker, held.misses = held.worker, "", 0
        if held.job.attempt < MOST_ATTEMPTS and now < held.start_by:
            await self._hand_in_again(held, "worker_lost")
        else:
            held.fail(self._gave_up(held, begun=True))

    async def _hand_in_again(self, held: Held, reason: str) -> None:
        job = held.job.model_copy(update={"attempt": held.job.attempt + 1, "start_by": held.start_by})
        held.published = self._clock.now()
        await publish(self._client, job.id, self._sealer.seal(job.content()), held.published)
        held.job = job
        metrics.RESUBMITTED.labels(reason).inc()
        log.info("job handed in again", job=job.id, account=job.owner, reason=reason, attempt=job.attempt)

    async def gave_up(self, held: Held) -> DropoffError:
        """The answer to a request whose hold has ended without a verdict."""
        return self._gave_up(held, begun=await self.may_have_begun(held.job, held.published))

    def forgot(self, job: Job) -> bool:
        """Whether Redis may have lost, since `job` was submitted, what a worker has put on record there."""
        return job.submitted < self._continuity.broken_at

    async def may_have_begun(self, job: Job, published: float) -> bool:
        """Whether a worker may have begun `job`, which was published then, and so have written its file. Redis is asked
        for a moment; where it does not answer, or may have lost what it knew, that is not known."""
        try:
            async with asyncio.timeout(_LAST_LOOK_SECONDS):
                await self._continuity.look(self._client, self._clock.now())
                (claim,) = await self._claims.look([job.id])
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            return True
        return claim is not None or published < self._continuity.broken_at

    def _gave_up(self, held: Held, *, begun: bool) -> DropoffError:
        """`begun` says that a worker may have begun the job, although none is known to have."""
        job = held.job
        remains = (
            f"The test file {job.key} may have been left behind: it is on record as leftover {job.id}, and removed as "
            "soon as that can be done."
        )
        if held.worker or held.lost:
            return VerificationTimedOut(
                f"The verification was started and did not end in time, which is our fault: {_NOTHING}. {remains}",
                job=job.id,
                object=job.key,
            )
        if begun:
            return Unavailable(
                f"The job queue lost the verification, or does not answer: {_NOTHING}, try again shortly. {remains}",
                job=job.id,
                object=job.key,
            )
        return Unavailable(f"No worker was free to verify the destination: {_NOTHING}, try again shortly.", job=job.id)
