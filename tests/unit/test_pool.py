"""The worker's pool and transport on a real queue, in this process: what is taken, when, and what is told of it."""

import asyncio
import contextlib
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import kombu.asynchronous
import pytest
from celery import Celery
from celery.worker import WorkController, state
from redis import Redis

from app.messages.broker import envelope
from app.messages.connections import parse_redis_url
from app.messages.keys import QUEUE
from tests.stack import redis_server, until
from tests.unit.sampling import sample
from workers import consumer, transport
from workers.bulkhead import Bulkhead
from workers.consumer import Consuming, celery_app
from workers.loop import Loop
from workers.pool import coroutine_pool

Work = Callable[[str], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("pool")) as url:
        yield url


@pytest.fixture
def queue(redis_url: str) -> Iterator["Redis[bytes]"]:
    with Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client


@pytest.fixture(scope="module")
def loop() -> Loop:
    return Loop()


class Worker:
    """A worker in a thread of this process, without the handlers of signals, which are the program's."""

    def __init__(self, url: str, loop: Loop, work: Work, jobs: int, bulkhead: Bulkhead | None) -> None:
        self.consuming = Consuming()
        self.app = celery_app(parse_redis_url(url))
        self.app.steps["consumer"].add(self.consuming.step())
        self._controller: Any = None
        ready = threading.Event()

        def run() -> None:
            state.should_stop = state.should_terminate = None
            kombu.asynchronous.set_event_loop(None)
            self._controller = WorkController(
                app=self.app, hostname=f"w@{uuid.uuid4().hex}", pool_cls=coroutine_pool(loop, work, bulkhead),
                concurrency=jobs, without_gossip=True, without_mingle=True, ready_callback=lambda _: ready.set(),
            )  # fmt: skip
            self._controller.start()

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert ready.wait(60)

    def stop(self) -> None:
        state.should_stop = 0
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def worker(url: str, loop: Loop, work: Work, jobs: int = 4, bulkhead: Bulkhead | None = None) -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch:
        # A machine that stands still for seconds is no Redis that has gone, with which a message would be lost here.
        patch.setattr(consumer, "OVERDUE_SECONDS", 60)
        patch.setattr(transport, "SOCKET_SECONDS", 60.0)
        running = Worker(url, loop, work, jobs, bulkhead)
        try:
            yield running
        finally:
            running.stop()


def put(queue: "Redis[bytes]", *sealed: str) -> None:
    for each in sealed:
        queue.lpush(QUEUE, envelope(str(uuid.uuid4()), each, time.time()))


def test_so_many_jobs_are_under_way_and_the_rest_stays_on_the_queue(
    redis_url: str, queue: "Redis[bytes]", loop: Loop
) -> None:
    begun: list[str] = []
    gate = asyncio.Event()

    async def waits(sealed: str) -> None:
        begun.append(sealed)
        await gate.wait()

    put(queue, *(str(n) for n in range(20)))
    with worker(redis_url, loop, waits, jobs=8):
        until(lambda: len(begun) == 8, "as many as may are begun")
        time.sleep(1.5)
        assert (len(begun), queue.llen(QUEUE)) == (8, 12)
        # A new connection is no new room.
        for kind in ("normal", "pubsub"):
            queue.client_kill_filter(_type=kind, skipme=True)
        queue.lpush(QUEUE, "strange")
        time.sleep(2)
        assert (len(begun), queue.llen(QUEUE)) == (8, 13)
        loop.run(_set(gate))
        until(lambda: len(begun) == 20, "the rest is begun")
    assert [int(each) for each in begun] == list(range(20))


def test_messages_that_wait_are_taken_together(redis_url: str, queue: "Redis[bytes]", loop: Loop) -> None:
    begun: list[str] = []

    async def notes(sealed: str) -> None:
        begun.append(sealed)

    put(queue, *(str(n) for n in range(40)))
    queue.config_resetstat()
    with worker(redis_url, loop, notes, jobs=100):
        until(lambda: len(begun) == 40, "all are begun")
        assert queue.info("commandstats")["cmdstat_blmpop"]["calls"] < 20
    assert [int(each) for each in begun] == list(range(40))


async def _set(gate: asyncio.Event) -> None:
    gate.set()


