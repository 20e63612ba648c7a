"""The board on a real Redis: which state prevails, what is kept, how a page and the stream go on."""

import asyncio
import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from app.domain.errors import InvalidParameters, InvalidRequest, JobNotFound, TooManyStreams, Unavailable
from app.domain.faults import Fault
from app.domain.verification import Report, Step, StepReport
from app.messages.clock import Clock
from app.messages.connections import connect
from app.messages.job import Job
from app.monitor import feed as feeds
from app.monitor.board import ALL, REPORT_BYTES, STREAM, STREAM_LENGTH, Board, account_key, job_key, minute_key
from app.monitor.feed import Feed, written
from app.monitor.history import SCAN, History
from app.monitor.job import JobState, JobView, parse_job_query
from app.settings import Settings
from tests.stack import patient
from tests.unit.sampling import sample
from tests.unit.test_specs import GOOD

ACCOUNT = 7
SPEC = {**GOOD["s3"], "type": "s3", "s3_secret_access_key": "SENTINEL"}
ids = (f"job-{number:06}" for number in itertools.count())


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(data=Path("unused"), redis_url=SecretStr(redis_url), board_jobs=5000)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """An empty Redis."""
    async with patient(settings.redis_url.get_secret_value()) as client:
        await client.flushdb()
        yield client


@pytest.fixture
async def raw(settings: Settings, redis: Redis) -> AsyncIterator[Redis]:
    """The same Redis, for who reads what need not be text."""
    async with patient(settings.redis_url.get_secret_value(), decode=False) as client:
        yield client


def history(client: Redis) -> History:
    return History(client, Clock())


async def counted(client: Redis) -> tuple[list[int], Counter[str]]:
    """The last minutes in which anything was counted, and what was in all of them."""
    counts = {minute: each for minute, each in (await history(client).minutes(5)).items() if each}
    return [*counts], sum(map(Counter, counts.values()), Counter())


def job(account: int = ACCOUNT, **changes: Any) -> Job:
    now = time.time()
    parts = {"id": next(ids), "account": account, "submitted": now, "key": "k", "reply_to": "r", "spec": SPEC}
    whole = {**parts, **changes}
    return Job(start_by=whole["submitted"] + 14, deadline=whole["submitted"] + 29, **whole)


def report(of: Job, code: Fault | None = None, **changes: Any) -> Report:
    steps = (StepReport.passed(Step.UPLOAD, 3), StepReport.passed(Step.DELETE, 2))
    parts = {"ok": code is None, "code": code, "message": "m", "type": "s3", "host": "b.example", "object": "k"}
    return Report(**{**parts, "duration_ms": 5, "job": of.id, "steps": steps, **changes})


@contextlib.asynccontextmanager
async def writing(redis: Redis, settings: Settings, worker: str = "") -> AsyncIterator[Board]:
    """A board that has written all it was told at the end of the block."""
    board = Board(redis, Clock(), jobs=settings.board_jobs, worker=worker)
    async with board.writing():
        yield board


async def noted(redis: Redis, settings: Settings, of: Job, *notes: tuple[JobState, dict[str, Any]]) -> None:
    """Note each, one after the other: one with an attempt is a worker's, the others are the front end's."""
    for state, details in notes:
        attempt, rest = details.get("attempt"), {n: value for n, value in details.items() if n != "attempt"}
        async with writing(redis, settings, "w" if attempt else "") as board:
            board.note(of.model_copy(update={"attempt": attempt or 1}), state, **rest)


async def test_a_job_is_followed_from_the_queue_to_its_verdict(redis: Redis, settings: Settings) -> None:
    of = job(destination="0123456789AB")
    async with writing(redis, settings) as front, writing(redis, settings, "dropoff-1@here") as worker:
        front.note(of, JobState.QUEUED)
        worker.note(of, JobState.RUNNING)
        for state in (JobState.UPLOADING, JobState.DELETING):
            worker.note(of, state, host="guess.example")
        worker.note(of, JobState.SUCCEEDED, report=report(of))
    detail = await history(redis).get(of.id, ACCOUNT)
    assert [each.state for each in detail.timeline] == ["queued", "running", "uploading", "deleting", "succeeded"]
    assert [each.worker for each in detail.timeline] == [None, *["dropoff-1@here"] * 4]
    assert [each.attempt for each in detail.timeline] == [None, 1, 1, 1, 1]
    shown = detail.job
    assert (shown.state, shown.attempt, shown.worker, shown.fault) == ("succeeded", 1, "dropoff-1@here", None)
    assert (shown.account, shown.type, shown.host, shown.destination) == (ACCOUNT, "s3", "b.example", "0123456789AB")
    assert detail.report == report(of).as_answer()
    assert await redis.ttl(job_key(of.id)) > 3600
    _, counts = await counted(redis)
    assert counts.items() > {"s3:queued": 1, "s3:succeeded": 1}.items()


