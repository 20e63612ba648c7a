"""Celery's edge by itself: whatever breaks, the customer is answered and the log has the cause."""

import time
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from app.domain.specs.base import Spec
from app.domain.verification import Found, Report
from app.jobs.board import Board
from app.jobs.queue import Job
from app.jobs.replies import Reply
from app.settings import Settings
from app.store.sealing import Sealer, new_key
from tests.faults.verifying import BODIES
from workers.providers.base import Provider
from workers.tasks import Verifications


class Broken:
    """A provider with a mistake in it."""

    def host(self, spec: Spec) -> str:
        return "broken"

    def needs_locating(self, spec: Spec, found: Found) -> bool:
        raise RuntimeError("SENTINEL")

    async def open(self, spec: Spec, found: Found) -> Any:
        raise RuntimeError("SENTINEL")


async def carried_out(redis_url: str, provider: Provider, **changes: Any) -> list[Report]:
    """What came onto the reply list when a job was carried out by `provider`."""
    sealer = Sealer((new_key(),))
    spec = {name: SecretStr(value) for name, value in BODIES["oss"].items()}
    parts = {"id": "a-job", "account": 1, "spec": spec, "key": "k", "reply_to": "replies"}
    parts |= {"submitted": time.time(), "start_by": time.time() + 5, **changes}
    job = Job(**parts)
    async with AsyncRedis.from_url(redis_url) as redis:
        settings = Settings(data=Path("unused"))
        verifications = Verifications(sealer, lambda _: provider, redis, Board(redis, settings), settings)
        await verifications.carry_out(sealer.seal(job.content()))
    with Redis.from_url(redis_url) as redis_now:
        popped = redis_now.lrange("replies", 0, -1)
        redis_now.delete("replies")
    return [Reply.model_validate_json(text).report for text in popped]


async def test_a_mistake_of_ours_is_answered_as_one_and_shows_nothing(redis_url: str) -> None:
    (report,) = await carried_out(redis_url, Broken())
    assert (report.ok, report.code, report.job) == (False, "internal_error", "a-job")
    assert report.left_behind, "how far it came is not known"
    assert "SENTINEL" not in report.model_dump_json()


async def test_a_job_whose_time_is_over_is_not_answered(redis_url: str) -> None:
    assert await carried_out(redis_url, Broken(), start_by=time.time() - 1) == []
