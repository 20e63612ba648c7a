"""The intents: which test file each verification that was begun is about to write, on record until its delete is
confirmed, so that whoever survives removes it.

An intent is a sealed job under a name of its own. It is put on record by the claim that begins the job and taken off by
the reply (app.messages.claims). One that is still there after the verification must be over is an orphan, which any
worker takes. One whose file may remain is unsettled, which an API process takes into the database.
"""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from app.messages.keys import INTENTS, UNSETTLED, intent_key

ORPHANED_SECONDS = 15.0
"""How long after the longest that a verification may take its intent is an orphan: also the time that an upload, of
which the connection broke, has to arrive before the file is deleted."""

# Of several that found the same orphan one gets it; should that one die too, it is an orphan again in its turn.
_TAKE = """
local begun = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not begun or tonumber(begun) ~= tonumber(ARGV[2]) then return nil end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return redis.call('GET', KEYS[2]) or ''
"""


class Intents:
    """Every method raises what the client raises, RedisError or OSError. Times are by Redis' clock, in seconds."""

    def __init__(self, client: Redis) -> None:
        """`client` must not decode what it reads."""
        self._client = client
        self._take = client.register_script(_TAKE)

    async def take_orphans(self, begun_before: float, now: float, most: int) -> dict[str, bytes]:
        """The sealed jobs of at most `most` orphans, by intent, for the caller alone; empty where one was lost."""
        found: Any = await self._client.zrangebyscore(INTENTS, "-inf", begun_before, start=0, num=most, withscores=True)
        taken = {}
        for name, begun in found:
            intent = name.decode(errors="replace")
            keys = (INTENTS, intent_key(intent))
            sealed = await self._take(keys=keys, args=(intent, repr(begun), repr(now)))
            if sealed is not None:
                taken[intent] = sealed
        return taken

    async def unsettled(self, since: float, most: int) -> dict[str, bytes]:
        """The sealed jobs of at most `most` that have been unsettled since before `since`; empty where one was
        lost."""
        found: Any = await self._client.zrangebyscore(UNSETTLED, "-inf", since, start=0, num=most)
        intents = [name.decode(errors="replace") for name in found]
        sealed: Any = await self._client.mget([intent_key(intent) for intent in intents]) if intents else []
        return {intent: content or b"" for intent, content in zip(intents, sealed, strict=True)}

    async def settle(self, intents: Sequence[str]) -> None:
        """Take these off the record."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.zrem(INTENTS, *intents)
            pipe.zrem(UNSETTLED, *intents)
            pipe.delete(*map(intent_key, intents))
            await pipe.execute()

    async def hand_over(self, intent: str, sealed: str, at: float) -> None:
        """Have `intent` taken into the database, as the job that is `sealed`."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.set(intent_key(intent), sealed)
            pipe.zadd(UNSETTLED, {intent: at})
            pipe.zrem(INTENTS, intent)
            await pipe.execute()
