"""Whether this deployment can do its work: the database, its schema, Redis, and a worker that reads the queue."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis.exceptions
from redis.asyncio import Redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import Unavailable
from app.jobs.signs import ALIVE_SECONDS, Sign, Signs
from app.store.engine import SchemaMismatch, require_schema


@dataclass(frozen=True)
class Check:
    """One thing that is needed; `detail` says what is wrong and what to do, or what was found."""

    name: str
    ok: bool
    detail: str


class Health:
    """Looks at each part anew whenever it is asked."""

    def __init__(self, engine: AsyncEngine, redis: Redis) -> None:
        self._engine = engine
        self._redis = redis
        self._signs = Signs(redis)

    async def checks(self) -> list[Check]:
        """Every check once, in the order in which to mend them."""
        return [
            await _checked("database", self._database),
            await _checked("redis", self._ping),
            await _checked("workers", self._workers),
        ]

    async def _database(self) -> str:
        await require_schema(self._engine)
        return "answers, and has this release's schema"

    async def _ping(self) -> str:
        await self._redis.ping()
        return f"answers; {await self._signs.waiting()} jobs wait in the queue"

    async def _workers(self) -> str:
        alive = await self._signs.alive()
        if not alive:
            raise _Wrong(
                f"none has given a sign of life for {ALIVE_SECONDS:g} seconds: start one with `dropoff worker`"
            )
        return "; ".join(map(_told, alive))


class _Wrong(Exception):
    """The message is the check's detail."""


def _told(sign: Sign) -> str:
    return f"{sign.worker} carries out {sign.running} of at most {sign.threads} jobs"


async def _checked(name: str, check: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(name, True, await check())
    except (SchemaMismatch, Unavailable, _Wrong) as error:
        return Check(name, False, str(error))
    except (redis.exceptions.RedisError, DBAPIError, OSError) as error:
        return Check(name, False, f"does not answer ({type(error).__name__})")
