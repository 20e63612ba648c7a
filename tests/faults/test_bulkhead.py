"""One customer's dead store costs nobody else: real jobs on a real queue, beside hosts that take a request and are
silent."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from app.domain.verification import Report
from app.messages.claims import Claims
from app.messages.clock import Clock
from app.messages.job import Job, Reply
from app.messages.sealing import Sealer, new_key
from app.monitor.board import Board
from tests.faults.verifying import BODIES, BOUND, WITHIN, providers
from tests.servers.odd import answering, silent
from tests.stack import eventually, patient, until
from tests.types.every import STORAGES
from tests.unit.test_pool import put, worker
from workers import bulkhead as bulkheads
from workers.bulkhead import Bulkhead
from workers.loop import Loop
from workers.sightings import Sightings
from workers.tasks import Verifications

SEALER = Sealer((new_key(),))
ROOM = 32
HANGING, ACCOUNTS = 80, 50
BESIDE = 20
STORE = STORAGES["s3compatible"]


@pytest.fixture
def queue(redis_url: str) -> Iterator["Redis[bytes]"]:
    with Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client


def sealed(url: str, reply_to: str, account: int = 1) -> str:
    now = time.time()
    spec = {**BODIES["s3compatible"], "s3_endpoint": url}
    times = {"submitted": now, "start_by": now + BOUND, "deadline": now + 3 * BOUND}
    job = Job(id=str(uuid.uuid4()), account=account, spec=spec, key="k", reply_to=reply_to, **times)
    return SEALER.seal(job.content())


def reports(queue: "Redis[bytes]", name: str) -> list[Report]:
    return [Reply.model_validate(SEALER.open(each)).report for each in queue.lrange(name, 0, -1)]


@contextlib.asynccontextmanager
async def verifications(redis_url: str, bulkhead: Bulkhead, seconds: float) -> AsyncIterator[Verifications]:
    async with AsyncExitStack() as stack:
        client: AsyncRedis = await stack.enter_async_context(patient(redis_url, decode=False))
        clock = Clock()
        provider_for = await stack.enter_async_context(providers(verify_seconds=seconds))
        await stack.enter_async_context(bulkhead.looking.running())
        yield Verifications(
            "w", SEALER, provider_for, Claims(client, 60), clock, Board(client, clock, jobs=100, worker="w"),
            Sightings(client, clock, SEALER), seconds, propagation_seconds=0, bulkhead=bulkhead,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def silent_hosts(number: int) -> AsyncIterator[list[str]]:
    """The addresses of so many hosts that take what is sent and say nothing, until the block ends."""
    writers: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(-1)

    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(await asyncio.start_server(take, "127.0.0.1", 0)) for _ in range(number)
        ]
        yield [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("hosts", [1, 50])
def test_many_that_hang_on_one_host_or_on_fifty_keep_nobody_waiting(
    redis_url: str, queue: "Redis[bytes]", monkeypatch: pytest.MonkeyPatch, hosts: int
) -> None:
    """More than there is room for hang, and end by nothing while the others are verified."""
    monkeypatch.setattr(bulkheads, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(bulkheads, "LOOK_SECONDS", 0.05)
    # The worker is never what is waited for here, however slow the machine.
    monkeypatch.setattr(bulkheads, "_LATE_SECONDS", BOUND)
    monkeypatch.setattr(bulkheads, "_BUSY", BOUND)
    loop, stack, bulkhead = Loop(), AsyncExitStack(), Bulkhead(ROOM)
    work = loop.run(stack.enter_async_context(verifications(redis_url, bulkhead, BOUND)))
    silent = AsyncExitStack()
    urls = loop.run(silent.enter_async_context(silent_hosts(hosts)))
    with answering(STORE.stored, DELETE=STORE.deleted) as good, worker(redis_url, loop, work.carry_out, ROOM, bulkhead):
        put(queue, *(sealed(urls[n % hosts], "hanging", n % ACCOUNTS) for n in range(HANGING)))
        until(lambda: work.running == HANGING, "all that hang are under way", WITHIN)
        put(queue, *(sealed(good.url, "good") for _ in range(BESIDE)))
        until(lambda: queue.llen("good") == BESIDE, "the others are answered", WITHIN)
        assert queue.llen("hanging") == 0
        loop.run(silent.aclose())
    loop.run(stack.aclose())
    assert all(report.ok for report in reports(queue, "good"))
    assert {report.code for report in reports(queue, "hanging")} == {"connection_failed"}
    assert bulkhead.silent == 0


async def test_a_host_that_answers_nobody_is_called_by_few_and_the_others_are_told_at_once(
    redis_url: str, queue: "Redis[bytes]", time_passes: Callable[[float], None]
) -> None:
    bulkhead = Bulkhead(16)
    with answering(STORE.stored, DELETE=STORE.deleted) as good, silent() as dead:
        async with verifications(redis_url, bulkhead, WITHIN) as work:
            for name, number, called in (("first", 5, 5), ("then", 6, 2)):
                dead.requests.clear()
                calls = [asyncio.create_task(work.carry_out(sealed(dead.url, name))) for _ in range(number)]
                await eventually(lambda n=called: len(dead.requests) == n, "as many call as may")
                await eventually(
                    lambda n=number - called, tasks=calls: sum(task.done() for task in tasks) == n, "others are told"
                )
                time_passes(WITHIN)
                await asyncio.gather(*calls)
            await work.carry_out(sealed(good.url, "good"))
    assert [report.code for report in reports(queue, "first")] == ["timeout"] * 5
    assert not any("was not called" in report.message for report in reports(queue, "first"))
    told = [report for report in reports(queue, "then") if "was not called again" in report.message]
    assert [(report.code, report.parameter, report.left_behind) for report in told] == [
        ("timeout", "s3_endpoint", False)
    ] * 4
    assert {step.outcome for report in told for step in report.steps} == {"skipped"}
    assert reports(queue, "good")[0].ok


def test_a_host_that_answers_most_is_not_taken_for_dead() -> None:
    """As Amazon's, of which one of a million buckets may be silent."""
    bulkhead = Bulkhead(8)
    for timed_out in (True, False) * 10:
        bulkhead.note("host", timed_out=timed_out)
    with bulkhead.calling("host"), bulkhead.calling("host"):
        assert not bulkhead.full("host")
        for _ in range(5):
            bulkhead.note("host", timed_out=True)
        assert bulkhead.full("host")
        assert not bulkhead.full("another")
    assert not bulkhead.full("host"), "somebody has to find out when it is back"


async def test_what_waits_for_the_worker_itself_is_given_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that takes more than it can do is no help to anybody."""
    monkeypatch.setattr(bulkheads, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(bulkheads, "LOOK_SECONDS", 0.05)
    bulkhead = Bulkhead(8)
    with bulkhead.calling("host"), bulkhead.calling("answers"):
        async with bulkhead.looking.running():
            for _ in range(4):
                time.sleep(bulkheads.LOOK_SECONDS * 3)
                await asyncio.sleep(0)
            assert bulkhead.silent == 0
            async with asyncio.timeout(WITHIN):
                while not bulkhead.silent:
                    bulkhead.note("answers", timed_out=False)
                    await asyncio.sleep(0.01)
            assert bulkhead.silent == 1, "the other host answers others"
