"""What earlier verifications tell: since when a key is known, and how often in a row a bucket's service has failed."""

import contextlib

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.domain.faults import Fault, Role
from app.domain.types.base import Spec
from app.domain.verification import Report
from app.messages.clock import Clock
from app.messages.job import Job
from app.messages.keys import failing_key, key_seen_key
from app.messages.sealing import Sealer

NEW_SECONDS = 300.0
"""A key that was first seen longer ago is known to its provider by now."""
SEEN_SECONDS = 24 * 3600
FAILING_SECONDS = 3600
STAYING = frozenset({Fault.PROVIDER_UNAVAILABLE, Fault.THROTTLED})
"""What is told to pass, and may not."""


class Sightings:
    """Kept in Redis for all workers, for each account by itself, by keyed hashes: keys for a day, failures for an hour.

    Where Redis does not answer, nothing is known: a key counts as old, and a failure as the first.
    """

    def __init__(self, client: Redis, clock: Clock, sealer: Sealer) -> None:
        self._client = client
        self._clock = clock
        self._sealer = sealer

    async def is_new(self, job: Job) -> bool:
        """Whether the job's key was first seen within the last minutes."""
        with contextlib.suppress(RedisError, OSError, ValueError):
            seen = await self._client.get(self._seen(job))
            return seen is None or self._clock.now() - float(seen) < NEW_SECONDS
        return False

    async def staying(self, job: Job, report: Report) -> Report:
        """Note that the job ended with `report`, of a failure in STAYING. What is returned says that it stays, where it
        does."""
        failing, count = self.failing(job), 0
        with contextlib.suppress(RedisError, OSError):
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hincrby(failing, "count", 1)
                pipe.expire(failing, FAILING_SECONDS)
                count, *_ = await pipe.execute()
        return report.staying(job.spec, count) if count > 1 else report

    def failing(self, job: Job) -> str:
        """The key that counts the failures in a row of the job's bucket, under whatever prefix: to be deleted when one
        ends otherwise."""
        prefix = job.spec.parameter(Role.PREFIX)
        place = {name: value for name, value in job.spec.public().items() if name != prefix}
        return failing_key(self._fingerprint(job, place))

    async def seen(self, job: Job) -> None:
        """Note that the job's key was seen, where it matters since when."""
        if job.spec.has_slow_keys():
            with contextlib.suppress(RedisError, OSError):
                await self._client.set(self._seen(job), self._clock.now(), nx=True, ex=SEEN_SECONDS)

    def _seen(self, job: Job) -> str:
        return key_seen_key(self._fingerprint(job, _access_key(job.spec)))

    def _fingerprint(self, job: Job, content: object) -> str:
        return self._sealer.fingerprints([job.account, job.spec.type, content])[0]


def _access_key(spec: Spec) -> str:
    return spec.secrets()[spec.parameter(Role.KEY) or ""]
