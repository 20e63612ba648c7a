"""Heartbeats: what each worker says of itself every other second, and how many jobs and requests wait."""

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis

from app.messages.broker import NotOurs, opened
from app.messages.clock import Clock
from app.messages.keys import HELD, QUEUE, WORKERS, heartbeat_key

EVERY_SECONDS = 1.5
ALIVE_SECONDS = 15.0
"""A worker that was not heard of for longer is not listed any more; those who wait for its jobs are less patient."""


class Heartbeat(BaseModel):
    """What a worker process says: it carries out `running` jobs and has room for `jobs`, and reads the queue if
    `reading`. `at` is when it said so, `since` when it began, in seconds since the epoch by Redis' clock, of which its
    own is `clock_offset` seconds ahead. `deliveries` says that it is one of those that deliver files, and verifies
    nothing."""

    model_config = ConfigDict(frozen=True)

    worker: str
    jobs: int
    running: int
    reading: bool
    since: float
    at: float
    clock_offset: float
    deliveries: bool = False


class Heartbeats:
    """Given by workers, read by whoever wants to know. Every method raises what Redis raises."""

    def __init__(self, client: Redis, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def give(self, heartbeat: Heartbeat) -> None:
        """Say that a worker is there, and be told the time."""
        sent = time.monotonic()
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.zadd(WORKERS, {heartbeat.worker: heartbeat.at})
            pipe.zremrangebyscore(WORKERS, "-inf", heartbeat.at - ALIVE_SECONDS)
            pipe.expire(WORKERS, round(ALIVE_SECONDS))
            pipe.set(heartbeat_key(heartbeat.worker), heartbeat.model_dump_json(), ex=round(ALIVE_SECONDS))
            answer, *_ = await pipe.execute()
        self._clock.set(answer, sent)

    async def withdraw(self, worker: str) -> None:
        """Say that it has ended."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.zrem(WORKERS, worker)
            pipe.delete(heartbeat_key(worker))
            await pipe.execute()

    async def alive(self, *, deliveries: bool | None = False) -> list[Heartbeat]:
        """The workers that verify, or those that deliver, or all where that is None, which were heard of within
        ALIVE_SECONDS, by name."""
        names: Any = await self._client.zrangebyscore(WORKERS, self._clock.now() - ALIVE_SECONDS, "+inf")
        said = await self._client.mget([heartbeat_key(str(name)) for name in sorted(names)]) if names else []
        read = [heartbeat for each in said if each and (heartbeat := _read(each))]
        return [heartbeat for heartbeat in read if deliveries in (None, heartbeat.deliveries)]

    async def waiting(self) -> int:
        """How many jobs no worker has taken yet."""
        return await self._client.llen(QUEUE)

    async def held(self) -> int:
        """How many requests are held, on all processes together."""
        return await self._client.zcount(HELD, self._clock.now(), "+inf")

    async def oldest(self) -> float | None:
        """When the message was published that is taken next, in seconds since the epoch; None where none waits or it
        is not one of ours."""
        # Messages are put in at the left and taken out at the right.
        message = await self._client.lindex(QUEUE, -1)
        try:
            return opened(message.encode() if isinstance(message, str) else message).published if message else None
        except NotOurs:
            return None


def _read(said: str | bytes) -> Heartbeat | None:
    """None for what a worker of another release may say."""
    try:
        return Heartbeat.model_validate_json(said)
    except ValidationError:
        return None
