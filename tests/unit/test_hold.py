"""Slots, replies and the supervisor on a real Redis: what is given back, what is dropped, what is handed in again."""

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from app.domain.errors import TooManyVerifications, Unavailable, VerificationTimedOut
from app.domain.verification import UNKNOWN_LOCATION, Report
from app.hold import backlog as backlogs
from app.hold import slots as slots_module
from app.hold import supervisor as supervisors
from app.hold.backlog import Backlog
from app.hold.continuity import Continuity
from app.hold.replies import Replies
from app.hold.slots import Slots
from app.hold.supervisor import Supervisor
from app.hold.verifier import Verifier
from app.messages.broker import envelope, opened
from app.messages.claims import Claims
from app.messages.clock import Clock
from app.messages.connections import connect
from app.messages.job import Job, Left, Reply
from app.messages.keys import HELD, QUEUE, WORKERS, claim_key, slots_key
from app.messages.sealing import Sealer, new_key
from tests.stack import patient
from tests.unit.sampling import sample
from tests.unit.test_specs import GOOD

SEALER = Sealer((new_key(),))
ACCOUNT = 7
MESSAGE = "a message"
PATIENCE = 30.0
"""What is to happen at once has so many seconds, however slow the machine is."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hold asks of Redis for a moment alone is answered on a slow machine too."""
    monkeypatch.setattr(slots_module, "_RELEASE_SECONDS", PATIENCE)
    monkeypatch.setattr(supervisors, "_LAST_LOOK_SECONDS", PATIENCE)
    monkeypatch.setattr(backlogs, "_GAP_SECONDS", 600.0)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """An empty Redis, read as bytes."""
    async with patient(redis_url, decode=False) as client:
        await client.flushdb()
        yield client


def job(**changes: Any) -> Job:
    now = time.time()
    parts = {"id": str(uuid.uuid4()), "account": ACCOUNT, "spec": {"type": "s3", **GOOD["s3"]}, "key": "k"}
    times = {"submitted": now, "start_by": now + 140, "deadline": now + 290}
    return Job(**{**parts, **times, "reply_to": "replies", **changes})


def sealed_reply(of: Job, **changes: Any) -> str:
    report = Report(ok=True, message="m", type="s3", host="h", object="k", duration_ms=1, job=of.id, steps=())
    return SEALER.seal(Reply(report=report, at=time.time(), **changes).content())


def slots_of(client: Redis, **changes: Any) -> Slots:
    return Slots(client, Clock(), **{"per_account": 20, "in_process": 1000, "seconds": 30.0, **changes})


async def test_three_hundred_clients_that_leave_at_once_leave_no_slot_taken(client: Redis) -> None:
    slots = slots_of(client, per_account=300)

    async def hold(number: int) -> None:
        async with slots.taken(ACCOUNT, f"job-{number}", MESSAGE):
            await asyncio.sleep(60)

    async with slots.releasing.running():
        held = [asyncio.create_task(hold(number)) for number in range(300)]
        async with asyncio.timeout(PATIENCE):
            while await client.zcard(HELD) < 300:
                await asyncio.sleep(0.02)
        for each in held:
            each.cancel()
        await asyncio.wait(held)
        assert (await client.zcard(HELD), await client.zcard(slots_key(ACCOUNT))) == (0, 0)


