"""Which accounts fail and why, what is refused before the queue, and what tells that a part is away."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.domain.delivery import DeliveryState, SourceFault
from app.domain.errors import InvalidParameters, ParameterFault, TooManyVerifications, Unavailable
from app.domain.faults import Fault
from app.domain.verification import Report, Step, StepReport, VerificationFailed
from app.messages.clock import Clock
from app.messages.job import Job
from app.monitor import failures, traffic
from app.monitor.board import Board
from app.monitor.failures import Failing, RefusalCounts
from app.monitor.health import Check
from app.monitor.history import History
from app.monitor.job import JobState
from app.monitor.outages import AWAY_SECONDS, LOOK_SECONDS, Outages
from app.store.accounts import Owner
from app.web.auth import told
from app.web.dashboard.words import OF_FAULTS, WORDS
from app.web.errors import envelope
from app.web.refusals import noting_refusals
from tests.stack import patient
from tests.unit.test_specs import GOOD

SPEC = {**GOOD["s3"], "type": "s3"}


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """An empty Redis."""
    async with patient(redis_url) as client:
        await client.flushdb()
        yield client


def job(name: str, number: int) -> Job:
    now = time.time()
    return Job(
        id=f"job-{number}", account=7, account_name=name, submitted=now, key="k", reply_to="r", spec=SPEC,
        start_by=now + 14, deadline=now + 29,
    )  # fmt: skip


def verdict(of: Job, code: Fault | None) -> Report:
    return Report(
        ok=code is None, code=code, message="m", type="s3", host="h", object="o", duration_ms=1, job=of.id,
        steps=(StepReport.passed(Step.UPLOAD, 1),),
    )  # fmt: skip


async def note(redis: Redis, *ends: tuple[str, Fault | None]) -> None:
    board = Board(redis, Clock(), jobs=1000, worker="w")
    async with board.writing():
        for number, (name, code) in enumerate(ends):
            of = job(name, number)
            board.note(of, JobState.RUNNING)
            board.note(of, JobState.FAILED if code else JobState.SUCCEEDED, report=verdict(of, code))


async def test_the_accounts_that_failed_are_told_with_their_reasons_the_worst_first(redis: Redis) -> None:
    mismatch, denied = Fault.SECRET_MISMATCH, Fault.WRITE_DENIED
    await note(redis, ("a:b", mismatch), ("c", denied), ("c", mismatch), ("c", mismatch), ("d", None))
    found = await History(redis, Clock()).failures(2)
    assert found.accounts == [Failing("c", {mismatch: 2, denied: 1}), Failing("a:b", {mismatch: 1})]
    assert (found.refused, found.others) == ({}, 0)


async def test_a_delivery_that_was_given_up_is_counted_with_whose_it_was(redis: Redis) -> None:
    mismatch, denied = Fault.SECRET_MISMATCH, Fault.WRITE_DENIED
    await note(redis, ("a", mismatch), ("b", mismatch))
    async with redis.pipeline(transaction=False) as pipe:
        for owner, code in (("b", denied), ("b", denied), ("b", mismatch), ("c", SourceFault.CHANGED)):
            await failures.note_undelivered(pipe, Clock().now(), code, owner)
        await pipe.execute()
    found = await History(redis, Clock()).failures(2)
    b = Failing("b", {mismatch: 1}, undelivered={denied: 2, mismatch: 1})
    assert found.accounts == [b, Failing("a", {mismatch: 1}), Failing("c", undelivered={SourceFault.CHANGED: 1})]
    assert (b.count, found.refused) == (4, {})


async def test_a_job_that_ends_twice_has_failed_once(redis: Redis) -> None:
    board, of = Board(redis, Clock(), jobs=1000, worker="w"), job("a", 1)
    async with board.writing():
        board.note(of, JobState.RUNNING)
        for _ in range(2):
            board.note(of, JobState.FAILED, report=verdict(of, Fault.TIMEOUT))
    assert (await History(redis, Clock()).failures(2)).accounts == [Failing("a", {Fault.TIMEOUT: 1})]


async def test_however_many_accounts_fail_what_is_kept_of_a_minute_is_bounded(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(failures.LIMITS, "most", 3)
    await note(redis, *((f"a{number % 6}", Fault.TIMEOUT) for number in range(12)))
    found = await History(redis, Clock()).failures(2)
    assert sum(each.count for each in found.accounts) + found.others == 12
    assert len(found.accounts) <= 2 * 3
    assert found.others
    for key in await redis.keys("dropoff:failures:*"):
        assert await redis.hlen(key) <= 3 + len(("the others", "how many there are"))
        assert 0 < await redis.ttl(key) <= failures.KEPT_SECONDS


async def test_what_is_refused_before_the_queue_is_counted_with_whose_it_was(redis: Redis) -> None:
    counts = RefusalCounts(redis, Clock())
    refusals: dict[str, Exception] = {
        "invalid": InvalidParameters([ParameterFault("name", "missing_parameter", "m")]),
        "many": TooManyVerifications("m"),
        "full": Unavailable("m"),
        "expired": Unavailable("m", job="1"),
        "failed": VerificationFailed(verdict(job("a", 1), Fault.TIMEOUT)),
    }

    async def create(request: web.Request) -> web.Response:
        if owner := request.query.get("owner"):
            told(Owner(1, owner))
        raise refusals[request.query["why"]]

    app = web.Application(middlewares=[envelope, noting_refusals(counts)])
    app.router.add_post("/destinations", create)
    app.router.add_get("/destinations", create)
    async with TestClient(TestServer(app)) as client:
        for why in refusals:
            await client.post("/destinations", params={"why": why, "owner": "a"})
        await client.post("/destinations", params={"why": "many"})
        await client.get("/destinations", params={"why": "many", "owner": "a"})
        await client.post("/elsewhere")
    await counts.write_pending()
    found = await History(redis, Clock()).failures(2)
    (code,) = {error.code for error in [refusals["invalid"]] if isinstance(error, InvalidParameters)}
    assert found.refused == {"too_many_verifications": 2, code: 1, "unavailable": 1}
    assert found.accounts == [Failing("a", {}, {"too_many_verifications": 1, code: 1, "unavailable": 1})]


async def test_strangers_who_are_refused_with_ever_new_codes_take_no_more_room(redis: Redis) -> None:
    counts = RefusalCounts(redis, Clock())
    for number in range(failures.PENDING + 5):
        counts.note("c", f"account-{number}")
    await counts.write_pending()
    found = await History(redis, Clock()).failures(2)
    assert len(found.accounts) == failures.NAMES
    assert found.others == failures.PENDING + 5 - failures.NAMES


async def test_what_was_delivered_is_counted_by_minute(redis: Redis) -> None:
    now = Clock().now()
    async with redis.pipeline(transaction=False) as pipe:
        traffic.note(pipe, now, 100)
        traffic.note(pipe, now, 20, [(DeliveryState.OK, None)])
        traffic.note(pipe, now, 0, [(DeliveryState.FAILED, SourceFault.CHANGED)])
        traffic.note(pipe, now, 0)
        await pipe.execute()
    *_, counted = [each for each in (await History(redis, Clock()).traffic(2)).values() if each]
    assert counted == {"bytes": 120, "ok": 1, "failed:source_changed": 1}


def test_each_code_that_can_fail_a_job_or_a_delivery_has_its_word() -> None:
    assert {*OF_FAULTS} == {*Fault, *SourceFault}
    assert len({*OF_FAULTS.values()}) == len(OF_FAULTS)
    assert max(map(len, WORDS.values())) <= 32


class Parts:
    """What is wrong now."""

    def __init__(self) -> None:
        self.away: set[str] = set()

    async def checks(self) -> list[Check]:
        return [Check(name, name not in self.away, f"{name}?") for name in ("database", "redis", "workers", "clocks")]


async def test_an_outage_is_told_once_at_error_and_once_when_it_is_over() -> None:
    parts, now = Parts(), 0.0
    outages = Outages(parts.checks)

    async def looks(away: set[str], times: int) -> list[tuple[Any, ...]]:
        nonlocal now
        parts.away = away
        with capture_logs() as logged:
            for _ in range(times):
                now += LOOK_SECONDS
                await outages.look(now)
        return [(line["log_level"], line["event"], line["part"], line.get("seconds")) for line in logged]

    error, over = ("error", "outage, nothing can be verified"), ("info", "outage is over")
    patient = int(AWAY_SECONDS // LOOK_SECONDS) + 1
    assert await looks({"clocks"}, 5) == [], "nothing stops for that"
    assert await looks({"redis"}, patient) == [], "a restart is none"
    assert await looks(set(), 2) == []
    assert await looks({"redis", "workers"}, 6) == [(*error, "redis", None)], "of the workers nothing is known then"
    assert await looks({"workers"}, 2) == [(*over, "redis", 6 * LOOK_SECONDS)]
    assert await looks({"workers", "database"}, 4) == [(*error, "workers", None), (*error, "database", None)]
    assert {line[:3] for line in await looks(set(), 3)} == {(*over, "workers"), (*over, "database")}
