"""What a hold leaves is on record until it is removed or an operator settles it: the table, and who tries again."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import Unavailable
from app.domain.faults import Fault
from app.domain.leftover import Leftover, LeftoverPage, LeftoverState
from app.domain.verification import Report
from app.hold import leftovers as module
from app.hold.leftovers import Leftovers, pause_after
from app.hold.replies import Replies
from app.messages.broker import opened
from app.messages.clock import Clock
from app.messages.intents import Intents
from app.messages.job import Job, Left, Reply
from app.messages.keys import QUEUE, UNSETTLED, intent_key
from app.messages.sealing import Sealer, new_key
from app.store.accounts import Accounts
from app.store.engine import migrate, open_engine
from app.store.leftovers import PER_ACCOUNT
from app.store.leftovers import Leftovers as Store
from tests.stack import patient
from tests.unit.test_specs import GOOD

OLD, NEW = new_key(), new_key()
SEALER = Sealer((OLD,))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(database_url) as opened:
        await migrate(opened)
        for number in (1, 2):
            await Accounts(opened).ensure_key(f"account {number}", f"key {number}")
        yield opened


@pytest.fixture
def store(engine: AsyncEngine) -> Store:
    return Store(engine)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """An empty Redis, read as bytes."""
    async with patient(redis_url, decode=False) as client:
        await client.flushdb()
        yield client


def leftover(number: int, account: int = 1, **changes: Any) -> Leftover:
    at = NOON + timedelta(seconds=number)
    parts = {
        "id": f"job-{number}", "account": account, "destination": None, "type": "s3", "object": "k",
        "parameters": {"s3_bucket_name": "b"}, "state": LeftoverState.WAITING, "created_at": at, "due_at": at,
    }  # fmt: skip
    return Leftover(**{**parts, **changes})


async def test_one_that_is_there_already_is_not_put_on_record_again(store: Store) -> None:
    await store.add(leftover(1), "sealed")
    await store.add(leftover(1, object="another"), "sealed")
    assert (await store.page(None, 1)).leftovers == (leftover(1),)


async def test_an_account_sees_its_own_and_the_operator_all(store: Store) -> None:
    for number in range(3):
        await store.add(leftover(number, account=1 + number % 2), "sealed")
    assert (await store.page(2, 1)).leftovers == (leftover(1, account=2),)
    assert (await store.page(None, 1)).count == 3
    assert await store.page(1, 2) == LeftoverPage((), 2)
    await store.keep("job-1", "r", "m")
    assert [each.id for each in (await store.page(None, 1, LeftoverState.KEPT)).leftovers] == ["job-1"]
    assert await store.counts() == {LeftoverState.WAITING: 2, LeftoverState.KEPT: 1}


async def test_what_is_due_is_leased_to_one_and_no_account_takes_all_turns(store: Store) -> None:
    for number in range(PER_ACCOUNT + 3):
        await store.add(leftover(number), "sealed")
    await store.add(leftover(99, account=2), "sealed of 99")
    await store.add(leftover(100, account=2, due_at=NOON + 60 * MINUTE), "sealed")
    now = NOON + 2 * MINUTE
    first, second = await asyncio.gather(*(store.due(now, MINUTE, 50) for _ in range(2)))
    taken = [each.id for each, _ in first + second]
    assert len(taken) == len(set(taken))
    assert "job-99" in taken
    assert sum(each.account == 1 for each, _ in first) <= PER_ACCOUNT
    assert {"sealed of 99"} == {sealed for each, sealed in first + second if each.account == 2}
    assert "job-99" in [each.id for each, _ in await store.due(now + 2 * MINUTE, MINUTE, 50)], "a lease is over once"


async def test_one_that_is_kept_is_not_due_until_an_operator_says_so(store: Store) -> None:
    await store.add(leftover(1), "sealed")
    await store.postpone("job-1", NOON + MINUTE, "timeout", "m")
    await store.keep("job-1", None, None)
    (kept,) = (await store.page(None, 1)).leftovers
    assert (kept.state, kept.reason, kept.message, kept.tries) == (LeftoverState.KEPT, "timeout", "m", 1)
    assert await store.due(NOON + 60 * MINUTE, MINUTE, 50) == []
    assert await store.retry("job-1", NOON + 61 * MINUTE)
    ((again, _),) = await store.due(NOON + 62 * MINUTE, MINUTE, 50)
    assert (again.tries, again.created_at) == (0, NOON + 61 * MINUTE)
    assert await store.forget("job-1")
    assert not await store.forget("job-1")
    assert not await store.retry("job-1", NOON)


def job(**changes: Any) -> Job:
    now = time.time()
    parts = {"id": str(uuid.uuid4()), "account": 1, "spec": {"type": "s3", **GOOD["s3"]}, "key": "in/k"}
    times = {"submitted": now, "start_by": now + 14, "deadline": now + 29}
    return Job(**{**parts, **times, "reply_to": "replies", **changes})


def report(of: Job, code: Fault | None = None, **changes: Any) -> Report:
    parts = {"ok": code is None, "code": code, "message": f"because of {code}", "type": "s3", "host": "h"}
    return Report(**{**parts, "object": of.key, "duration_ms": 1, "job": of.id, "steps": (), **changes})


class Process:
    """What an API process does about leftovers, step by step, and a worker that answers as it is told."""

    def __init__(self, store: Any, client: Redis) -> None:
        self.client = client
        self.clock = Clock()
        self.replies = Replies(client, SEALER, self.clock)
        self.intents = Intents(client)
        self.leftovers = Leftovers(store, client, self.intents, self.replies, SEALER, self.clock)
        self.removals: list[Job] = []

    async def retry(self, answer: Any) -> None:
        """One look for what is due, while a worker answers each removal with what `answer` makes of it."""

        async def work() -> None:
            while True:
                _, message = await self.client.brpop(QUEUE)
                removal = Job.model_validate(SEALER.open(opened(message).sealed))
                self.removals.append(removal)
                reply = Reply(at=time.time(), **answer(removal))
                self.replies.hand_over(SEALER.seal(reply.content()))

        worker = asyncio.create_task(work())
        try:
            await self.leftovers._retry()
        finally:
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker


@pytest.fixture
def process(store: Store, client: Redis, monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "ORPHANED_SECONDS", 0.0)
    return Process(store, client)


async def test_a_file_is_put_on_record_removed_by_a_worker_and_off_the_record(store: Store, process: Process) -> None:
    of = job()
    await process.client.set(intent_key("token"), "sealed")
    await process.client.zadd(UNSETTLED, {"token": 1.0})
    process.leftovers.record(of, Left(written=True, version="v1"), "token")
    await process.leftovers._write()
    (on_record,) = (await store.page(None, 1)).leftovers
    assert (on_record.id, on_record.object, on_record.tries) == (of.id, "in/k", 0)
    assert on_record.parameters == of.spec.public()
    assert await process.client.exists(intent_key("token"), UNSETTLED) == 0
    await process.retry(lambda removal: {"report": report(removal)})
    (removal,) = process.removals
    assert removal.left == Left(written=True, version="v1")
    assert removal.id != of.id
    assert (removal.key, removal.spec) == (of.key, of.spec)
    assert (await store.page(None, 1)).count == 0


async def test_a_store_that_refuses_for_a_while_is_asked_again_with_growing_pauses(
    store: Store, process: Process
) -> None:
    process.leftovers.record(job(), Left(written=True))
    await process.leftovers._write()
    for tries in (1, 2, 3):
        await process.retry(
            lambda removal: {"report": report(removal, Fault.PROVIDER_UNAVAILABLE), "left": Left(written=True)}
        )
        (waits,) = (await store.page(None, 1)).leftovers
        assert (waits.tries, waits.reason) == (tries, "provider_unavailable")
        assert waits.message == "because of provider_unavailable"
    await process.retry(lambda removal: {"report": report(removal)})
    assert (await store.page(None, 1)).count == 0


def test_the_pauses_grow_up_to_an_hour() -> None:
    pauses = [pause_after(tries) for tries in range(40)]
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 3600
    assert sum(pauses) > 24 * 3600


async def test_after_a_day_it_is_kept_for_an_operator(store: Store, process: Process) -> None:
    of = job()
    await store.add(leftover(1, created_at=datetime.now(UTC) - timedelta(hours=25)), SEALER.seal(of.content()))
    await process.retry(lambda removal: {"report": report(removal, Fault.TIMEOUT), "left": Left()})
    (kept,) = (await store.page(None, 1)).leftovers
    assert (kept.state, kept.reason, kept.tries) == (LeftoverState.KEPT, "timeout", 1)


async def test_a_version_that_may_remain_is_kept_and_said(store: Store, process: Process) -> None:
    process.leftovers.record(job(), Left())
    await process.leftovers._write()
    await process.retry(lambda removal: {"report": report(removal), "left": Left(hidden=True)})
    (kept,) = (await store.page(None, 1)).leftovers
    assert (kept.state, kept.reason) == (LeftoverState.KEPT, "version_may_remain")


async def test_keys_that_are_refused_at_once_can_have_written_nothing(store: Store, process: Process) -> None:
    answer = {"code": Fault.SECRET_MISMATCH}
    process.leftovers.record(job(), Left())
    await process.leftovers._write()
    await process.retry(lambda removal: {"report": report(removal, **answer), "left": Left()})
    assert (await store.page(None, 1)).count == 0
    process.leftovers.record(job(), Left(written=True))
    await process.leftovers._write()
    await process.retry(lambda removal: {"report": report(removal, **answer), "left": Left(written=True)})
    assert (await store.page(None, 1)).count == 1, "what is known to have been written is not forgotten for that"


async def test_after_a_second_attempt_no_one_version_is_all(process: Process) -> None:
    process.leftovers.record(job(attempt=2), Left(written=True, version="v2"))
    await process.leftovers._write()
    await process.retry(lambda removal: {"report": report(removal)})
    assert process.removals[0].left == Left(written=True)


async def test_what_workers_could_not_settle_is_taken_over(store: Store, process: Process) -> None:
    of, kept = job(left=Left()), job(left=Left(hidden=True))
    await process.client.set(intent_key("a"), SEALER.seal(of.content()))
    await process.client.set(intent_key("b"), b"\xff")
    await process.client.set(intent_key("c"), SEALER.seal(kept.content()))
    await process.client.zadd(UNSETTLED, dict.fromkeys("abc", time.time() - 60))
    await process.leftovers._write()
    found = {each.id: each.state for each in (await store.page(None, 1)).leftovers}
    assert found == {of.id: LeftoverState.WAITING, kept.id: LeftoverState.KEPT}
    assert await process.client.exists(UNSETTLED, *map(intent_key, "abc")) == 0


async def test_one_that_no_key_opens_is_kept(store: Store, process: Process) -> None:
    await store.add(leftover(1), Sealer((NEW,)).seal(job().content()))
    await process.leftovers._retry()
    (kept,) = (await store.page(None, 1)).leftovers
    assert (kept.state, kept.reason) == (LeftoverState.KEPT, "credentials_unreadable")


class Away:
    """A database that does not answer the first few times."""

    def __init__(self, store: Store, times: int) -> None:
        self.store = store
        self.times = times

    async def add(self, leftover: Leftover, sealed: str) -> None:
        self.times -= 1
        if self.times >= 0:
            raise Unavailable("it does not answer")
        await self.store.add(leftover, sealed)


async def test_while_the_database_is_away_nothing_is_forgotten(store: Store, client: Redis) -> None:
    process, of = Process(Away(store, 2), client), job()
    await client.set(intent_key("token"), "sealed")
    async with process.leftovers.writing.running():
        process.leftovers.record(of, Left(), "token")
        async with asyncio.timeout(60):
            while True:
                in_redis = await client.exists(intent_key("token"))
                if (await store.page(None, 1)).count:
                    break
                assert in_redis, "it is on record in Redis until it is in the database"
                await asyncio.sleep(0.01)
            while await client.exists(intent_key("token")):
                await asyncio.sleep(0.01)
    assert (await store.page(None, 1)).leftovers[0].id == of.id
