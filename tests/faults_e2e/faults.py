"""The faults: each is a block within which it lasts, and after which it is over."""

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.engine import make_url

from app.messages.keys import QUEUE
from tests.e2e.test_outages import administrator, other_redis
from tests.faults_e2e.stage import Stage
from tests.faults_e2e.store import Ambush, At, Fails
from tests.servers.proxy import Link
from tests.stack import REDIS_PASSWORD, Process, kill, until

SHIFTED = Path(__file__).parents[1] / "e2e" / "shifted"
AMBUSH_SECONDS = 60.0

Fault = Callable[[Stage], AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """A fault, and what it may cost: how many seconds after it is over the last call fails, at most."""

    name: str
    fault: Fault
    recovers_within: float = 5.0


@contextlib.contextmanager
def worker_killed(stage: Stage, at: At, *, drop: bool, others: str = "") -> Iterator[None]:
    """The worker whose request comes to `at` is killed there, and with it `others`: "apis", "all" processes, or
    "redis", which loses what it had; they are started again after a second."""
    struck = threading.Event()
    killed: list[Process] = []

    def strike(port: int) -> None:
        deployment = stage.deployment
        killed.append(deployment.workers[stage.worker_of(port)])
        if others == "redis":
            lose_redis(stage)
        elif others:
            killed.extend(deployment.apis)
        if others == "all":
            killed.extend(worker for worker in deployment.workers if worker is not killed[0])
        kill(*killed)
        struck.set()

    stage.store.ambush = Ambush(at, strike, drop)
    assert struck.wait(AMBUSH_SECONDS), "nobody came"
    time.sleep(1)
    if others == "redis":
        stage.deployment.start_redis()
    stage.deployment.start_ended()
    yield


@contextlib.contextmanager
def api_killed(stage: Stage) -> Iterator[None]:
    kill(stage.deployment.apis[1])
    stage.deployment.start_ended()
    yield


@contextlib.contextmanager
def told_to_end(stage: Stage, kind: str) -> Iterator[None]:
    """One process is stopped in order, and started again."""
    process = {"api": stage.deployment.apis, "worker": stage.deployment.workers}[kind][1]
    assert process.stop() == 0
    stage.deployment.start_ended()
    yield


@contextlib.contextmanager
def frozen(stage: Stage, kind: str) -> Iterator[None]:
    process = {"api": stage.deployment.apis, "worker": stage.deployment.workers}[kind][1]
    process.signal(signal.SIGSTOP)
    time.sleep(10)
    process.signal(signal.SIGCONT)
    yield


def lose_redis(stage: Stage) -> None:
    """Redis is killed, and its data gone."""
    kill(stage.deployment.redis)
    shutil.rmtree(stage.deployment.folder / "appendonlydir")
    (stage.deployment.folder / "dump.rdb").unlink(missing_ok=True)


@contextlib.contextmanager
def redis_killed(stage: Stage, *, keeps: bool) -> Iterator[None]:
    deployment = stage.deployment
    if keeps:
        kill(deployment.redis)
    else:
        lose_redis(stage)
    time.sleep(1)
    deployment.start_redis()
    yield


@contextlib.contextmanager
def redis_frozen(stage: Stage) -> Iterator[None]:
    stage.deployment.redis.signal(signal.SIGSTOP)
    time.sleep(10)
    stage.deployment.redis.signal(signal.SIGCONT)
    yield


@contextlib.contextmanager
def redis_full(stage: Stage) -> Iterator[None]:
    with administrator(stage.deployment.redis_port) as client:
        client.config_set("maxmemory", "1mb")
        time.sleep(6)
        client.config_set("maxmemory", "0")
    yield


@contextlib.contextmanager
def redis_other_password(stage: Stage) -> Iterator[None]:
    with administrator(stage.deployment.redis_port) as client:
        client.config_set("requirepass", "another")
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)
        time.sleep(5)
        client.config_set("requirepass", REDIS_PASSWORD)
    yield


