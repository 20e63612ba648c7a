"""Redis' time, which all processes of a deployment agree on whatever their machines' clocks say."""

import time
from collections.abc import Sequence

import structlog
from redis.asyncio import Redis

from app.observe import metrics

log = structlog.get_logger()

TOLERATED_SECONDS = 1.0
"""A clock that is further off than this is told; it harms nothing here, but request signatures go by it."""
# How much less a time is trusted for each second since it was asked for: an answer that took longer than the last one
# is taken over all the same after a while.
_DRIFT = 0.002


class Clock:
    """Goes by Redis' clock since the last `renew`; until there was one, by this machine's."""

    def __init__(self) -> None:
        self._at_zero = time.time() - time.monotonic()
        # As far as it may be wrong: the answer to TIME is as old as its way back.
        self._error, self._asked = float("inf"), time.monotonic()
        self.offset = 0.0
        """How far this machine's clock is ahead of Redis', in seconds."""

    def now(self) -> float:
        """Seconds since the epoch. What this machine's clock is set to meanwhile does not matter."""
        return self._at_zero + time.monotonic()

    @property
    def is_off(self) -> bool:
        return abs(self.offset) > TOLERATED_SECONDS

    async def renew(self, client: Redis) -> None:
        """Ask Redis for its time. Raises what the client raises, RedisError or OSError."""
        sent = time.monotonic()
        answer = await client.time()
        self.set(answer, sent)

    def set(self, answer: Sequence[int], sent: float) -> None:
        """Take over Redis' `answer` to TIME (seconds and microseconds), which was asked for at `sent` (monotonic)."""
        arrived = time.monotonic()
        error = (arrived - sent) / 2
        if error > self._error + (arrived - self._asked) * _DRIFT:
            return
        self._error, self._asked = error, arrived
        self._at_zero = answer[0] + answer[1] / 1e6 - (sent + arrived) / 2
        was_off, self.offset = self.is_off, time.time() - self.now()
        metrics.CLOCK_OFFSET.set(self.offset)
        if self.is_off and not was_off:
            log.warning("clock is off", seconds_ahead_of_redis=round(self.offset, 3))
        elif was_off and not self.is_off:
            log.info("clock is right again")
