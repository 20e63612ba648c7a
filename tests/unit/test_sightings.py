"""What is remembered of keys and of failing services, on a real Redis, and what becomes of it without one."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from app.domain.faults import Fault
from app.domain.verification import Report
from app.messages.clock import Clock
from app.messages.connections import connect
from app.messages.job import Job
from app.messages.sealing import Sealer, new_key
from tests.servers.odd import dead_url
from tests.stack import patient
from tests.types.every import GOOD
from workers.sightings import NEW_SECONDS, STAYING, Sightings

SEALER = Sealer((new_key(),))


class LaterClock(Clock):
    """One that a test moves on."""

    later = 0.0

    def now(self) -> float:
        return time.time() + self.later


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with patient(redis_url) as client:
        await client.flushdb()
        yield client


def job(kind: str = "s3", account: int = 1, **changes: str) -> Job:
    spec = {"type": kind, **GOOD[kind], **changes}
    now = time.time()
    return Job(
        id="j", account=account, spec=spec, key="k", submitted=now, start_by=now, deadline=now, reply_to="r",
    )  # fmt: skip


def report(code: Fault | None = None, **changes: Any) -> Report:
    parts = {"message": "m", "type": "s3", "host": "h", "object": "k", "duration_ms": 1, "job": "j", "steps": ()}
    return Report(**{"ok": code is None, "code": code, **parts, **changes})


async def test_a_key_is_new_for_some_minutes_from_when_it_was_first_seen(client: Redis) -> None:
    clock = LaterClock()
    sightings = Sightings(client, clock, SEALER)
    assert await sightings.is_new(job())
    await sightings.seen(job())
    for clock.later, new in ((NEW_SECONDS - 10, True), (NEW_SECONDS + 10, False)):
        assert await sightings.is_new(job()) == new
        await sightings.seen(job())
    assert not await sightings.is_new(job(s3_bucket_name="another", s3_secret_access_key="another"))
    assert await sightings.is_new(job(s3_access_key_id="AKIAIOSFODNN7ANOTHER"))
    assert await sightings.is_new(job(account=2)), "one account tells nothing to another"


async def test_nobody_reads_a_key_out_of_what_is_remembered(client: Redis) -> None:
    for kind in GOOD:
        sightings = Sightings(client, Clock(), SEALER)
        await sightings.seen(job(kind))
        await sightings.staying(job(kind), report(Fault.THROTTLED))
        kept = " ".join(await client.keys("*"))
        assert not [value for value in GOOD[kind].values() if isinstance(value, str) and value in kept]
    for key in await client.keys("*"):
        assert 0 < await client.ttl(key) <= 24 * 3600


@pytest.mark.parametrize("code", sorted(STAYING))
async def test_a_failure_that_comes_again_is_said_to_stay(client: Redis, code: Fault) -> None:
    sightings = Sightings(client, Clock(), SEALER)
    first = await sightings.staying(job(), report(code))
    assert first.message == "m"
    for count in (2, 3):
        again = await sightings.staying(job(s3_path_prefix=f"folder {count}"), report(code, left_behind=True))
        assert f"each of the last {count} verifications" in again.message and "try again" not in again.message
        assert again.message.endswith("The test file k may have been left behind: remove it if it is there.")
        assert (again.code, again.ok) == (code, False)
    # Of another bucket, and of another account's, nothing is known.
    assert (await sightings.staying(job(s3_bucket_name="another"), report(code))).message == "m"
    assert (await sightings.staying(job(account=2), report(code))).message == "m"
    # Anything else in between, and it does not stay.
    await client.delete(sightings.failing(job()))
    assert (await sightings.staying(job(), report(code))).message == "m"


async def test_without_redis_nothing_is_known_and_nothing_breaks() -> None:
    async with connect(dead_url().replace("http:", "redis:")) as client:
        sightings = Sightings(client, Clock(), SEALER)
        assert not await sightings.is_new(job())
        assert (await sightings.staying(job(), report(Fault.THROTTLED))).message == "m"


async def test_what_somebody_else_wrote_there_is_nothing_known(client: Redis) -> None:
    sightings = Sightings(client, Clock(), SEALER)
    await sightings.staying(job(), report(Fault.THROTTLED))
    await sightings.seen(job())
    for key in await client.keys("*"):
        await client.set(key, "rubbish")
    assert not await sightings.is_new(job())
    assert (await sightings.staying(job(), report(Fault.THROTTLED))).message == "m"