async def test_a_client_that_leaves_while_its_slot_is_being_taken_leaves_none(client: Redis) -> None:
    slots = slots_of(client)
    async with slots.releasing.running():
        for steps in range(12):
            task = asyncio.create_task(
                contextlib.AsyncExitStack().enter_async_context(slots.taken(ACCOUNT, "job", MESSAGE))
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                break
            async with asyncio.timeout(PATIENCE):
                while slots._released or await client.zcard(slots_key(ACCOUNT)):
                    await asyncio.sleep(0.01)


async def test_what_a_process_that_dies_has_taken_expires(client: Redis) -> None:
    slots = slots_of(client)
    async with slots.releasing.running(), contextlib.AsyncExitStack() as held:
        async with slots.taken(ACCOUNT, "first", MESSAGE):
            pass
        # The set is a new one, although it was told when it expires a moment before.
        for number in range(3):
            await held.enter_async_context(slots.taken(ACCOUNT, f"job-{number}", MESSAGE))
        assert 0 < await client.ttl(slots_key(ACCOUNT)) <= 33


async def test_a_slot_is_free_again_before_the_answer_is_given(client: Redis) -> None:
    slots = slots_of(client, per_account=1)
    async with slots.releasing.running():
        for number in range(20):
            async with slots.taken(ACCOUNT, f"job-{number}", MESSAGE):
                with pytest.raises(TooManyVerifications):
                    async with slots.taken(ACCOUNT, "another", MESSAGE):
                        pass
                async with slots.taken(ACCOUNT + 1, "somebody-else's", MESSAGE):
                    pass


async def test_a_slot_that_a_repeated_call_takes_when_its_job_is_done_is_free_with_the_second_message(
    client: Redis,
) -> None:
    """A call whose answer does not come is made again, and the worker may be faster."""
    claims, slots = Claims(client, 60), slots_of(client, per_account=1)
    async with slots.releasing.running():
        async with slots.taken(ACCOUNT, "job", MESSAGE) as slot:
            assert await claims.take("job", "w", "1", account=ACCOUNT)
            await claims.finish("job", "list", "reply", account=ACCOUNT, token="1")
            assert await slots._admit(ACCOUNT, "job", MESSAGE, 1)
            slot.free = True
        assert (await client.zcard(HELD), await client.zcard(slots_key(ACCOUNT)), await client.llen(QUEUE)) == (1, 1, 2)
        assert not await claims.take("job", "w", "2", account=ACCOUNT)
        assert (await client.zcard(HELD), await client.zcard(slots_key(ACCOUNT))) == (0, 0)


@pytest.mark.parametrize(("setting", "own"), [(3, 1), (1, 2)])
async def test_an_account_has_as_many_slots_as_are_its_own_and_others_those_of_the_setting(
    client: Redis, setting: int, own: int
) -> None:
    slots = slots_of(client, per_account=setting)
    async with slots.releasing.running(), contextlib.AsyncExitStack() as taken:
        for account, at_once, limit in ((ACCOUNT, own, own), (ACCOUNT + 1, None, setting)):
            for number in range(limit):
                await taken.enter_async_context(slots.taken(account, f"job-{number}", MESSAGE, at_once))
            with pytest.raises(TooManyVerifications, match=f"has {limit} verifications under way"):
                await taken.enter_async_context(slots.taken(account, "one-more", MESSAGE, at_once))


async def test_a_process_that_holds_enough_holds_no_more(client: Redis) -> None:
    slots = slots_of(client, in_process=1)
    async with slots.releasing.running(), slots.taken(ACCOUNT, "one", MESSAGE):
        with pytest.raises(Unavailable):
            async with slots.taken(ACCOUNT, "two", MESSAGE):
                pass


class Watching:
    """A supervisor with all that it needs, whose looks a test makes itself."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.clock = Clock()
        self.claims = Claims(client, 60)
        self.replies = Replies(client, SEALER, self.clock)
        self.supervisor = Supervisor(client, self.claims, self.replies, SEALER, self.clock)

    @contextlib.contextmanager
    def held(self, of: Job, ago: float = 4) -> Any:
        """`of`, whose message was published so many seconds ago."""
        with self.replies.expected(of.id) as reply, self.supervisor.watched(of, reply) as held:
            held.published -= ago
            yield held

    async def look(self) -> None:
        held = [*self.supervisor._held.values()]
        seen = await self.supervisor._see(held)
        for each, claim in zip(held, seen.claims, strict=True):
            await self.supervisor._settle(each, claim, seen)

    async def beat(self, worker: str, ago: float = -600) -> None:
        """`worker` was heard of so many seconds ago; it counts as alive for all of a test where it is to be."""
        await self.client.zadd(WORKERS, {worker: time.time() - ago})

    async def queued(self) -> list[Job]:
        messages = [opened(raw) for raw in await self.client.lrange(QUEUE, 0, -1)]
        return [Job.model_validate(SEALER.open(message.sealed)) for message in messages]


@pytest.fixture
def watching(client: Redis) -> Watching:
    return Watching(client)


async def test_a_job_that_waits_in_the_queue_is_not_handed_in_again(watching: Watching) -> None:
    of = job()
    with watching.held(of) as held:
        await watching.client.lpush(QUEUE, envelope(of.id, SEALER.seal(of.content()), held.published))
        for _ in range(3):
            await watching.look()
        assert len(await watching.queued()) == 1


async def test_a_job_whose_message_is_gone_is_handed_in_again_once(watching: Watching) -> None:
    of = job()
    with watching.held(of) as held:
        await watching.client.lpush(QUEUE, envelope(str(uuid.uuid4()), "x", held.published + 1))
        await watching.look()
        await watching.client.rpop(QUEUE)
        (again,) = await watching.queued()
        assert (again.id, again.attempt, again.start_by) == (of.id, 2, of.start_by)
        held.published -= 10
        await watching.client.delete(QUEUE)
        await watching.look()
        assert await watching.queued() == []


async def test_a_job_of_a_dead_worker_is_handed_in_again_while_there_is_time(watching: Watching) -> None:
    of = job()
    with watching.held(of) as held:
        assert await watching.claims.take(of.id, "dead", "token", account=ACCOUNT)
        await watching.beat("dead")
        await watching.look()
        await watching.beat("dead", ago=60)
        await watching.look()
        assert await watching.queued() == [], "one look is not enough"
        await watching.look()
        (again,) = await watching.queued()
        assert (again.attempt, again.start_by) == (2, of.deadline - 2)
        for _ in range(3):
            await watching.look()
        assert not held.reply.done(), "what the dead one claimed does not count any more"
        assert await watching.claims.take(of.id, "living", "token", account=ACCOUNT)
        await watching.beat("living")
        await watching.look()
        assert held.worker == "living"


@pytest.mark.parametrize(("attempt", "left"), [(2, 20), (1, 1)])
async def test_with_no_attempt_or_no_time_left_the_answer_comes_at_once(
    watching: Watching, attempt: int, left: float
) -> None:
    of = job(attempt=attempt, deadline=time.time() + left)
    with watching.held(of) as held:
        assert await watching.claims.take(of.id, "dead", "token", account=ACCOUNT)
        for _ in range(2):
            await watching.look()
        with pytest.raises(VerificationTimedOut) as caught:
            held.reply.result()
        assert "k may have been left behind" in caught.value.message
        assert await watching.queued() == []


async def test_a_job_that_nobody_began_in_time_is_given_up(watching: Watching) -> None:
    of = job(start_by=time.time() - 2)
    with watching.held(of) as held:
        await watching.look()
        with pytest.raises(Unavailable):
            held.reply.result()


async def test_where_redis_lost_its_data_a_file_that_may_remain_is_named(watching: Watching) -> None:
    of, later = job(start_by=time.time() - 2), job(start_by=time.time() - 2)
    await watching.supervisor._continuity.look(watching.client, time.time() - 10)
    with watching.held(of) as held:
        await watching.client.flushdb()
        await watching.look()
        with pytest.raises(Unavailable) as caught:
            held.reply.result()
        assert caught.value.details["object"] == of.key
        assert of.key in caught.value.message
        assert f"leftover {of.id}" in caught.value.message
    with watching.held(later, ago=-1) as held:
        await watching.look()
        with pytest.raises(Unavailable) as caught:
            held.reply.result()
        assert "object" not in caught.value.details, "it was handed in after that"


async def test_another_run_of_redis_may_have_lost_something(client: Redis) -> None:
    continuity = Continuity()
    await continuity.look(client, 1.0)
    await continuity.look(client, 2.0)
    assert continuity.broken_at < 0
    continuity._run = "an earlier one"
    await continuity.look(client, 3.0)
    assert continuity.broken_at == 3.0, "it had begun before the last look, as one that takes over has"


async def test_a_redis_that_was_restarted_has_lost_nothing_that_it_was_told_since(client: Redis) -> None:
    """Who holds nothing does not look, and finds it out at the next job."""
    continuity = Continuity()
    await continuity.look(client, 1.0)
    continuity._run = "an earlier one"
    uptime = int((await client.info("server"))["uptime_in_seconds"])
    await continuity.look(client, uptime + 1000.0)
    since = int((await client.info("server"))["uptime_in_seconds"]) - uptime
    assert 1000 - since <= continuity.broken_at <= 1000


async def test_at_the_end_of_a_hold_redis_is_asked_whether_the_job_was_begun(watching: Watching) -> None:
    of = job()
    with watching.held(of) as held:
        error = await watching.supervisor.gave_up(held)
        assert "object" not in error.details, "its claim is not there, and Redis has lost nothing"
        await watching.claims.take(of.id, "w", "token", account=ACCOUNT)
        assert (await watching.supervisor.gave_up(held)).details["object"] == of.key
    unreachable = connect("redis://127.0.0.1:1/0", decode=False)
    alone = Watching(unreachable)
    with alone.held(of) as held:
        assert (await alone.supervisor.gave_up(held)).details["object"] == of.key, "nobody knows"
    await unreachable.aclose()


class Recorded:
    """Takes the place of what puts leftovers on record."""

    def __init__(self) -> None:
        self.found: list[tuple[Job, Left, str]] = []

    def record(self, job: Job, left: Left, intent: str = "") -> None:
        self.found.append((job, left, intent))


class Holding:
    """The whole hold, on a real Redis."""

    def __init__(self, client: Redis, hold: float = 90.0, verify: float = 30.0) -> None:
        self.client = client
        self.watching = Watching(client)
        self.slots = slots_of(client)
        self.recorded = Recorded()
        self.submitted = asyncio.Event()
        board: Any = SimpleNamespace(note=lambda *_: self.submitted.set())
        leftovers: Any = self.recorded
        backlog = Backlog(client, self.watching.clock, start_seconds=hold - verify)
        self.verifier = Verifier(
            self.watching.clock, backlog, self.slots, self.watching.replies, self.watching.supervisor,
            leftovers, SEALER, board, hold_seconds=hold, verify_seconds=verify,
        )  # fmt: skip

    def begin(self) -> "asyncio.Task[Report]":
        spec = job().spec
        return asyncio.create_task(self.verifier.verify(ACCOUNT, spec, "k", location=UNKNOWN_LOCATION, lenient=False))

    async def taken(self) -> Job:
        """The job that was published."""
        _, message = await self.client.brpop(QUEUE, PATIENCE)
        return Job.model_validate(SEALER.open(opened(message).sealed))


@pytest.fixture
async def holding(client: Redis) -> AsyncIterator[Holding]:
    holding = Holding(client)
    async with holding.slots.releasing.running():
        yield holding


async def test_a_worker_gives_the_slot_back_with_its_reply(client: Redis) -> None:
    holding = Holding(client)
    # Nothing else here gives slots back.
    async with holding.watching.replies.reading.running():
        held = holding.begin()
        of = await holding.taken()
        assert (await client.zcard(HELD), await client.zcard(slots_key(ACCOUNT))) == (1, 1)
        reply = sealed_reply(of, freed=True)
        await holding.watching.claims.finish(of.id, of.reply_to, reply, account=ACCOUNT, token="t")
        assert (await held).ok
    assert (await client.zcard(HELD), await client.zcard(slots_key(ACCOUNT))) == (0, 0)


async def test_what_a_worker_says_that_it_left_is_put_on_record(holding: Holding) -> None:
    held = holding.begin()
    of = await holding.taken()
    holding.watching.replies.hand_over(sealed_reply(of, left=Left(version="v"), intent="token"))
    assert (await held).ok
    ((job, left, intent),) = holding.recorded.found
    assert (job.id, left, intent) == (of.id, Left(version="v"), "token")


@pytest.mark.parametrize("left", [None, Left()])
async def test_a_job_whose_client_has_gone_is_followed_to_its_end(holding: Holding, left: Left | None) -> None:
    held = holding.begin()
    of = await holding.taken()
    await holding.submitted.wait()
    held.cancel()
    await asyncio.wait({held})
    assert held.cancelled()
    assert await holding.client.zcard(slots_key(ACCOUNT)) == 0, "its slot is free at once"
    holding.watching.replies.hand_over(sealed_reply(of, left=left))
    await asyncio.gather(*holding.verifier._left)
    assert [found[:2] for found in holding.recorded.found] == ([(of, left)] if left else [])
    assert holding.watching.replies._waiting == {}


async def test_one_that_was_begun_and_has_no_end_when_its_client_has_gone_is_put_on_record(
    client: Redis, time_passes: Callable[[float], None]
) -> None:
    holding = Holding(client)
    async with holding.slots.releasing.running():
        await holding.watching.supervisor._continuity.look(client, 0)
        begun, waiting = holding.begin(), holding.begin()
        of, _ = await holding.taken(), await holding.taken()
        await holding.watching.claims.take(of.id, "dead", "token", account=ACCOUNT)
        for each in (begun, waiting):
            each.cancel()
        await asyncio.wait({begun, waiting})
        assert len(holding.verifier._left) == 2
        # Each waits for the end of its hold from its first turn on.
        await asyncio.sleep(0)
        time_passes(90)
        await asyncio.gather(*holding.verifier._left)
    assert [found[0].id for found in holding.recorded.found] == [of.id], "nobody has begun the other"


async def test_a_reply_that_was_lost_on_its_way_is_found(watching: Watching) -> None:
    of = job()
    with watching.held(of) as held:
        await watching.claims.finish(of.id, "somebody-else's-list", sealed_reply(of), account=ACCOUNT, token="t")
        await watching.look()
        assert held.reply.result().report.job == of.id


async def test_what_is_no_claim_stops_nothing(watching: Watching) -> None:
    of, other = job(), job()
    with watching.held(of) as held, watching.held(other) as beside:
        await watching.client.set(claim_key(of.id), b"\xff:\xfe")
        await watching.client.zadd(WORKERS, {b"\xff": time.time()})
        await watching.claims.finish(other.id, "list", sealed_reply(other), account=ACCOUNT, token="t")
        await watching.look()
        assert not held.reply.done()
        assert beside.reply.result().report.job == other.id


async def test_a_claim_is_taken_once_and_over_from_the_dead_only(client: Redis) -> None:
    claims = Claims(client, 60)
    await client.zadd(WORKERS, {"a": time.time() + 600})
    assert await claims.take("job", "a", "1", account=ACCOUNT)
    assert await claims.take("job", "a", "1", account=ACCOUNT), "the same call may arrive twice"
    assert not await claims.take("job", "a", "2", account=ACCOUNT), "another delivery, to the same worker"
    assert not await claims.take("job", "b", "3", account=ACCOUNT)
    await client.zadd(WORKERS, {"a": time.time() - 60})
    assert await claims.take("job", "b", "3", account=ACCOUNT)
    await claims.finish("job", "list", "reply", account=ACCOUNT, token="3")
    assert not await claims.take("job", "c", "4", account=ACCOUNT)
    (claim,) = await claims.look(["job"])
    assert claim
    assert claim.reply == b"reply"


async def test_the_reader_of_replies_goes_on_whatever_lies_in_its_list(client: Redis) -> None:
    replies, of = Replies(client, SEALER, Clock()), job()
    before = sample("dropoff_messages_refused_total", source="replies")
    strange = (b"\xff", b"", b"{}", SEALER.seal({"ok": True}).encode(), Sealer((new_key(),)).seal({}).encode())
    async with replies.reading.running():
        with replies.expected(of.id) as reply:
            await client.rpush(replies.name, *strange, sealed_reply(of))
            assert (await asyncio.wait_for(reply, PATIENCE)).report.job == of.id
            await client.delete(replies.name)
            await client.set(replies.name, "a value of another kind", px=300)
        again = job()
        with replies.expected(again.id) as reply:
            async with asyncio.timeout(PATIENCE):
                while await client.exists(replies.name):
                    await asyncio.sleep(0.05)
            await client.rpush(replies.name, sealed_reply(again))
            assert (await asyncio.wait_for(reply, PATIENCE)).report.job == again.id
        assert not replies.reading.ended
    assert sample("dropoff_messages_refused_total", source="replies") == before + len(strange)


def test_times_are_those_of_redis_whatever_the_own_clock_says() -> None:
    clock = Clock()
    sent = time.monotonic()
    theirs = time.time() + 3600
    clock.set((int(theirs), int(theirs % 1 * 1e6)), sent)
    took = time.monotonic() - sent
    assert abs(clock.now() - theirs) < 0.5 + took
    assert clock.is_off
    assert abs(clock.offset + 3600) < 0.5 + took


def test_an_answer_that_took_long_does_not_replace_a_better_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stands = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: stands)
    clock = Clock()
    clock.set((1000, 0), time.monotonic() - 0.01)
    clock.set((2000, 0), time.monotonic() - 0.2)
    assert abs(clock.now() - 1000) < 0.1
    clock.set((3000, 0), time.monotonic())
    assert abs(clock.now() - 3000) < 0.1, "a quick one does, also where Redis' clock has been set"


def has_room(backlog: Backlog) -> bool:
    try:
        backlog.require_room()
    except Unavailable:
        return False
    return True


async def room(backlog: Backlog, *, expected: bool) -> None:
    """Wait until it says that there is room, or that there is none."""
    async with asyncio.timeout(PATIENCE):
        while has_room(backlog) is not expected:
            await asyncio.sleep(0.05)


class SetClock(Clock):
    """Redis' clock, some seconds further."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


async def put_in_queue(client: Redis) -> None:
    await client.lpush(QUEUE, envelope(str(uuid.uuid4()), "sealed", time.time()))


async def looked(backlog: Backlog) -> None:
    """Return when it has looked twice more, so that it knows what is there now."""
    looks: Any = backlog._continuity
    async with asyncio.timeout(PATIENCE):
        for _ in range(2):
            before = looks._looked_at
            while looks._looked_at == before:
                has_room(backlog)
                await asyncio.sleep(0.05)


async def test_what_could_not_be_begun_in_time_is_refused_while_workers_do_not_keep_up(client: Redis) -> None:
    clock = SetClock()
    backlog = Backlog(client, clock, start_seconds=14)
    async with backlog.looking.running():
        await client.zadd(WORKERS, {"busy": time.time() + 600})
        await put_in_queue(client)
        await looked(backlog)
        clock.ahead = 8
        await room(backlog, expected=False)
        await client.lpush(QUEUE, envelope(str(uuid.uuid4()), "sealed", clock.now()))
        await client.rpop(QUEUE)
        await room(backlog, expected=True)
        clock.ahead = 16
        await room(backlog, expected=False)
        # What waits for a worker to start is held.
        await client.delete(WORKERS)
        await room(backlog, expected=True)


class Paced:
    """A queue that goes at a pace of its own: looks at it each 0.3 seconds, of a clock that they move."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.clock = SetClock()
        self.backlog = Backlog(client, self.clock, start_seconds=14)

    async def full_after(self, seconds: float, *, pace: float, until: float = math.inf) -> float | None:
        """After how many seconds it is full, if it is: who waits longest was published that many seconds ago times
        `pace`, and who came last now, and after `until` nobody."""
        await self.client.zadd(WORKERS, {"busy": time.time() + 600})
        began = self.clock.now()
        for number in range(round(seconds / 0.3)):
            at = number * 0.3
            self.clock.ahead = began + at - time.time()
            ends = [began + at * pace, began + min(at, until)]
            await self.client.delete(QUEUE)
            await self.client.lpush(QUEUE, *(envelope(str(uuid.uuid4()), "sealed", each) for each in ends))
            if await self.backlog._full():
                return at
        return None


async def test_it_is_seen_early_that_what_comes_now_would_wait_too_long(client: Redis) -> None:
    # Of three that come, one is begun: after 5.6 seconds who comes waits for 11.2, of the 14 that it may.
    found = await Paced(client).full_after(12, pace=1 / 3)
    assert found is not None
    assert 5 < found < 6.6, "by age alone it would be found after 10.5"


async def test_a_burst_that_is_worked_off_in_time_refuses_nobody(client: Redis) -> None:
    # What came within three seconds is begun within nine: the last of it waits for six.
    assert await Paced(client).full_after(9, pace=1 / 3, until=3) is None


class Worked(Paced):
    """One of which so many are taken between two looks."""

    async def put(self, *published: float) -> None:
        for each in published:
            self.backlog.put_in()
            await self.client.lpush(QUEUE, envelope(str(uuid.uuid4()), "sealed", each))

    async def full(self, began: float, at: float) -> bool:
        self.clock.ahead = began + at - time.time()
        return await self.backlog._full()

    async def full_behind_a_burst(self, taken: int) -> list[bool]:
        """Whether it is, at each look behind a burst of 500 within a moment, while so many are taken and one comes."""
        await self.client.zadd(WORKERS, {"busy": time.time() + 600})
        began = self.clock.now()
        await self.put(*(began + n / 10_000 for n in range(500)))
        found = []
        for number in range(1, 18):
            await self.client.rpop(QUEUE, taken)
            await self.put(began + number * 0.3)
            found.append(await self.full(began, number * 0.3))
        return found


async def test_who_comes_behind_a_burst_is_not_told_to_wait_as_long_as_the_burst_is_short(client: Redis) -> None:
    """It came within a moment, of which a thousandth passes with each job that is taken."""
    assert not any(await Worked(client).full_behind_a_burst(30)), "the last waits for five seconds"


async def test_a_burst_that_is_too_large_is_seen(client: Redis) -> None:
    assert any(await Worked(client).full_behind_a_burst(3)), "the last waits for 45 seconds"


async def test_the_pace_is_that_since_there_is_a_worker(client: Redis) -> None:
    queue = Worked(client)
    began = queue.clock.now()
    await queue.put(*(began + n * 0.01 for n in range(400)))
    for number in range(1, 14):
        assert not await queue.full(began, number * 0.3)
    await client.zadd(WORKERS, {"new": time.time() + 600})
    for number in range(14, 24):
        await client.rpop(QUEUE, 25)
        assert not await queue.full(began, number * 0.3), "it has begun all within five seconds"


async def test_a_message_that_is_not_ours_tells_nothing_of_how_long_one_waits(client: Redis) -> None:
    queue = Worked(client)
    await client.zadd(WORKERS, {"busy": time.time() + 600})
    began = queue.clock.now()
    for number in range(20):
        await client.delete(QUEUE)
        await queue.put(began + number * 0.3 - 4)
        await client.lpush(QUEUE, "strange")
        assert not await queue.full(began, number * 0.3)


async def test_a_queue_that_stood_still_for_a_moment_refuses_nobody(client: Redis) -> None:
    assert await Paced(client).full_after(2.8, pace=0.01) is None


@contextlib.asynccontextmanager
async def full(client: Redis) -> AsyncIterator[Backlog]:
    """One that has found that the workers do not keep up, and looks on as long as the block lasts."""
    clock = SetClock()
    backlog = Backlog(client, clock, start_seconds=14)
    await client.zadd(WORKERS, {"busy": time.time() + 600})
    await put_in_queue(client)
    async with backlog.looking.running():
        await looked(backlog)
        clock.ahead = 8
        await room(backlog, expected=False)
        yield backlog


async def test_what_redis_brings_back_after_a_restart_refuses_nobody(client: Redis) -> None:
    """Its last second of what was taken may be lost, and then what was taken is there again, as old as it is."""
    clock = SetClock()
    backlog = Backlog(client, clock, start_seconds=14)
    async with backlog.looking.running():
        await client.zadd(WORKERS, {"busy": time.time() + 600})
        await put_in_queue(client)
        clock.ahead = 8
        # Nobody looked before, so that nobody saw it wait.
        await looked(backlog)
        assert has_room(backlog)
        clock.ahead = 16
        await room(backlog, expected=False)
        await client.delete(backlog._continuity._key)
        await room(backlog, expected=True)
        await looked(backlog)
        assert has_room(backlog)
        clock.ahead = 24
        await room(backlog, expected=False)


async def test_while_redis_does_not_answer_nobody_is_refused_for_what_was_found(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlogs, "BELIEVED_SECONDS", 60.0)
    async with full(client) as backlog:
        # A list where a set is expected: the same to the one who looks as no answer.
        await client.rename(QUEUE, WORKERS)
        await room(backlog, expected=True)


async def test_what_was_found_long_ago_refuses_nobody(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody asks, nobody looks."""
    monkeypatch.setattr(backlogs, "BELIEVED_SECONDS", 0.2)
    async with full(client) as backlog:
        pass
    await room(backlog, expected=True)
