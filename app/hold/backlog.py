"""Whether the workers keep up: what could not be begun in time is refused at once, and not after it was held."""

import asyncio
import math
import time
from collections import deque

import structlog
from redis.asyncio import Redis

from app.domain.errors import Unavailable
from app.hold.continuity import Continuity
from app.messages.broker import NotOurs, opened
from app.messages.claims import ALIVE_SECONDS
from app.messages.clock import Clock
from app.messages.keys import QUEUE, WORKERS
from app.observe.background import Background

log = structlog.get_logger()

LOOK_SECONDS = 0.3
IDLE_SECONDS = 5.0
BELIEVED_SECONDS = 1.0
"""How long it holds what a look has found: nobody looks while nobody asks, or while Redis does not answer."""
# Between two looks. After more than that nobody knows whether the workers could have taken what waits.
_GAP_SECONDS = 2.0
# The share of the time that a job has to be begun, from which on the queue takes no more: between two looks it grows.
_FULL = 0.5
# The same of the time that one will have waited which comes now.
_FULL_SOON = 0.8
# How far back it is looked how fast the queue goes.
_PACE_SECONDS = 3.0
# A job that waited for less than this tells of a busy moment, and of nothing else, however short the hold is.
_LEAST_SECONDS = 3.0


class Backlog:
    """Looks at the age of the job that is taken next, and at how fast the queue goes: that is how long one waits that
    comes now; only while there is somebody who asks. Without a worker nothing is refused: one may start, and what
    is held then is begun in time. Only the time counts in which the job was seen to wait: what Redis brings back after
    a restart, or could not give away while it was frozen or cut off, says nothing about the workers.
    `client` must not decode what it reads; `start_seconds` is how long after its submission a job may be begun."""

    def __init__(self, client: Redis, clock: Clock, *, start_seconds: float) -> None:
        self._client = client
        self._clock = clock
        self._least = min(start_seconds, _LEAST_SECONDS)
        self._bound = max(start_seconds * _FULL, self._least)
        self._bound_soon = max(start_seconds * _FULL_SOON, self._least)
        self._put_in = 0
        # When it was looked, when the job was published that was to be taken next then, how many waited, and how many
        # this process had put in by then.
        self._heads: deque[tuple[float, float, int, int]] = deque()
        self._continuity = Continuity()
        self._looked = self._watched_since = float("-inf")
        self._asked = float("-inf")
        self._wanted = asyncio.Event()
        self._full_until = float("-inf")
        self.looking = Background("backlog", self._look)

    def require_room(self) -> None:
        """Raises Unavailable where the workers have so many jobs before them that another would be begun too late."""
        self._asked = time.monotonic()
        self._wanted.set()
        if self.is_full():
            raise Unavailable(
                "The workers have more to verify than they can in time: nothing was created or changed, try again "
                "shortly."
            )

    def put_in(self) -> None:
        """This process has put a job into the queue."""
        self._put_in += 1

    def is_full(self) -> bool:
        """Whether that was so at the last look; nobody looks for whoever only asks this."""
        return time.monotonic() < self._full_until

    async def _look(self) -> None:
        await self._wanted.wait()
        if time.monotonic() - self._asked > IDLE_SECONDS:
            self._wanted.clear()
        full = False
        try:
            full = await self._full()
        finally:
            # Where Redis does not answer, nothing is known any more.
            now = time.monotonic()
            if full and now > self._full_until:
                log.warning("the workers do not keep up")
            self._full_until = now + BELIEVED_SECONDS if full else now
        await asyncio.sleep(LOOK_SECONDS)

    async def _full(self) -> bool:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.zcount(WORKERS, self._clock.now() - ALIVE_SECONDS, "+inf")
            # Messages are put in at the left and taken out at the right.
            pipe.lindex(QUEUE, -1)
            pipe.lindex(QUEUE, 0)
            pipe.llen(QUEUE)
            put_in = self._put_in
            self._continuity.ask(pipe)
            workers, first, last, depth, *told = await pipe.execute()
        looked, now = time.monotonic(), self._clock.now()
        self._continuity.note(told, now)
        if looked - self._looked > _GAP_SECONDS:
            self._watched_since = now
        self._looked = looked
        seen = max(self._watched_since, self._continuity.broken_at)
        head = _published(first)
        age = now - max(head, seen)
        if not workers:
            # How long it stood still without one says nothing about the next.
            self._heads.clear()
            return False
        waits = self._waits(now, head, _published(last), seen, depth, put_in)
        return age > self._bound or (age > self._least and waits > self._bound_soon)

    def _waits(self, now: float, first: float, last: float, seen: float, depth: int, put_in: int) -> float:
        """How long one waits that comes now, behind `depth` that were published from `first` to `last`, where the queue
        goes on as fast as it did in the last seconds since `seen`; 0 where it is not known how fast that is.

        By the times of those that are taken it seems to be long while those are taken that came all at once, and by
        their number where others put in more than this process knows of: the shorter of the two counts.
        """
        if first == math.inf:
            self._heads.clear()
            return 0
        while self._heads and (self._heads[0][0] < max(seen, now - _PACE_SECONDS - LOOK_SECONDS)):
            self._heads.popleft()
        self._heads.append((now, first, depth, put_in))
        since, before, depth_before, put_in_before = self._heads[0]
        if now - since < _PACE_SECONDS - LOOK_SECONDS or first <= before or last == math.inf:
            return 0
        by_times = (last - first) * (now - since) / (first - before)
        taken = depth_before - depth + put_in - put_in_before
        return min(by_times, depth * (now - since) / taken) if taken > 0 else by_times


def _published(message: bytes | None) -> float:
    """When the message was published, by Redis' clock; endlessly later where it is none of ours."""
    try:
        return opened(message).published if message else math.inf
    except NotOurs:
        return math.inf