def test_who_becomes_free_takes_the_next_job_at_once(redis_url: str, queue: "Redis[bytes]", loop: Loop) -> None:
    """Celery's loop sleeps for up to a second where nothing wakes it: twenty jobs would take twenty."""
    times: list[float] = []

    async def short(sealed: str) -> None:
        times.append(time.monotonic())
        await asyncio.sleep(0.01)

    with worker(redis_url, loop, short, jobs=1):
        put(queue, *(str(n) for n in range(20)))
        until(lambda: len(times) == 20, "all are done")
    waits = sorted(later - sooner - 0.01 for sooner, later in itertools.pairwise(times))
    assert waits[len(waits) // 2] < 0.5


def test_a_task_that_breaks_ends_nothing_and_is_told_by_its_kind_alone(
    redis_url: str, queue: "Redis[bytes]", loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    async def breaks(sealed: str) -> None:
        if sealed == "bad":
            raise LookupError("SENTINEL")
        done.append(sealed)

    with worker(redis_url, loop, breaks):
        put(queue, "bad", "good")
        until(lambda: done == ["good"], "the next is done")


def test_a_warm_stop_waits_for_what_is_under_way_and_leaves_the_rest(
    redis_url: str, queue: "Redis[bytes]", loop: Loop
) -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def slow(sealed: str) -> None:
        begun.append(sealed)
        await asyncio.sleep(1)
        ended.append(sealed)

    with worker(redis_url, loop, slow) as running:
        put(queue, "a", "b")
        until(lambda: len(begun) == 2, "both are begun")
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        until(lambda: not queue.client_list(_type="pubsub") or not stopping.is_alive(), "it reads no more")
        put(queue, "c")
        stopping.join()
    assert sorted(ended) == sorted(begun)
    assert queue.llen(QUEUE) == 1 + 2 - len(begun)
    state.should_stop = None


def test_a_message_that_comes_while_a_worker_stops_is_carried_out_or_stays(
    redis_url: str, queue: "Redis[bytes]", loop: Loop
) -> None:
    """What Redis has taken off the queue for this worker is nowhere else."""
    done: list[str] = []

    async def notes(sealed: str) -> None:
        done.append(sealed)

    for n in range(3):
        with worker(redis_url, loop, notes):
            threading.Timer(0.2 * n, put, (queue, str(n))).start()
            state.should_stop = 0
        until(lambda n=n: len(done) + queue.llen(QUEUE) == n + 1, "it is done or waits")


STRANGE = {
    "nothing": "",
    "another shape": '{"hello": "world"}',
    "another content type": envelope(str(uuid.uuid4()), "s", 1.0).replace("application/json", "application/x-strange"),
    "another task": envelope(str(uuid.uuid4()), "s", 1.0).replace("dropoff.verify", "somebody.elses"),
    "another version": envelope(str(uuid.uuid4()), "s", 1.0).replace('"version": 1', '"version": 2'),
}


def test_strange_messages_are_dropped_and_counted_and_the_next_job_is_done(
    redis_url: str, queue: "Redis[bytes]", loop: Loop
) -> None:
    done: list[str] = []

    async def notes(sealed: str) -> None:
        done.append(sealed)

    before = sample("dropoff_messages_refused_total", source="queue")
    with worker(redis_url, loop, notes) as running:
        restarts = running._controller.consumer.restart_count
        for each in STRANGE.values():
            queue.lpush(QUEUE, each)
        put(queue, "good")
        until(lambda: done == ["good"], "the next is done")
        assert running._controller.consumer.restart_count == restarts
    assert sample("dropoff_messages_refused_total", source="queue") == before + len(STRANGE)
    assert queue.llen(QUEUE) == 0


def test_what_came_with_a_message_that_breaks_the_worker_is_done(
    redis_url: str, queue: "Redis[bytes]", loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    deliver = transport.Transport._deliver

    async def notes(sealed: str) -> None:
        done.append(sealed)

    def breaks(self: transport.Transport, message: dict[str, Any], queue: str) -> None:
        if '"bad"' in message["body"]:
            raise LookupError
        deliver(self, message, queue)

    monkeypatch.setattr(transport.Transport, "_deliver", breaks)
    put(queue, "a", "bad", "b", "c")
    with worker(redis_url, loop, notes):
        until(lambda: done == ["a", "b", "c"], "those beside it are done")
        put(queue, "d")
        until(lambda: done == ["a", "b", "c", "d"], "it reads on")


def test_a_worker_that_may_not_read_the_queue_does_not_say_that_it_reads(
    redis_url: str, queue: "Redis[bytes]", loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis lets it connect, and refuses what it is for: its user is that of an older release, for instance."""
    done: list[str] = []

    async def notes(sealed: str) -> None:
        done.append(sealed)

    monkeypatch.setattr(Consuming, "EVERY_SECONDS", 0.3)
    queue.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~*", "&*", "+@all", "-blmpop")
    put(queue, "a")
    with worker(redis_url.replace("://", "://half:pw@"), loop, notes) as running:
        until(lambda: not running.consuming.reading(), "it is seen not to read")
        queue.execute_command("ACL", "SETUSER", "half", "+blmpop")
        until(lambda: done == ["a"] and running.consuming.reading(), "it reads")


def test_remote_control_tells_of_the_worker_and_does_not_end_it(
    redis_url: str, queue: "Redis[bytes]", loop: Loop
) -> None:
    gate, begun = asyncio.Event(), threading.Event()

    async def waits(sealed: str) -> None:
        begun.set()
        await gate.wait()

    with worker(redis_url, loop, waits) as running:
        client = Celery(broker=redis_url, set_as_current=False)
        # One answer is waited for, which is there at once.
        inspect = client.control.inspect(timeout=30, limit=1)
        put(queue, "a")
        assert begun.wait(60)
        assert inspect.ping()
        (active,) = next(iter(inspect.active().values()))
        assert (active["name"], active["args"]) == ("dropoff.verify", ["a"])
        stats = next(iter(inspect.stats().values()))
        assert stats["pool"]["max-concurrency"] == 4
        assert stats["pool"]["running"] == 1
        before = sample("dropoff_messages_refused_total", source="control")
        strange = ("hello", "[]", '{"body": "?", "properties": {}}', json.dumps({"body": "{}", "properties": {}}))
        for each in strange:
            queue.publish("/0.celery.pidbox", each)
        client.control.shutdown()
        client.control.cancel_consumer(QUEUE)
        assert inspect.ping()
        assert sample("dropoff_messages_refused_total", source="control") == before + len(strange) + 2
        assert running.thread.is_alive()
        client.close()
        loop.run(_set(gate))
