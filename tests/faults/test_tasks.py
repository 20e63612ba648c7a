"""Celery's edge by itself: whatever breaks, the customer is answered and the log has the cause."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from app.domain.specs.base import Spec
from app.domain.verification import Found, Report
from app.jobs.queue import Job
from app.settings import Settings
from app.store.sealing import Sealer, new_key
from app.up import redis_binary
from tests.faults.verifying import BODIES
from tests.stack import REDIS_PASSWORD, Process, accepts, clean_environment, free_port, until
from workers.providers.base import Provider
from workers.tasks import Verifications


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    arguments = ("--port", str(port), "--bind", "127.0.0.1", "--requirepass", REDIS_PASSWORD, "--save", "")
    log = tmp_path_factory.mktemp("redis") / "log"
    process = Process((redis_binary(), *arguments), log, clean_environment())
    process.start()
    until(lambda: accepts(port), "Redis accepts connections")
    yield f"redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0"
    process.stop()


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
    parts = {"id": "a-job", "spec": spec, "key": "k", "reply_to": "replies", "start_by": time.time() + 5, **changes}
    job = Job(**parts)
    async with AsyncRedis.from_url(redis_url) as redis:
        verifications = Verifications(sealer, lambda _: provider, redis, Settings(data=Path("unused")))
        await verifications.carry_out(sealer.seal(job.content()))
    with Redis.from_url(redis_url) as redis_now:
        popped = redis_now.lrange("replies", 0, -1)
        redis_now.delete("replies")
    return [Report.model_validate_json(text) for text in popped]


async def test_a_mistake_of_ours_is_answered_as_one_and_shows_nothing(redis_url: str) -> None:
    (report,) = await carried_out(redis_url, Broken())
    assert (report.ok, report.code, report.job) == (False, "internal_error", "a-job")
    assert report.left_behind, "how far it came is not known"
    assert "SENTINEL" not in report.model_dump_json()


async def test_a_job_whose_time_is_over_is_not_answered(redis_url: str) -> None:
    assert await carried_out(redis_url, Broken(), start_by=time.time() - 1) == []