async def test_no_secret_is_on_the_board(redis: Redis, settings: Settings) -> None:
    of = job()
    await noted(redis, settings, of, (JobState.QUEUED, {}), (JobState.FAILED, {"attempt": 1, "report": report(of)}))
    for key in await redis.keys():
        assert "SENTINEL" not in str(await redis.execute_command("DUMP", key, NEVER_DECODE=True))


ONE, TWO = {"attempt": 1}, {"attempt": 2}


@pytest.mark.parametrize(
    ("notes", "state"),
    [
        ([(JobState.RUNNING, ONE), (JobState.QUEUED, {})], JobState.RUNNING),
        ([(JobState.RUNNING, ONE), (JobState.DELETING, ONE), (JobState.UPLOADING, ONE)], JobState.DELETING),
        ([(JobState.RUNNING, ONE), (JobState.DELETING, ONE), (JobState.RUNNING, TWO)], JobState.RUNNING),
        ([(JobState.RUNNING, TWO), (JobState.DELETING, ONE)], JobState.RUNNING),
        ([(JobState.LOST, {}), (JobState.UPLOADING, TWO)], JobState.LOST),
        ([(JobState.LOST, {}), (JobState.EXPIRED, {})], JobState.LOST),
        ([(JobState.QUEUED, {}), (JobState.EXPIRED, {})], JobState.EXPIRED),
        ([(JobState.EXPIRED, {}), (JobState.RUNNING, ONE), (JobState.SUCCEEDED, ONE)], JobState.SUCCEEDED),
        ([(JobState.LOST, {}), (JobState.SUCCEEDED, ONE)], JobState.SUCCEEDED),
        ([(JobState.SUCCEEDED, ONE), (JobState.LOST, {})], JobState.SUCCEEDED),
        ([(JobState.FAILED, ONE), (JobState.SUCCEEDED, TWO)], JobState.FAILED),
    ],
)
async def test_whatever_arrives_last_what_happened_is_shown(
    redis: Redis, settings: Settings, notes: list[tuple[JobState, dict[str, Any]]], state: JobState
) -> None:
    of = job()
    await noted(redis, settings, of, *notes)
    detail = await history(redis).get(of.id, None)
    assert detail.job.state == state
    assert {each.state for each in detail.timeline} == {each for each, _ in notes}
    (_, fields), *_ = await redis.xrevrange(STREAM, count=1)
    assert f'"state":"{state}"' in fields["job"]


async def test_what_a_worker_began_and_nobody_ended_is_lost_and_the_rest_expired(
    redis: Redis, settings: Settings
) -> None:
    """Both who held it and who worked on it may be dead: then nobody notes the end."""
    old = time.time() - settings.hold_seconds - 10
    begun, never, again, young = job(submitted=old), job(submitted=old), job(submitted=old), job()
    await noted(redis, settings, begun, (JobState.QUEUED, {}), (JobState.UPLOADING, ONE))
    await noted(redis, settings, again, (JobState.RUNNING, ONE), (JobState.EXPIRED, {}))
    for each in (never, young):
        await noted(redis, settings, each, (JobState.QUEUED, {}))
    shown = {view.id: view.state for view in (await history(redis).page(parse_job_query({})))[0]}
    assert shown == {begun.id: "lost", again.id: "lost", never.id: "expired", young.id: "queued"}
    found, _ = await history(redis).page(parse_job_query({"state": "lost"}))
    assert {view.id for view in found} == {begun.id, again.id}