@contextlib.contextmanager
def redis_replaced(stage: Stage) -> Iterator[None]:
    """It becomes the replica of another, which then is asked in its place by all, and its own master again."""
    with other_redis(stage.deployment.folder / "other") as port, administrator(stage.deployment.redis_port) as client:
        client.replicaof("127.0.0.1", str(port))
        until(lambda: client.info("replication")["master_link_status"] == "up", "it follows the other", 20)
        time.sleep(3)
        client.replicaof("NO", "ONE")
    yield


@contextlib.contextmanager
def postgres_ended(stage: Stage, number: int) -> Iterator[None]:
    assert stage.database
    stage.database.end(number)
    time.sleep(1)
    stage.database.again()
    yield


@contextlib.contextmanager
def postgres_backends_terminated(stage: Stage) -> Iterator[None]:
    assert stage.database
    for _ in range(10):
        stage.database.terminate_backends()
        time.sleep(0.3)
    yield


@contextlib.contextmanager
def postgres_frozen(stage: Stage) -> Iterator[None]:
    assert stage.database
    stage.database.signal(signal.SIGSTOP)
    time.sleep(10)
    stage.database.signal(signal.SIGCONT)
    yield


@contextlib.contextmanager
def postgres_cut_in_commits(stage: Stage) -> Iterator[None]:
    """Five times the API processes are cut off while a create is being committed, which it is."""
    assert stage.database
    assert stage.apis_database
    name = make_url(stage.deployment.database_url).database
    assert name
    with stage.database.slow_commits(name) as committing:
        for _ in range(5):
            until(committing, "a create is being committed", AMBUSH_SECONDS)
            stage.apis_database.cut()
            time.sleep(0.7)
            stage.apis_database.mend()
    yield


def _links(stage: Stage, name: str) -> list[Link]:
    assert stage.apis_database
    return {
        "api-redis": [stage.apis_redis],
        "worker-redis": [stage.workers_redis],
        "all-redis": [stage.apis_redis, stage.workers_redis],
        "api-postgres": [stage.apis_database],
    }[name]


@contextlib.contextmanager
def linked_badly(
    stage: Stage, name: str, seconds: float, *, cut: bool = False, stalled: bool = False, delay: float = 0.0,
    lost: float = 0.0,
) -> Iterator[None]:  # fmt: skip
    for each in _links(stage, name):
        each.delay, each.lost = delay, lost
        if cut:
            each.cut()
        if stalled:
            each.stall()
    time.sleep(seconds)
    for each in _links(stage, name):
        each.mend()
    yield


@contextlib.contextmanager
def store_stops(stage: Stage, *steps: At, seconds: float = 8.0) -> Iterator[None]:
    stage.store.hold(*steps)
    time.sleep(seconds)
    stage.store.go_on()
    yield


@contextlib.contextmanager
def store_fails(stage: Stage, how: Fails) -> Iterator[None]:
    stage.store.fails = how
    time.sleep(6)
    stage.store.fails = Fails.NOT
    yield


@contextlib.contextmanager
def messages_twice(stage: Stage) -> Iterator[None]:
    """What lies in the queue is put there three times more, again and again: with the workers away for a moment."""
    copies = 0
    stage.workers_redis.stall()
    with stage.administrator() as client:
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            if copies < 15 and (messages := client.lrange(QUEUE, 0, -1)):
                client.lpush(QUEUE, *messages[:1] * 3)
                copies += 3
            time.sleep(0.1)
    stage.workers_redis.mend()
    assert copies, "there was nothing in the queue"
    yield


@contextlib.contextmanager
def strangers_in_the_queue(stage: Stage) -> Iterator[None]:
    """Messages that are none of ours, one after the other: they are refused and counted."""
    with stage.administrator() as client:
        for message in ("{}", "no message", '{"headers": {"task": "another"}}'):
            client.lpush(QUEUE, message)
            time.sleep(1)
    yield


@contextlib.contextmanager
def wrong_clock(stage: Stage, kind: str, seconds: float) -> Iterator[None]:
    """A process is started anew with a clock that is off, and at the end with a right one."""
    processes = {"api": stage.deployment.apis, "worker": stage.deployment.workers}[kind]
    start = {"api": stage.deployment.start_api, "worker": stage.deployment.start_worker}[kind]
    right = processes[1].environment
    for environment in ({**right, "PYTHONPATH": str(SHIFTED), "SHIFTED_SECONDS": str(seconds)}, right):
        processes[1].stop()
        processes[1].environment = environment
        start(1)
        time.sleep(8 if environment is not right else 0)
    yield


