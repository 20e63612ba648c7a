"""Signs of life: what each worker says of itself every few seconds, and how many jobs and requests wait."""

import json
import time

from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis

from app.jobs.board import job_key
from app.jobs.queue import HELD, QUEUE

EVERY_SECONDS = 5.0
ALIVE_SECONDS = 15.0
_WORKERS = "dropoff:workers"


class Sign(BaseModel):
    """What a worker process says: it reads the queue, and carries out `running` jobs where it may `threads`. `at` is
    when it said so, `since` when it began, in seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    worker: str
    threads: int
    running: int
    since: float
    at: float


class Signs:
    """Given by workers, read by whoever wants to know. Every method raises what Redis raises."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def give(self, sign: Sign) -> None:
        """Say that a worker is there."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(_WORKERS, {sign.worker: sign.at})
            pipe.zremrangebyscore(_WORKERS, "-inf", sign.at - ALIVE_SECONDS)
            pipe.expire(_WORKERS, round(ALIVE_SECONDS))
            pipe.set(_key(sign.worker), sign.model_dump_json(), ex=round(ALIVE_SECONDS))
            await pipe.execute()

    async def take_back(self, worker: str) -> None:
        """Say that it has ended."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrem(_WORKERS, worker)
            pipe.delete(_key(worker))
            await pipe.execute()

    async def alive(self) -> list[Sign]:
        """The workers that gave a sign within ALIVE_SECONDS, by name."""
        names = await self._redis.zrangebyscore(_WORKERS, time.time() - ALIVE_SECONDS, "+inf")
        found = await self._redis.mget([_key(str(name)) for name in sorted(names)]) if names else []
        return [Sign.model_validate_json(each) for each in found if each]

    async def waiting(self) -> int:
        """How many jobs no worker has taken yet."""
        return await self._redis.llen(QUEUE)

    async def held(self) -> int:
        """How many requests are held, on all processes together."""
        return await self._redis.zcount(HELD, time.time(), "+inf")

    async def oldest(self) -> float | None:
        """When the job was submitted that has waited for the longest, in seconds since the epoch; None where none
        waits or nothing is known of it."""
        # Celery puts messages in at the left and takes them out at the right.
        message = await self._redis.lindex(QUEUE, -1)
        job = json.loads(message)["headers"]["id"] if message else ""
        submitted = await self._redis.hget(job_key(job), "submitted")
        return int(submitted) / 1e6 if submitted else None


def _key(worker: str) -> str:
    return f"dropoff:worker:{worker}"
