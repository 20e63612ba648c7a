"""How many verifications may be under way: so many of an account on all processes, so many on this one."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

import redis.exceptions
import structlog
from redis.asyncio import Redis

from app.domain.errors import TooManyVerifications, Unavailable
from app.messages.clock import Clock
from app.messages.keys import HELD, QUEUE, slots_key
from app.observe import metrics
from app.observe.background import Background

log = structlog.get_logger()

# How long an answer waits for its slot to be free again, so that the same client's next call finds it so.
_RELEASE_SECONDS = 1.0

# Takes a slot of an account, of which there are ARGV[1], and one of all that are held, up to the time ARGV[4], and puts
# the message ARGV[8] on the queue; what a dead process took is over by then. One script, so that two requests cannot
# take the last one; a call that arrives twice takes one, and its job is carried out once. What is over is looked for
# where it matters: an account's when it has no more, everybody's now and then. An account's set is told when it expires
# where it is new, and once a second, for a second longer.
_TAKE = """
local under_way = redis.call('ZCARD', KEYS[1])
if under_way >= tonumber(ARGV[1]) then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
  if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) and not redis.call('ZSCORE', KEYS[1], ARGV[2]) then return 0 end
end
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[2])
if under_way == 0 or ARGV[6] == '1' then redis.call('EXPIREAT', KEYS[1], ARGV[5] + 1) end
if ARGV[7] == '1' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])
  redis.call('EXPIREAT', KEYS[2], ARGV[5] + 1)
end
redis.call('LPUSH', KEYS[3], ARGV[8])
return 1
"""


@dataclass
class Slot:
    """One that is taken. `free` says that the worker gave it back, with its reply."""

    free: bool = False


class Slots:
    """`per_account` are an account's, `in_process` those of this process, `seconds` the longest that one is taken."""

    def __init__(self, client: Redis, clock: Clock, *, per_account: int, in_process: int, seconds: float) -> None:
        self._client = client
        self._clock = clock
        self._take = client.register_script(_TAKE)
        self._per_account = per_account
        self._in_process = in_process
        self._seconds = seconds
        self._taken = 0
        self._told_at = 0.0
        # The accounts whose set was told to expire since then.
        self._told: set[int] = set()
        self._released: dict[str, tuple[int, asyncio.Event]] = {}
        self._any = asyncio.Event()
        self.releasing = Background("slots", self._release)

    @contextlib.asynccontextmanager
    async def taken(self, account: int, job: str, message: str, at_once: int | None = None) -> AsyncIterator[Slot]:
        """Have `job`, which `message` carries, on the queue, and a slot of `account`, which has `at_once` where it has
        a number of its own, while the block lasts.

        Raises TooManyVerifications where the account has no more, Unavailable where this process holds as many requests
        as it may or Redis does not answer.
        """
        if self._taken >= self._in_process:
            raise Unavailable(
                "This process holds as many requests as it may: nothing was created or changed, try again shortly."
            )
        self._taken += 1
        limit = self._per_account if at_once is None else at_once
        slot, given, waits = Slot(), True, False
        try:
            given = waits = await self._admit(account, job, message, limit)
            # It would be in memory for as long as the request is held.
            del message
            if not given:
                raise TooManyVerifications(
                    f"This account has {limit} verifications under way, which is as many as it may have: "
                    "nothing was created or changed, try again when one has ended."
                )
            yield slot
        finally:
            self._taken -= 1
            # Also where the caller left while the slot was being taken: whether Redis gave it is not known then.
            if given and not slot.free:
                free = self._give_back(account, job)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RELEASE_SECONDS if waits else 0):
                        await free.wait()

    def _give_back(self, account: int, job: str) -> asyncio.Event:
        """Have the slot released; the event is set when it is."""
        free = asyncio.Event()
        self._released[job] = account, free
        self._any.set()
        return free

    async def _admit(self, account: int, job: str, message: str, limit: int) -> bool:
        now = self._clock.now()
        until = now + self._seconds
        # Once a second everybody's are looked through, and told to expire, which is a second later for that reason.
        tell = now - self._told_at >= 1
        if tell:
            self._told_at = now
            self._told.clear()
        arguments = (limit, job, now, until, math.ceil(until), int(account not in self._told), int(tell), message)
        self._told.add(account)
        try:
            return bool(await self._take(keys=[slots_key(account), HELD, QUEUE], args=arguments))
        except (redis.exceptions.RedisError, OSError) as error:
            self._told.discard(account)
            metrics.NOT_PUBLISHED.inc()
            log.warning("job not published", job=job, error=type(error).__name__)
            raise Unavailable(
                "The job queue does not answer: nothing was created or changed, try again shortly.", job=job
            ) from error

    async def _release(self) -> None:
        """Give back all that was released since the last time, in one round trip; what failed is tried again."""
        await self._any.wait()
        self._any.clear()
        batch = dict(self._released)
        if not batch:
            return
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for job, (account, _) in batch.items():
                    pipe.zrem(slots_key(account), job)
                pipe.zrem(HELD, *batch)
                await pipe.execute()
        except BaseException:
            self._any.set()
            raise
        for job, (_, free) in batch.items():
            del self._released[job]
            free.set()
