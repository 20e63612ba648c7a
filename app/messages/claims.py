"""Who has begun a job, and what came of it, so that a job which was handed in twice is carried out once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from app.messages.keys import HELD, INTENTS, UNSETTLED, WORKERS, claim_key, intent_key, slots_key

ALIVE_SECONDS = 4.5
"""A worker whose last heartbeat is older than this is taken for dead by those that wait for its jobs."""

# A claim is "W:WORKER TOKEN" while a worker has the job, and "D:REPLY" with the sealed reply when it is done. The one
# of a worker that is dead may be taken over. The token tells a call that arrives twice from another delivery's, and is
# the name of the intent, which is on record before the worker is told that it may begin. A slot that a job has when it
# is done was taken by a call that arrived a second time, as its message did, and is given back by who takes that.
_CLAIM = """
local own = 'W:' .. ARGV[1] .. ' ' .. ARGV[2]
local claim = redis.call('SET', KEYS[1], own, 'NX', 'GET', 'EX', ARGV[3])
if claim and claim ~= own then
  if string.sub(claim, 1, 2) == 'D:' then
    redis.call('ZREM', KEYS[5], ARGV[6])
    redis.call('ZREM', KEYS[6], ARGV[6])
    return 0
  end
  local worker = string.match(claim, '^W:(%S+)')
  local seen = worker and redis.call('ZSCORE', KEYS[2], worker)
  if seen and tonumber(redis.call('TIME')[1]) - tonumber(seen) < tonumber(ARGV[4]) then return 0 end
  redis.call('SET', KEYS[1], own, 'EX', ARGV[3])
end
if ARGV[5] ~= '' then
  redis.call('SET', KEYS[4], ARGV[5])
  redis.call('ZADD', KEYS[3], redis.call('TIME')[1], ARGV[2])
end
return 1
"""

# All that the end of a job writes, at once: its slot is free before who waits for it can ask for another. An intent
# that is not there was taken for an orphan meanwhile, and maybe handed over by who removed its file.
_FINISH = """
local on_record = redis.call('ZREM', KEYS[1], ARGV[1])
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[3], ARGV[4])
  redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
  if KEYS[8] then redis.call('DEL', unpack(KEYS, 8)) end
else
  redis.call('DEL', KEYS[3], unpack(KEYS, 8))
  if on_record == 0 then redis.call('ZREM', KEYS[2], ARGV[1]) end
end
redis.call('ZREM', KEYS[6], ARGV[6])
redis.call('ZREM', KEYS[7], ARGV[6])
redis.call('SET', KEYS[4], 'D:' .. ARGV[2], 'EX', ARGV[3])
redis.call('RPUSH', KEYS[5], ARGV[2])
redis.call('EXPIRE', KEYS[5], ARGV[3])
"""


@dataclass(frozen=True)
class Claim:
    """What is known of a job that was begun: by which `worker`, or its sealed `reply`."""

    worker: str = ""
    reply: bytes = b""


class Claims:
    """Claims are remembered for `seconds`. Every method raises what the client raises, RedisError or OSError."""

    def __init__(self, client: Redis, seconds: float) -> None:
        """`client` must not decode what it reads."""
        self._client = client
        self._seconds = round(seconds)
        self._claim = client.register_script(_CLAIM)
        self._finish = client.register_script(_FINISH)

    async def take(self, job: str, worker: str, token: str, intent: str = "", *, account: int) -> bool:
        """Claim `job` of `account` for `worker`; False where it is done, or a living worker has it. `intent`, a sealed
        job, is on record by `token` then, until `finish`."""
        keys = (claim_key(job), WORKERS, INTENTS, intent_key(token), slots_key(account), HELD)
        arguments = (worker, token, self._seconds, ALIVE_SECONDS, intent, job)
        return bool(await self._claim(keys=keys, args=arguments))

    async def finish(
        self,
        job: str,
        reply_to: str,
        reply: str,
        *,
        account: int,
        token: str,
        left: str | None = None,
        at: float = 0.0,
        forget: Sequence[str] = (),
    ) -> None:
        """Hand `reply` to who waits for it, and keep it for one that did not get it; give back the slot of `account`
        that the job has. The intent `token` is over; with
        `left`, a sealed job, it is not settled `at` this time, and is to be taken into the database. The keys `forget`
        are deleted with it."""
        keys = (INTENTS, UNSETTLED, intent_key(token), claim_key(job), reply_to, slots_key(account), HELD, *forget)
        await self._finish(keys=keys, args=(token, reply, self._seconds, left or "", at, job))

    async def look(self, jobs: Sequence[str]) -> list[Claim | None]:
        """The claim of each of `jobs`, of which there is at least one; None where it was not begun."""
        return [_read(each) for each in await self._client.mget([claim_key(job) for job in jobs])]


def _read(claim: Any) -> Claim | None:
    match (claim or b"").partition(b":"):
        case (b"W", _, who):
            return Claim(worker=who.partition(b" ")[0].decode(errors="replace"))
        case (b"D", _, reply):
            return Claim(reply=reply)
    return None
