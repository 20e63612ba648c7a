"""Nothing that happens to Redis ends a worker: a job under way is finished and answered, an idle worker reads on."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from app.cli.up import redis_binary
from tests.servers.odd import STORED, Odd, answering, gated
from tests.servers.proxy import Link, link
from tests.stack import REDIS_PASSWORD, Api, Deployment, accepts, free_port, s3compatible, until

BACK_SECONDS = 5.0
"""How soon after Redis is back every worker reads the queue again."""
SLACK = 15.0
"""What a slow machine may add."""


@pytest.fixture(scope="module")
def cable() -> Iterator[Link]:
    """Between the product and its Redis."""
    with link(0) as made:
        yield made


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, cable: Link) -> Iterator[Deployment]:
    made = Deployment(
        tmp_path_factory.mktemp("outages"), workers=2, allow_http="1", egress_allow="127.0.0.0/8",
        redis_url=f"redis://:{REDIS_PASSWORD}@127.0.0.1:{cable.port}/0", destination_limit="10000",
        account_verifications="100", hold_seconds="50", verify_seconds="40",
    )  # fmt: skip
    cable.target = made.redis_port
    with made:
        yield made


@pytest.fixture(scope="module")
def api(deployment: Deployment) -> Api:
    return deployment.client()


@pytest.fixture(scope="module")
def store() -> Iterator[Odd]:
    """One that takes everything."""
    with answering(STORED) as running:
        yield running


@contextlib.contextmanager
def administrator(port: int) -> Iterator["redis.Redis[str]"]:
    with redis.Redis(port=port, password=REDIS_PASSWORD, decode_responses=True) as client:
        client.ping()
        yield client


@contextlib.contextmanager
def restart(deployment: Deployment, cable: Link) -> Iterator[None]:
    deployment.redis.stop()
    yield
    deployment.start_redis()


@contextlib.contextmanager
def restart_without_data(deployment: Deployment, cable: Link) -> Iterator[None]:
    deployment.redis.stop()
    shutil.rmtree(deployment.folder / "appendonlydir")
    (deployment.folder / "dump.rdb").unlink(missing_ok=True)
    yield
    deployment.start_redis()


@contextlib.contextmanager
def replica(deployment: Deployment, cable: Link) -> Iterator[None]:
    """It becomes the replica of another, and its own master again: a planned failover and back."""
    with other_redis(deployment.folder / "other") as port, administrator(deployment.redis_port) as client:
        client.replicaof("127.0.0.1", str(port))
        until(lambda: client.info("replication")["master_link_status"] == "up", "it follows the other")
        yield
        client.replicaof("NO", "ONE")


@contextlib.contextmanager
def other_redis(folder: Path) -> Iterator[int]:
    folder.mkdir(exist_ok=True)
    port = free_port()
    command = (
        redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
    )  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until(lambda: accepts(port), "the other Redis accepts connections")
        yield port
    finally:
        running.terminate()
        running.wait(60)


@contextlib.contextmanager
def full(deployment: Deployment, cable: Link) -> Iterator[None]:
    with administrator(deployment.redis_port) as client:
        client.config_set("maxmemory", "1mb")
        yield
        client.config_set("maxmemory", "0")


@contextlib.contextmanager
def cut(deployment: Deployment, cable: Link) -> Iterator[None]:
    cable.cut()
    yield
    cable.mend()


@contextlib.contextmanager
def frozen(deployment: Deployment, cable: Link) -> Iterator[None]:
    deployment.redis.signal(signal.SIGSTOP)
    time.sleep(5)
    yield
    deployment.redis.signal(signal.SIGCONT)


@contextlib.contextmanager
def other_password(deployment: Deployment, cable: Link) -> Iterator[None]:
    with administrator(deployment.redis_port) as client:
        client.config_set("requirepass", "another")
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)
        yield
        client.config_set("requirepass", REDIS_PASSWORD)


@contextlib.contextmanager
def no_permission(deployment: Deployment, cable: Link) -> Iterator[None]:
    with administrator(deployment.redis_port) as client:
        client.execute_command("ACL", "SETUSER", "default", "-blmpop", "-lpush", "-publish", "-psubscribe")
        yield
        client.execute_command("ACL", "SETUSER", "default", "+@all")


@contextlib.contextmanager
def not_persisting(deployment: Deployment, cable: Link) -> Iterator[None]:
    """It cannot write its file, and refuses to be written to itself (MISCONF)."""
    blocked = deployment.folder / "dump.rdb"
    with administrator(deployment.redis_port) as client:
        blocked.unlink(missing_ok=True)
        blocked.mkdir()
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
        yield
        blocked.rmdir()
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", "it can save")


OUTAGES = (
    restart, restart_without_data, replica, full, cut, frozen, other_password, no_permission, not_persisting,
)  # fmt: skip
Outage = Callable[[Deployment, Link], contextlib.AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("outage", "ends_within"),
    [*((outage, True) for outage in OUTAGES), (restart, False)],
    ids=[*(outage.__name__ for outage in OUTAGES), "restart-during-the-job"],
)
def test_a_job_under_way_is_answered_and_both_workers_read_the_queue_again(
    deployment: Deployment, cable: Link, api: Api, store: Odd, outage: Outage, ends_within: bool
) -> None:
    """One worker has a job under way, which ends while Redis is away or later, so the other is idle: neither ends, and
    nobody starts anything."""
    before = alive(deployment)
    with gated(STORED) as slow, ThreadPoolExecutor(1) as threads:
        held = threads.submit(api.create, s3compatible(slow.url))
        until(lambda: slow.connections, "a job is under way")
        with outage(deployment, cable):
            time.sleep(0.5)
            if ends_within:
                slow.gate.set()
            time.sleep(0.5)
        back = time.monotonic()
        works_again(deployment, api, store)
        took = time.monotonic() - back
        slow.gate.set()
        assert held.result().status == 200, held.result()
    assert took < BACK_SECONDS + SLACK
    assert alive(deployment) == before
    assert len(before) == 2
    assert not [line for worker in deployment.workers for line in worker.events("the worker ended by itself")]


def alive(deployment: Deployment) -> list[int]:
    """The workers that run."""
    return [worker.popen.pid for worker in deployment.workers if worker.popen and worker.popen.poll() is None]


def works_again(deployment: Deployment, api: Api, store: Odd) -> None:
    """Creates succeed, and each of the workers has carried out one of them."""
    before = [len(worker.events("verification finished")) for worker in deployment.workers]

    def each_has_one() -> bool:
        answer = api.create(s3compatible(store.url))
        assert answer.status in (200, 503), answer
        done = [len(worker.events("verification finished")) for worker in deployment.workers]
        return answer.status == 200 and all(now > was for now, was in zip(done, before, strict=True))

    until(each_has_one, "both workers carry out jobs")
