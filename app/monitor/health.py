"""Whether this deployment can do its work: the database, its schema, Redis, and a worker that reads the queue."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis.exceptions
from redis.asyncio import Redis

from app.domain.errors import DropoffError
from app.messages.clock import TOLERATED_SECONDS, Clock
from app.monitor.heartbeats import ALIVE_SECONDS, Heartbeat, Heartbeats


@dataclass(frozen=True)
class Check:
    """One thing that is needed; `detail` says what is wrong and what to do, or what was found."""

    name: str
    ok: bool
    detail: str


class Health:
    """Looks at each part anew whenever it is asked."""

    def __init__(
        self, database: Callable[[], Awaitable[None]], redis: Redis, clock: Clock, *, delivers: bool = False
    ) -> None:
        """`database` raises what is wrong with the database or its schema, as DropoffError; `delivers` says that result
        sets are taken here."""
        self._require_database = database
        self._redis = redis
        self._heartbeats = Heartbeats(redis, clock)
        self._clock = clock
        self._delivers = delivers

    async def checks(self) -> list[Check]:
        """Every check once, in the order in which to mend them."""
        checks = {"database": self._database, "redis": self._ping, "workers": self._workers}
        checks |= {"delivery": self._deliveries} if self._delivers else {}
        checks |= {"clocks": self._clocks}
        # At once: while Redis is frozen, each that asks it takes as long as a call of its may.
        return await asyncio.gather(*(_checked(name, check) for name, check in checks.items()))

    async def _database(self) -> str:
        await self._require_database()
        return "answers, and has this release's schema"

    async def _ping(self) -> str:
        await self._redis.ping()
        return f"answers; {await self._heartbeats.waiting()} jobs wait in the queue"

    async def _workers(self) -> str:
        alive = [heartbeat for heartbeat in await self._heartbeats.alive() if heartbeat.reading]
        if not alive:
            raise _Wrong(
                f"none that reads the queue was heard of for {ALIVE_SECONDS:g} seconds: start one with `dropoff worker`"
            )
        return "; ".join(map(_described, alive))

    async def _deliveries(self) -> str:
        """Told, and no reason not to be ready: without such a worker deliveries wait, and creates do not."""
        alive = [heartbeat for heartbeat in await self._heartbeats.alive(deliveries=True) if heartbeat.reading]
        none = "wait, since no worker delivers them: start one with `dropoff worker --deliveries`"
        return "; ".join(map(_described, alive)) or none

    async def _clocks(self) -> str:
        """Told, and no reason not to be ready: nothing here goes by a machine's own clock."""
        offsets = {worker.worker: worker.clock_offset for worker in await self._heartbeats.alive(deliveries=None)}
        offsets["this process"] = self._clock.offset
        off = [f"{name} is {offset:+.1f} s" for name, offset in offsets.items() if abs(offset) > TOLERATED_SECONDS]
        return f"off from Redis' clock: {'; '.join(off)}: mend NTP there" if off else "agree with Redis' clock"


class _Wrong(Exception):
    """The message is the check's detail."""


def _described(heartbeat: Heartbeat) -> str:
    return f"{heartbeat.worker} carries out {heartbeat.running} of at most {heartbeat.jobs} jobs"


async def _checked(name: str, check: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(name, True, await check())
    except (DropoffError, _Wrong) as error:
        return Check(name, False, str(error))
    except (redis.exceptions.RedisError, OSError) as error:
        return Check(name, False, f"does not answer ({type(error).__name__})")