def _killed(at: At, *, drop: bool = False, others: str = "") -> Fault:
    return partial(worker_killed, at=at, drop=drop, others=others)


def _linked(name: str, seconds: float, **how: float) -> Fault:
    return partial(linked_badly, name=name, seconds=seconds, **how)  # type: ignore[arg-type]


def _stopped(*steps: At, seconds: float = 8.0) -> Fault:
    return lambda stage: store_stops(stage, *steps, seconds=seconds)


KILLED = (
    Case("worker killed before the upload is stored", _killed(At.BEFORE_PUT, drop=True)),
    Case("worker killed, upload stored after", _killed(At.BEFORE_PUT)),
    Case("worker killed after upload, before delete", _killed(At.AFTER_PUT)),
    Case("worker killed during delete", _killed(At.BEFORE_DELETE, drop=True)),
    Case("worker killed after delete, before reply", _killed(At.AFTER_DELETE)),
    Case("all killed between upload and delete", _killed(At.AFTER_PUT, others="all")),
    Case("worker and apis killed between", _killed(At.AFTER_PUT, others="apis")),
    Case("worker killed between, redis loses its data", _killed(At.AFTER_PUT, others="redis")),
    Case("api killed while it holds", api_killed),
)
CASES = (
    *KILLED,
    Case("api SIGTERM", partial(told_to_end, kind="api")),
    Case("worker SIGTERM", partial(told_to_end, kind="worker")),
    Case("worker SIGSTOP 10 s", partial(frozen, kind="worker")),
    Case("api SIGSTOP 10 s", partial(frozen, kind="api")),
    Case("messages twice", messages_twice),
    Case("strangers in the queue", strangers_in_the_queue),
    Case("redis killed, with data", partial(redis_killed, keeps=True)),
    Case("redis killed, without data", partial(redis_killed, keeps=False)),
    Case("redis SIGSTOP 10 s", redis_frozen),
    Case("redis out of memory", redis_full),
    Case("redis another password", redis_other_password),
    Case("redis replica and master again", redis_replaced),
    Case("postgres restarted", partial(postgres_ended, number=signal.SIGINT)),
    Case("postgres crashed (SIGQUIT)", partial(postgres_ended, number=signal.SIGQUIT)),
    Case("postgres backends terminated", postgres_backends_terminated),
    Case("postgres SIGSTOP 10 s", postgres_frozen),
    Case("postgres cut in 5 commits", postgres_cut_in_commits),
    Case("api-postgres stalled 8 s", _linked("api-postgres", 8, stalled=True)),
    Case("api-postgres cut 5 s", _linked("api-postgres", 5, cut=True)),
    Case("api-redis +250 ms each way", _linked("api-redis", 8, delay=0.25)),
    Case("worker-redis +500 ms each way", _linked("worker-redis", 8, delay=0.5)),
    Case("all-redis 5 % lost", _linked("all-redis", 8, lost=0.05)),
    Case("api-redis cut 5 s", _linked("api-redis", 5, cut=True)),
    Case("worker-redis cut 5 s", _linked("worker-redis", 5, cut=True)),
    Case("all-redis cut 5 s", _linked("all-redis", 5, cut=True)),
    Case("api-redis stalled 5 s", _linked("api-redis", 5, stalled=True)),
    Case("worker-redis stalled 10 s", _linked("worker-redis", 10, stalled=True)),
    *(Case(f"store stopped {at}", _stopped(at)) for at in At),
    Case("store stopped 20 s", _stopped(*At, seconds=20.0)),
    *(Case(f"store {how}", partial(store_fails, how=how)) for how in Fails if how is not Fails.NOT),
    Case("a worker's clock +1 h", partial(wrong_clock, kind="worker", seconds=3600.0)),
    Case("a worker's clock -1 h", partial(wrong_clock, kind="worker", seconds=-3600.0)),
    Case("an api's clock +1 h", partial(wrong_clock, kind="api", seconds=3600.0)),
)