async def test_each_outcome_is_counted_once_by_its_minute(redis: Redis, settings: Settings) -> None:
    of, other = job(), job(spec={"type": "oss", **GOOD["oss"]}, submitted=time.time() - 200)
    refused = report(of, Fault.WRITE_DENIED)
    await noted(
        redis, settings, of, (JobState.QUEUED, {}), (JobState.LOST, {}), (JobState.FAILED, {**ONE, "report": refused})
    )
    await noted(redis, settings, other, (JobState.FAILED, {**ONE, "report": report(other, Fault.WRITE_DENIED)}))
    minutes, counts = await counted(redis)
    ((bucket, one),) = [(name, n) for name, n in counts.items() if name.startswith("oss:ms:")]
    assert (200_000 <= int(bucket.rpartition(":")[2]) < 300_000, one) == (True, 1)
    del counts[bucket]
    assert counts == {"s3:queued": 1, "s3:lost": 1, "oss:failed:write_denied": 1}
    for minute in minutes:
        assert 3600 < await redis.ttl(minute_key(minute)) <= 7200


async def test_a_board_that_cannot_be_written_is_no_fault_of_anybody(
    redis: Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.set(STREAM, "not a stream")
    async with writing(redis, settings) as board:
        for _ in range(3):
            board.note(job(), JobState.QUEUED)
            await asyncio.sleep(0.1)
        await redis.delete(STREAM)
        of = job()
        board.note(of, JobState.QUEUED)
    assert (await history(redis).get(of.id, ACCOUNT)).job.state == "queued"


async def test_notes_that_wait_are_bounded(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.monitor.board.PENDING", 10)
    board = Board(redis, Clock(), jobs=settings.board_jobs)
    notes = [job() for _ in range(25)]
    for each in notes:
        board.note(each, JobState.QUEUED)
    async with board.writing():
        pass
    assert await redis.zrange(ALL, 0, -1) == [each.id for each in notes[-10:]]


async def test_a_batch_is_written_in_one_call(redis: Redis, settings: Settings) -> None:
    await noted(redis, settings, job(), (JobState.QUEUED, {}))
    before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    async with writing(redis, settings, "w") as board:
        for each in [job() for _ in range(50)]:
            board.note(each, JobState.QUEUED)
            board.note(each, JobState.RUNNING)
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == before + 1


async def streamed(redis: Redis) -> list[str]:
    """The events of the stream, of which an entry may have several."""
    entries: Any = await redis.xrange(STREAM)
    return [line for _, fields in entries for line in fields["job"].split("\n")]


async def flood(redis: Redis, settings: Settings, number: int, accounts: int) -> None:
    async with writing(redis, settings, worker="dropoff-12345@a-machine-with-a-long-name") as board:
        for n in range(number):
            of = job(n % accounts, destination="0123456789AB")
            board.note(of, JobState.QUEUED)
            for state in (JobState.RUNNING, JobState.UPLOADING, JobState.DELETING):
                board.note(of, state, host="a-bucket-of-somebody.s3.eu-west-1.amazonaws.com")
            steps = tuple(
                StepReport(
                    step=step, outcome="failed", ms=1234, code=Fault.WRITE_DENIED, provider_code="AccessDenied",
                    status=403, request_id="x" * 76,
                )
                for step in Step
            )  # fmt: skip
            verdict = report(of, Fault.WRITE_DENIED, message="x" * 400, object="x" * 200, steps=steps)
            board.note(of, JobState.FAILED, report=verdict)
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
    assert STREAM_LENGTH <= len(await streamed(redis)) < STREAM_LENGTH * 1.1
    assert used < settings.board_jobs * 4096 + 16 * 1024 * 1024
    assert all([await redis.ttl(key) > 0 for key in await redis.keys()])


async def test_the_largest_job_that_there_can_be_stays_under_the_bound(redis: Redis, settings: Settings) -> None:
    """docs/operating.md states it: 12 KB."""
    of = job(destination="0123456789AB", account_name="n" * 255)
    verdict = report(of, Fault.WRITE_DENIED, message="x" * (REPORT_BYTES - 600), host="x" * 253)
    length = len(verdict.model_dump_json(exclude_none=True))
    assert REPORT_BYTES - 200 < length <= REPORT_BYTES
    async with writing(redis, settings, worker="w" * 255) as board:
        for attempt in range(1, 100):
            board.note(of.model_copy(update={"attempt": attempt}), JobState.RUNNING)
        board.note(of, JobState.FAILED, report=verdict)
        board.note(job(), JobState.FAILED, report=report(of, message="x" * REPORT_BYTES))
    detail, without = [await history(redis).get(each, None) for each in await redis.zrange(ALL, 0, -1)]
    assert detail.report == verdict.as_answer()
    assert without.report is None, "a report that is longer is not kept"
    index = (await redis.memory_usage(ALL) + await redis.memory_usage(account_key(ACCOUNT))) / 2
    size = await redis.memory_usage(job_key(of.id), samples=0) + index
    assert size < 12 * 1024


async def test_pages_neither_repeat_nor_skip_while_jobs_arrive_and_old_ones_go(
    redis: Redis, settings: Settings
) -> None:
    reader, before = history(redis), [job() for _ in range(250)]
    async with writing(redis, settings) as board:
        for each in before:
            board.note(each, JobState.QUEUED)
    seen: list[str] = []
    query = parse_job_query({"limit": "20"})
    while True:
        views, cursor = await reader.page(query)
        seen += [view.id for view in views]
        if not cursor:
            break
        async with writing(redis, settings) as board:
            for _ in range(7):
                board.note(job(), JobState.QUEUED)
        query = parse_job_query({"limit": "20", "cursor": cursor.encode()})
    assert seen == [each.id for each in reversed(before)]


async def test_jobs_of_the_same_moment_are_all_listed_once(redis: Redis, settings: Settings) -> None:
    now, reader = time.time(), history(redis)
    async with writing(redis, settings) as board:
        for _ in range(30):
            board.note(job(submitted=now), JobState.QUEUED)
    first, cursor = await reader.page(parse_job_query({"limit": "20"}))
    assert cursor
    second, end = await reader.page(parse_job_query({"limit": "20", "cursor": cursor.encode()}))
    assert (len({view.id for view in first + second}), end) == (30, None)


async def test_jobs_are_found_by_what_they_are(redis: Redis, settings: Settings) -> None:
    early, late = (
        job(submitted=time.time() - 100),
        job(8, destination="AAAABBBBCCCC", spec={"type": "oss", **GOOD["oss"]}),
    )
    refused = report(late, Fault.WRITE_DENIED, host="Odd.example")
    await noted(redis, settings, early, (JobState.QUEUED, {}), (JobState.SUCCEEDED, {**ONE, "report": report(early)}))
    await noted(redis, settings, late, (JobState.QUEUED, {}), (JobState.FAILED, {**ONE, "report": refused}))
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
        views, _ = await history(redis).page(parse_job_query(query))
        assert [view.id for view in views] == [each.id for each in found], query


async def test_one_page_looks_through_only_so_many_jobs(redis: Redis, settings: Settings) -> None:
    rare = job(submitted=time.time() - 1000)
    await noted(redis, settings, rare, (JobState.QUEUED, {}))
    async with writing(redis, settings) as board:
        for _ in range(SCAN + 200):
            board.note(job(), JobState.QUEUED)
    reader = history(redis)
    none, cursor = await reader.page(parse_job_query({"search": rare.id}))
    assert none == []
    assert cursor
    found, end = await reader.page(parse_job_query({"search": rare.id, "cursor": cursor.encode()}))
    assert ([view.id for view in found], end) == ([rare.id], None)


def test_a_question_that_makes_no_sense_is_refused_with_every_fault_of_it() -> None:
    bad = {
        "state": "done", "type": "ftp", "account": "x", "fault": "no", "from": "2026-01-31", "to": "yesterday",
        "limit": "101", "cursor": "ß", "page": "1",
    }  # fmt: skip
    with pytest.raises(InvalidParameters) as caught:
        parse_job_query(bad)
    assert {fault.parameter for fault in caught.value.faults} == set(bad)
    for name, text in (("limit", "0"), ("cursor", "AAAA"), ("cursor", "MTIz" * 900), ("from", "9999999-01-01")):
        with pytest.raises(InvalidParameters):
            parse_job_query({name: text})


async def test_a_job_of_another_account_is_not_there(redis: Redis, settings: Settings) -> None:
    of = job()
    await noted(redis, settings, of, (JobState.QUEUED, {}))
    for account, wanted in ((8, of.id), (ACCOUNT, "no-such-job"), (None, "no-such-job")):
        with pytest.raises(JobNotFound):
            await history(redis).get(wanted, account)
    assert (await history(redis).get(of.id, None)).job.account == ACCOUNT


async def test_a_board_that_cannot_be_read_is_said_to_be_unavailable() -> None:
    async with connect("redis://127.0.0.1:1/0") as nobody:
        for call in (
            history(nobody).page(parse_job_query({})),
            history(nobody).get("x", None),
            history(nobody).minutes(3),
        ):
            with pytest.raises(Unavailable):
                await call
        with pytest.raises(Unavailable):
            await anext(Feed(nobody).follow(None, None))


@contextlib.asynccontextmanager
async def followed(feed: Feed, account: int | None, after: str | None = None) -> AsyncIterator[Any]:
    async with contextlib.aclosing(feed.follow(account, after)) as news:
        await anext(news)
        yield news


async def views(news: Any, number: int) -> list[JobView]:
    found: list[JobView] = []
    async with asyncio.timeout(60):
        while len(found) < number:
            found += [event.job for event in (await anext(news)).events]
    return found


async def test_listeners_share_one_reader_and_see_what_is_theirs(raw: Redis, redis: Redis, settings: Settings) -> None:
    feed, own, others = Feed(raw), job(), job(8)
    async with followed(feed, None) as everything, followed(feed, ACCOUNT) as mine, followed(feed, 8) as theirs:
        async with writing(redis, settings) as board:
            board.note(own, JobState.QUEUED)
            board.note(others, JobState.QUEUED)
            board.note(own, JobState.RUNNING)
        assert [(e.id, e.state) for e in await views(everything, 3)] == [
            (own.id, "queued"), (others.id, "queued"), (own.id, "running"),
        ]  # fmt: skip
        assert [e.state for e in await views(mine, 2)] == ["queued", "running"]
        assert [e.id for e in await views(theirs, 1)] == [others.id]
        clients = await redis.client_list()
        assert len([client for client in clients if client["cmd"] == "xread"]) == 1
    assert feed.reader._task is None


async def test_a_listener_resumes_where_it_was_and_is_told_of_a_gap(
    raw: Redis, redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def note(number: int) -> None:
        async with writing(redis, settings) as board:
            for _ in range(number):
                board.note(job(), JobState.QUEUED)

    feed = Feed(raw)
    await note(3)
    everybody = await streamed(redis)
    entries: Any = await redis.xrange(STREAM)
    ((last, _),) = entries
    second = f"{int(last.partition('-')[0]) - 1}-0"
    async with followed(feed, None, after=second) as news:
        third = await anext(news)
        assert (len(third.events), third.gap) == (1, False), "the others were written with it, and are before it"
        assert third.events[0].job.id in everybody[2]
        await note(500)
        assert len({view.id for view in await views(news, 500)}) == 500
    monkeypatch.setattr("app.monitor.board.STREAM_LENGTH", 100)
    await note(300)
    async with followed(feed, None, after=second) as news:
        missed = await anext(news)
        assert missed.gap
        assert missed.events
    with pytest.raises(InvalidRequest):
        await anext(feed.follow(None, "yesterday"))


async def test_a_listener_that_falls_behind_is_let_go_and_can_resume(
    raw: Redis, redis: Redis, settings: Settings
) -> None:
    feed = Feed(raw)
    async with followed(feed, None) as slow, followed(feed, None) as fast:
        async with writing(redis, settings) as board:
            board.note(job(), JobState.QUEUED)
        seen = (await anext(slow)).stream_id
        await views(fast, 1)
        for _ in range(4):
            async with writing(redis, settings) as board:
                for _ in range(feeds.RING // 2):
                    board.note(job(), JobState.QUEUED)
            await views(fast, feeds.RING // 2)
        with pytest.raises(StopAsyncIteration):
            await anext(slow)
        async with followed(feed, None, after=written(seen)) as resumed:
            assert len({view.id for view in await views(resumed, 2 * feeds.RING)}) == 2 * feeds.RING


async def test_a_silent_stream_shows_that_it_is_alive(raw: Redis) -> None:
    async with followed(Feed(raw, heartbeat_seconds=0.1), None) as news:
        sign = await asyncio.wait_for(anext(news), 30)
        assert not sign.events


async def test_an_account_has_only_so_many_streams(raw: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LISTENERS_OF_ONE", 1)
    monkeypatch.setattr(feeds, "LISTENERS", 2)
    feed = Feed(raw)
    async with followed(feed, 1), followed(feed, 2), followed(feed, None):
        for account in (1, 3):
            with pytest.raises(TooManyStreams):
                await anext(feed.follow(account, None))


async def test_the_stream_outlives_an_interruption_of_redis(raw: Redis, redis: Redis, settings: Settings) -> None:
    feed = Feed(raw)
    async with followed(feed, None) as news:
        for client in await redis.client_list():
            if client["cmd"] == "xread":
                await redis.client_kill_filter(_id=client["id"])
        await redis.set("dropoff:else", "1")
        async with writing(redis, settings) as board:
            board.note(job(), JobState.QUEUED)
        assert len(await views(news, 1)) == 1


async def test_what_is_no_event_of_ours_is_skipped_by_who_reads_on_and_by_who_resumes(
    raw: Redis, redis: Redis, settings: Settings
) -> None:
    """As one of a later release, with a state that this one does not know, or whatever else may lie there."""
    feed, before, after = Feed(raw), job(), job()
    await noted(redis, settings, before, (JobState.QUEUED, {}))
    ((first, fields),) = await redis.xrange(STREAM)
    strangers: list[Any] = [
        {"job": b"\xff"}, {b"\xff": "x"}, {"job": "no JSON"}, {"job": "7"}, {"job": "[1]"}, {"job": "{}"},
        {"job": fields["job"].replace("queued", "postponed")},
        {"job": re.sub('"submitted":"[0-9]*"', '"submitted":"9999999999999999999999"', fields["job"])},
    ]  # fmt: skip
    refused = sample("dropoff_messages_refused_total", source="feed")
    async with followed(feed, None) as news:
        for each in strangers:
            await redis.xadd(STREAM, each)
        await noted(redis, settings, after, (JobState.QUEUED, {}))
        assert [event.id for event in await views(news, 1)] == [after.id]
        assert sample("dropoff_messages_refused_total", source="feed") == refused + len(strangers)
    async with followed(Feed(raw), None, after=first) as resumed:
        assert [event.id for event in await views(resumed, 1)] == [after.id]


async def test_a_listener_that_resumes_gets_past_more_strange_events_than_one_batch_has(
    raw: Redis, redis: Redis, settings: Settings
) -> None:
    feed, of = Feed(raw), job()
    async with redis.pipeline() as pipe:
        for _ in range(2 * feeds.BATCH + 1):
            pipe.xadd(STREAM, {"job": "{}"})
        await pipe.execute()
    await noted(redis, settings, of, (JobState.QUEUED, {}))
    ((first, _),) = await redis.xrange(STREAM, count=1)
    async with followed(feed, None, after=first) as news:
        assert [event.id for event in await views(news, 1)] == [of.id]


async def test_no_error_ends_the_reader_of_the_stream(
    raw: Redis, redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, of = Feed(raw), job()
    failures = sample("dropoff_background_failures_total", task="feed")
    async with followed(feed, None) as news:
        with monkeypatch.context() as broken:
            broken.setattr(feeds, "_events", lambda _: 1 / 0)
            await noted(redis, settings, job(), (JobState.QUEUED, {}))
            async with asyncio.timeout(30):
                while sample("dropoff_background_failures_total", task="feed") == failures:
                    await asyncio.sleep(0.01)
        await noted(redis, settings, of, (JobState.QUEUED, {}))
        assert [event.id for event in await views(news, 1)] == [of.id]
        assert not feed.reader.ended


async def test_listeners_that_come_and_go_leave_one_reader_and_then_none(raw: Redis, redis: Redis) -> None:
    feed = Feed(raw)

    async def listen() -> None:
        async with followed(feed, None):
            await asyncio.sleep(0)

    await asyncio.gather(*(listen() for _ in range(20)))
    async with followed(feed, None), followed(feed, None):
        async with asyncio.timeout(30):
            while not (readers := [each for each in await redis.client_list() if each["cmd"] == "xread"]):
                await asyncio.sleep(0.01)
        assert len(readers) == 1
    assert feed.reader._task is None


async def test_a_job_that_this_release_cannot_read_hides_no_other(redis: Redis, settings: Settings) -> None:
    of, strange = job(), job()
    for each in (of, strange):
        await noted(redis, settings, each, (JobState.QUEUED, {}))
    await redis.hset(job_key(strange.id), "state", "postponed")
    assert [shown.id for shown in (await history(redis).page(parse_job_query({})))[0]] == [of.id]
    with pytest.raises(Unavailable):
        await history(redis).get(strange.id, None)
