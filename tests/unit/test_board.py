"""The board on a real Redis: which state prevails, what is kept, how a page and the stream go on."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from app.domain.errors import Fault, InvalidParameters, InvalidRequest, JobNotFound, TooManyStreams, Unavailable
from app.domain.job import Entry, State, cursor, job_query
from app.domain.verification import Report, Step, StepReport
from app.jobs import feed as feeds
from app.jobs.board import ALL, REPORT_BYTES, STREAM, STREAM_LENGTH, Board, account_key, job_key, minute_key
from app.jobs.feed import Feed
from app.jobs.history import SCAN, History
from app.jobs.queue import Job, connect
from app.settings import Settings

ACCOUNT = 7
ids = (f"job-{number:06}" for number in itertools.count())


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(data=Path("unused"), redis_url=SecretStr(redis_url), board_jobs=5000)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """An empty Redis."""
    async with connect(settings) as client:
        await client.flushdb()
        yield client


def job(account: int = ACCOUNT, **changes: Any) -> Job:
    now = time.time()
    parts = {"id": next(ids), "account": account, "submitted": now, "start_by": now + 14, "key": "k", "reply_to": "r"}
    return Job(**{**parts, "spec": {"type": SecretStr("s3"), "s3_secret_access_key": SecretStr("SENTINEL")}, **changes})


def report(of: Job, code: Fault | None = None, **changes: Any) -> Report:
    steps = (StepReport.passed(Step.UPLOAD, 3), StepReport.passed(Step.DELETE, 2))
    parts = {"ok": code is None, "code": code, "message": "m", "provider": "s3", "host": "b.example", "object": "k"}
    return Report(**{**parts, "duration_ms": 5, "job": of.id, "steps": steps, **changes})


@contextlib.asynccontextmanager
async def writing(redis: Redis, settings: Settings, worker: str = "") -> AsyncIterator[Board]:
    """A board that has written all it was told at the end of the block."""
    board = Board(redis, settings, worker=worker)
    async with board.writing():
        yield board


async def noted(redis: Redis, settings: Settings, of: Job, *notes: tuple[State, dict[str, Any]]) -> None:
    async with writing(redis, settings, "w") as board:
        for state, details in notes:
            board.note(of, state, **details)


async def test_a_job_is_followed_from_the_queue_to_its_verdict(redis: Redis, settings: Settings) -> None:
    of = job()
    async with writing(redis, settings) as front, writing(redis, settings, "dropoff-1@here") as worker:
        front.note(of, State.QUEUED)
        worker.note(of, State.RUNNING, attempt=1)
        for state in (State.UPLOADING, State.DELETING):
            worker.note(of, state, attempt=1, host="guess.example")
        worker.note(of, State.SUCCEEDED, attempt=1, report=report(of))
    async with writing(redis, settings) as front:
        front.stored(of.id, "0123456789AB")
    record = await History(redis).get(of.id, ACCOUNT)
    assert [each.state for each in record.timeline] == ["queued", "running", "uploading", "deleting", "succeeded"]
    assert [each.worker for each in record.timeline] == [None, *["dropoff-1@here"] * 4]
    assert [each.attempt for each in record.timeline] == [None, 1, 1, 1, 1]
    entry = record.entry
    assert (entry.state, entry.attempt, entry.worker, entry.fault) == ("succeeded", 1, "dropoff-1@here", None)
    assert (entry.account, entry.type, entry.host, entry.destination) == (ACCOUNT, "s3", "b.example", "0123456789AB")
    assert record.report == report(of).as_answer()
    assert await redis.ttl(job_key(of.id)) > 3600
    ((_, counts),) = [each for each in (await History(redis).minutes(2)).items() if each[1]]
    assert counts.items() > {"s3:queued": 1, "s3:succeeded": 1}.items()


async def test_no_secret_is_on_the_board(redis: Redis, settings: Settings) -> None:
    of = job()
    await noted(redis, settings, of, (State.QUEUED, {}), (State.FAILED, {"attempt": 1, "report": report(of)}))
    for key in await redis.keys():
        assert "SENTINEL" not in str(await redis.execute_command("DUMP", key, NEVER_DECODE=True))


ONE, TWO = {"attempt": 1}, {"attempt": 2}


@pytest.mark.parametrize(
    ("notes", "state"),
    [
        ([(State.RUNNING, ONE), (State.QUEUED, {})], State.RUNNING),
        ([(State.RUNNING, ONE), (State.DELETING, ONE), (State.UPLOADING, ONE)], State.DELETING),
        ([(State.RUNNING, ONE), (State.DELETING, ONE), (State.RUNNING, TWO)], State.RUNNING),
        ([(State.RUNNING, TWO), (State.DELETING, ONE)], State.RUNNING),
        ([(State.LOST, {}), (State.UPLOADING, TWO)], State.LOST),
        ([(State.LOST, {}), (State.EXPIRED, {})], State.LOST),
        ([(State.QUEUED, {}), (State.EXPIRED, {})], State.EXPIRED),
        ([(State.EXPIRED, {}), (State.RUNNING, ONE), (State.SUCCEEDED, ONE)], State.SUCCEEDED),
        ([(State.LOST, {}), (State.SUCCEEDED, ONE)], State.SUCCEEDED),
        ([(State.SUCCEEDED, ONE), (State.LOST, {})], State.SUCCEEDED),
        ([(State.FAILED, ONE), (State.SUCCEEDED, TWO)], State.FAILED),
    ],
)
async def test_whatever_arrives_last_what_happened_is_shown(
    redis: Redis, settings: Settings, notes: list[tuple[State, dict[str, Any]]], state: State
) -> None:
    of = job()
    await noted(redis, settings, of, *notes)
    record = await History(redis).get(of.id, None)
    assert record.entry.state == state
    assert {each.state for each in record.timeline} == {each for each, _ in notes}
    (_, fields), *_ = await redis.xrevrange(STREAM, count=1)
    assert f'"state":"{state}"' in fields["job"]


async def test_what_a_worker_began_and_nobody_ended_is_lost_and_the_rest_expired(
    redis: Redis, settings: Settings
) -> None:
    """Both who held it and who worked on it may be dead: then nobody notes the end."""
    old = time.time() - settings.hold_seconds - 10
    begun, never, again, young = job(submitted=old), job(submitted=old), job(submitted=old), job()
    await noted(redis, settings, begun, (State.QUEUED, {}), (State.UPLOADING, ONE))
    await noted(redis, settings, again, (State.RUNNING, ONE), (State.EXPIRED, {}))
    for each in (never, young):
        await noted(redis, settings, each, (State.QUEUED, {}))
    shown = {entry.id: entry.state for entry in (await History(redis).page(job_query({})))[0]}
    assert shown == {begun.id: "lost", again.id: "lost", never.id: "expired", young.id: "queued"}
    found, _ = await History(redis).page(job_query({"state": "lost"}))
    assert {entry.id for entry in found} == {begun.id, again.id}


async def test_each_outcome_is_counted_once_by_its_minute(redis: Redis, settings: Settings) -> None:
    of, other = job(), job(spec={"type": SecretStr("oss")}, submitted=time.time() - 2)
    refused = report(of, Fault.WRITE_DENIED)
    await noted(redis, settings, of, (State.QUEUED, {}), (State.LOST, {}), (State.FAILED, {**ONE, "report": refused}))
    await noted(redis, settings, other, (State.FAILED, {**ONE, "report": report(other, Fault.WRITE_DENIED)}))
    ((minute, counts),) = [each for each in (await History(redis).minutes(2)).items() if each[1]]
    ((bucket, one),) = [(name, n) for name, n in counts.items() if name.startswith("oss:ms:")]
    assert (2000 <= int(bucket.rpartition(":")[2]) < 4000, one) == (True, 1)
    del counts[bucket]
    assert counts == {"s3:queued": 1, "s3:lost": 1, "oss:failed:write_denied": 1}
    assert 3600 < await redis.ttl(minute_key(minute)) <= 7200


async def test_a_board_that_cannot_be_written_is_no_fault_of_anybody(
    redis: Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.set(STREAM, "not a stream")
    async with writing(redis, settings) as board:
        for _ in range(3):
            board.note(job(), State.QUEUED)
            await asyncio.sleep(0.1)
        await redis.delete(STREAM)
        of = job()
        board.note(of, State.QUEUED)
    assert (await History(redis).get(of.id, ACCOUNT)).entry.state == "queued"


async def test_notes_that_wait_are_bounded(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.board.PENDING", 10)
    board = Board(redis, settings)
    notes = [job() for _ in range(25)]
    for each in notes:
        board.note(each, State.QUEUED)
    async with board.writing():
        pass
    assert await redis.zrange(ALL, 0, -1) == [each.id for each in notes[-10:]]


async def test_a_batch_is_written_in_one_call(redis: Redis, settings: Settings) -> None:
    await noted(redis, settings, job(), (State.QUEUED, {}))
    before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    async with writing(redis, settings) as board:
        for each in [job() for _ in range(50)]:
            board.note(each, State.QUEUED)
            board.note(each, State.RUNNING, attempt=1)
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == before + 1


async def flood(redis: Redis, settings: Settings, number: int, accounts: int) -> None:
    async with writing(redis, settings, worker="dropoff-12345@a-machine-with-a-long-name") as board:
        for n in range(number):
            of = job(n % accounts, destination="0123456789AB")
            board.note(of, State.QUEUED)
            for state in (State.RUNNING, State.UPLOADING, State.DELETING):
                board.note(of, state, attempt=1, host="a-bucket-of-somebody.s3.eu-west-1.amazonaws.com")
            steps = tuple(
                StepReport(
                    step=step, outcome="failed", ms=1234, code=Fault.WRITE_DENIED, provider_code="AccessDenied",
                    status=403, request_id="x" * 76,
                )
                for step in Step
            )  # fmt: skip
            verdict = report(of, Fault.WRITE_DENIED, message="x" * 400, object="x" * 200, steps=steps)
            board.note(of, State.FAILED, attempt=1, report=verdict)
            if n % 1000 == 999:
                await asyncio.sleep(0)
                while board._pending:
                    await asyncio.sleep(0.01)


async def test_a_flood_of_jobs_leaves_what_is_kept_and_no_more(redis: Redis, settings: Settings) -> None:
    """docs/operating.md states what is usual, 4 KB a job and 16 MB for the stream and the counts, and the bound."""
    before = (await redis.info("memory"))["used_memory"]
    await flood(redis, settings, 20_000, accounts=40)
    used = (await redis.info("memory"))["used_memory"] - before
    assert await redis.zcard(ALL) == settings.board_jobs
    assert sum([await redis.zcard(account_key(n)) for n in range(40)]) == settings.board_jobs
    assert len(await redis.keys(job_key("*"))) == settings.board_jobs
    assert STREAM_LENGTH <= await redis.xlen(STREAM) < STREAM_LENGTH * 1.1
    assert used < settings.board_jobs * 4096 + 16 * 1024 * 1024
    assert all([await redis.ttl(key) > 0 for key in await redis.keys()])


async def test_the_largest_job_that_there_can_be_stays_under_the_bound(redis: Redis, settings: Settings) -> None:
    """docs/operating.md states it: 12 KB."""
    of = job(destination="0123456789AB")
    verdict = report(of, Fault.WRITE_DENIED, message="x" * (REPORT_BYTES - 600), host="x" * 253)
    length = len(verdict.model_dump_json(exclude_none=True))
    assert REPORT_BYTES - 200 < length <= REPORT_BYTES
    async with writing(redis, settings, worker="w" * 255) as board:
        for attempt in range(1, 100):
            board.note(of, State.RUNNING, attempt=attempt)
        board.note(of, State.FAILED, attempt=1, report=verdict)
        board.note(job(), State.FAILED, attempt=1, report=report(of, message="x" * REPORT_BYTES))
    record, without = [await History(redis).get(each, None) for each in await redis.zrange(ALL, 0, -1)]
    assert record.report == verdict.as_answer()
    assert without.report is None, "a report that is longer is not kept"
    index = (await redis.memory_usage(ALL) + await redis.memory_usage(account_key(ACCOUNT))) / 2
    size = await redis.memory_usage(job_key(of.id), samples=0) + index
    assert size < 12 * 1024


async def test_pages_neither_repeat_nor_skip_while_jobs_arrive_and_old_ones_go(
    redis: Redis, settings: Settings
) -> None:
    history, before = History(redis), [job() for _ in range(250)]
    async with writing(redis, settings) as board:
        for each in before:
            board.note(each, State.QUEUED)
    seen: list[str] = []
    query = job_query({"limit": "20"})
    while True:
        entries, place = await history.page(query)
        seen += [entry.id for entry in entries]
        if not place:
            break
        async with writing(redis, settings) as board:
            for _ in range(7):
                board.note(job(), State.QUEUED)
        query = job_query({"limit": "20", "cursor": cursor(place)})
    assert seen == [each.id for each in reversed(before)]


async def test_jobs_of_the_same_moment_are_all_listed_once(redis: Redis, settings: Settings) -> None:
    now, history = time.time(), History(redis)
    async with writing(redis, settings) as board:
        for _ in range(30):
            board.note(job(submitted=now), State.QUEUED)
    first, place = await history.page(job_query({"limit": "20"}))
    assert place
    second, end = await history.page(job_query({"limit": "20", "cursor": cursor(place)}))
    assert (len({entry.id for entry in first + second}), end) == (30, None)


async def test_jobs_are_found_by_what_they_are(redis: Redis, settings: Settings) -> None:
    early, late = job(submitted=time.time() - 100), job(8, destination="AAAABBBBCCCC", spec={"type": SecretStr("oss")})
    refused = report(late, Fault.WRITE_DENIED, host="Odd.example")
    await noted(redis, settings, early, (State.QUEUED, {}), (State.SUCCEEDED, {**ONE, "report": report(early)}))
    await noted(redis, settings, late, (State.QUEUED, {}), (State.FAILED, {**ONE, "report": refused}))
    between = datetime.fromtimestamp(late.submitted - 50, UTC).isoformat()
    for query, found in (
        ({}, [late, early]),
        ({"state": "failed"}, [late]),
        ({"type": "s3"}, [early]),
        ({"type": "gcs"}, []),
        ({"account": "8"}, [late]),
        ({"account": "9"}, []),
        ({"destination": "AAAABBBBCCCC"}, [late]),
        ({"fault": "write_denied"}, [late]),
        ({"search": "odd.EX"}, [late]),
        ({"search": "bbbcc"}, [late]),
        ({"search": early.id[-6:]}, [early]),
        ({"from": between}, [late]),
        ({"to": between}, [early]),
        ({"limit": "1"}, [late]),
        ({"state": "failed", "type": "s3"}, []),
    ):
        entries, _ = await History(redis).page(job_query(query))
        assert [entry.id for entry in entries] == [each.id for each in found], query


async def test_one_page_looks_through_only_so_many_jobs(redis: Redis, settings: Settings) -> None:
    rare = job(submitted=time.time() - 1000)
    await noted(redis, settings, rare, (State.QUEUED, {}))
    async with writing(redis, settings) as board:
        for _ in range(SCAN + 200):
            board.note(job(), State.QUEUED)
    history = History(redis)
    none, place = await history.page(job_query({"search": rare.id}))
    assert none == []
    assert place
    found, end = await history.page(job_query({"search": rare.id, "cursor": cursor(place)}))
    assert ([entry.id for entry in found], end) == ([rare.id], None)


def test_a_question_that_makes_no_sense_is_refused_with_every_fault_of_it() -> None:
    bad = {
        "state": "done", "type": "ftp", "account": "x", "fault": "no", "from": "2026-01-31", "to": "yesterday",
        "limit": "101", "cursor": "ß", "page": "1",
    }  # fmt: skip
    with pytest.raises(InvalidParameters) as caught:
        job_query(bad)
    assert {fault.parameter for fault in caught.value.faults} == set(bad)
    for name, text in (("limit", "0"), ("cursor", "AAAA"), ("cursor", "MTIz" * 900), ("from", "9999999-01-01")):
        with pytest.raises(InvalidParameters):
            job_query({name: text})


async def test_a_job_of_another_account_is_not_there(redis: Redis, settings: Settings) -> None:
    of = job()
    await noted(redis, settings, of, (State.QUEUED, {}))
    for account, wanted in ((8, of.id), (ACCOUNT, "no-such-job"), (None, "no-such-job")):
        with pytest.raises(JobNotFound):
            await History(redis).get(wanted, account)
    assert (await History(redis).get(of.id, None)).entry.account == ACCOUNT


async def test_a_board_that_cannot_be_read_is_said_to_be_unavailable() -> None:
    async with connect(Settings(redis_url=SecretStr("redis://127.0.0.1:1/0"))) as nobody:
        for call in (History(nobody).page(job_query({})), History(nobody).get("x", None), History(nobody).minutes(3)):
            with pytest.raises(Unavailable):
                await call
        with pytest.raises(Unavailable):
            await anext(Feed(nobody).follow(None, None))


@contextlib.asynccontextmanager
async def followed(feed: Feed, account: int | None, after: str | None = None) -> AsyncIterator[Any]:
    async with contextlib.aclosing(feed.follow(account, after)) as news:
        await anext(news)
        yield news


async def entries(news: Any, number: int) -> list[Entry]:
    found: list[Entry] = []
    async with asyncio.timeout(10):
        while len(found) < number:
            found += [event.entry for event in (await anext(news)).events]
    return found


async def test_listeners_share_one_reader_and_see_what_is_theirs(redis: Redis, settings: Settings) -> None:
    feed, own, others = Feed(redis), job(), job(8)
    async with followed(feed, None) as everything, followed(feed, ACCOUNT) as mine, followed(feed, 8) as theirs:
        async with writing(redis, settings) as board:
            board.note(own, State.QUEUED)
            board.note(others, State.QUEUED)
            board.note(own, State.RUNNING, attempt=1)
        assert [(e.id, e.state) for e in await entries(everything, 3)] == [
            (own.id, "queued"), (others.id, "queued"), (own.id, "running"),
        ]  # fmt: skip
        assert [e.state for e in await entries(mine, 2)] == ["queued", "running"]
        assert [e.id for e in await entries(theirs, 1)] == [others.id]
        clients = await redis.client_list()
        assert len([client for client in clients if client["cmd"] == "xread"]) == 1
    assert feed._reader is None


async def test_a_listener_resumes_where_it_was_and_is_told_of_a_gap(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def note(number: int) -> None:
        async with writing(redis, settings) as board:
            for _ in range(number):
                board.note(job(), State.QUEUED)

    feed = Feed(redis)
    await note(3)
    (second, _) = (await redis.xrange(STREAM))[1]
    everybody = [fields["job"] for _, fields in await redis.xrange(STREAM)]
    async with followed(feed, None, after=second) as news:
        third = await anext(news)
        assert (len(third.events), third.gap) == (1, False)
        assert third.events[0].entry.id in everybody[2]
        await note(500)
        assert len({entry.id for entry in await entries(news, 500)}) == 500
    monkeypatch.setattr("app.jobs.board.STREAM_LENGTH", 100)
    await note(300)
    async with followed(feed, None, after=second) as news:
        missed = await anext(news)
        assert missed.gap
        assert missed.events
    with pytest.raises(InvalidRequest):
        await anext(feed.follow(None, "yesterday"))


async def test_a_listener_that_falls_behind_is_let_go_and_can_resume(redis: Redis, settings: Settings) -> None:
    feed = Feed(redis)
    async with followed(feed, None) as slow, followed(feed, None) as fast:
        async with writing(redis, settings) as board:
            board.note(job(), State.QUEUED)
        place = (await anext(slow)).place
        await entries(fast, 1)
        for _ in range(4):
            async with writing(redis, settings) as board:
                for _ in range(feeds.RING // 2):
                    board.note(job(), State.QUEUED)
            await entries(fast, feeds.RING // 2)
        with pytest.raises(StopAsyncIteration):
            await anext(slow)
        async with followed(feed, None, after=f"{place[0]}-{place[1]}") as resumed:
            assert len({entry.id for entry in await entries(resumed, 2 * feeds.RING)}) == 2 * feeds.RING


async def test_a_silent_stream_shows_that_it_is_alive(redis: Redis) -> None:
    async with followed(Feed(redis, heartbeat=0.1), None) as news:
        sign = await asyncio.wait_for(anext(news), 5)
        assert not sign.events


async def test_an_account_has_only_so_many_streams(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LISTENERS_OF_ONE", 1)
    monkeypatch.setattr(feeds, "LISTENERS", 2)
    feed = Feed(redis)
    async with followed(feed, 1), followed(feed, 2), followed(feed, None):
        for account in (1, 3):
            with pytest.raises(TooManyStreams):
                await anext(feed.follow(account, None))


async def test_the_stream_outlives_an_interruption_of_redis(redis: Redis, settings: Settings) -> None:
    feed = Feed(redis)
    async with followed(feed, None) as news:
        for client in await redis.client_list():
            if client["cmd"] == "xread":
                await redis.client_kill_filter(_id=client["id"])
        await redis.set("dropoff:else", "1")
        async with writing(redis, settings) as board:
            board.note(job(), State.QUEUED)
        assert len(await entries(news, 1)) == 1
