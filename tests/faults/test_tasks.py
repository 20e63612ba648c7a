"""Celery's edge by itself: whatever breaks, the customer is answered and the log has the cause."""

import itertools
import time
from typing import Any

import pytest
from redis.asyncio import Redis as AsyncRedis

from app.domain.types.base import Spec
from app.domain.verification import Location, Report, Step
from app.messages.claims import Claims
from app.messages.clock import Clock
from app.messages.job import Job, Reply
from app.messages.sealing import Sealer, new_key
from app.monitor.board import Board
from tests.faults.test_steps import denied
from tests.faults.verifying import BODIES, BOUND, WITHIN, providers, spec_of
from tests.servers.odd import answering
from tests.types.every import STORAGES
from workers import sightings
from workers import verify as verifying
from workers.sightings import Sightings
from workers.storage.port import Provider
from workers.tasks import Verifications

SEALER = Sealer((new_key(),))
ids = (f"job-{number}" for number in itertools.count())


class Broken:
    """A provider with a mistake in it."""

    def host(self, spec: Spec) -> str:
        return "broken"

    async def open(self, spec: Spec, location: Location) -> Any:
        raise RuntimeError("SENTINEL")


async def carried_out(
    redis_url: str, provider: Provider, propagation_seconds: float = 0, **changes: Any
) -> list[Report]:
    """What came onto the reply list when a job was carried out by `provider`."""
    sealer = SEALER

    async def provider_for(_: Spec) -> Provider:
        return provider

    now = time.time()
    parts = {"id": next(ids), "account": 1, "spec": BODIES["oss"], "key": "k", "reply_to": "replies"}
    parts |= {"submitted": now, "start_by": now + BOUND, "deadline": now + 2 * BOUND, **changes}
    async with AsyncRedis.from_url(redis_url) as redis:
        claims, clock = Claims(redis, 60), Clock()
        board = Board(redis, clock, jobs=100, worker="w")

        async def provider_for(_: Spec) -> Provider:
            return provider

        seen = Sightings(redis, clock, sealer)
        verifications = Verifications(
            "w", sealer, provider_for, claims, clock, board, seen, BOUND, propagation_seconds=propagation_seconds
        )
        await verifications.carry_out(sealer.seal(Job(**parts).content()))
        popped = await redis.lrange("replies", 0, -1)
        await redis.delete("replies")
    return [Reply.model_validate(sealer.open(sealed)).report for sealed in popped]


async def test_a_mistake_of_ours_is_answered_as_one_and_shows_nothing(redis_url: str) -> None:
    (report,) = await carried_out(redis_url, Broken())
    assert (report.ok, report.code, report.job) == (False, "internal_error", report.job)
    assert report.left_behind, "how far it came is not known"
    assert "SENTINEL" not in report.model_dump_json()


async def test_a_caller_of_the_release_before_is_told_of_no_step_that_it_does_not_know(redis_url: str) -> None:
    (known,) = await carried_out(redis_url, Broken(), multipart=False)
    (before,) = await carried_out(redis_url, Broken())
    assert [each.step for each in known.steps] == list(Step)
    assert [each.step for each in before.steps] == [each for each in Step if each is not Step.MULTIPART]


async def test_a_job_whose_time_is_over_is_not_answered(redis_url: str) -> None:
    assert await carried_out(redis_url, Broken(), start_by=time.time() - 1) == []


async def test_a_store_that_fails_again_is_told_to_stay_so(redis_url: str) -> None:
    broken = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    with answering(broken) as host:
        async with providers(host.url) as provider_for:
            provider = await provider_for(spec_of("oss", host.url))
            (first,), (second,) = [await carried_out(redis_url, provider) for _ in range(2)]
            host.firsts = [next(row.answer for row in STORAGES["oss"].rows if row.fault == "write_denied")]
            (other,), (again,) = [await carried_out(redis_url, provider) for _ in range(2)]
    assert first.code == second.code == "provider_unavailable"
    assert "try again in a few minutes" in first.message and first.object in first.message
    assert "each of the last 2 verifications" in second.message and "try again" not in second.message
    assert second.left_behind and second.object in second.message
    assert (other.code, again.code) == ("write_denied", "provider_unavailable")
    assert again.message == first.message.replace(first.object, again.object), "it has failed otherwise in between"


async def test_a_new_key_is_waited_for_and_an_old_one_is_not(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "_PAUSES", (0.02,))
    storage = STORAGES["oss"]
    refusal = next(row.answer for row in storage.rows if row.fault == "write_denied")
    spec = {**BODIES["oss"], "oss_access_key": "LTAI5tMadeAMinuteAgo"}
    with answering(storage.stored, DELETE=storage.deleted) as host:
        async with providers(host.url) as provider_for:
            provider = await provider_for(spec_of("oss", host.url))
            host.firsts = [refusal] * 3
            (first,) = await carried_out(redis_url, provider, WITHIN, spec=spec)
            monkeypatch.setattr(sightings, "NEW_SECONDS", 0.0)
            host.firsts = [refusal]
            (second,) = await carried_out(redis_url, provider, WITHIN, spec=spec)
    assert first.ok and first.attempts == 4, first
    assert second.code == "write_denied" and second.attempts is None, second


async def test_a_job_says_whether_a_file_may_remain(redis_url: str) -> None:
    storage = STORAGES["oss"]
    with answering(storage.stored, DELETE=denied("oss")) as host:
        async with providers(host.url) as provider_for:
            provider = await provider_for(spec_of("oss", host.url))
            told = [(await carried_out(redis_url, provider, lenient=lenient))[0] for lenient in (False, True)]
    assert [report.code for report in told] == ["delete_denied", None]
    assert all(report.left_behind for report in told)
