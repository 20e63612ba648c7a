"""Redis as people have it: behind Sentinel, by TLS, with a user that may do only what is needed."""

import contextlib
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from celery import Celery

from app.cli.up import redis_binary
from tests.documents import documented_acl
from tests.servers.odd import STORED, Odd, answering, gated
from tests.servers.proxy import link
from tests.stack import (
    REDIS_PASSWORD,
    Api,
    Deployment,
    Process,
    accepts,
    clean_environment,
    free_port,
    s3compatible,
    until,
)

# Five, and what a slow machine may add.
BACK_SECONDS = 20.0
LOOPBACK = {"allow_http": "1", "egress_allow": "127.0.0.0/8", "hold_seconds": "50", "verify_seconds": "40"}


@pytest.fixture(scope="module")
def store() -> Iterator[Odd]:
    """One that takes everything."""
    with answering(STORED) as running:
        yield running


def started(folder: Path, name: str, *command: str) -> Process:
    process = Process(command, folder / f"{name}.log", clean_environment())
    process.start()
    return process


@contextlib.contextmanager
def sentinels(folder: Path) -> Iterator[tuple[dict[int, Process], str]]:
    """Two Redis, the second of which follows the first, by their ports, and the URL of three Sentinels that watch."""
    first, second, *watching = (free_port() for _ in range(5))
    with contextlib.ExitStack() as stack:
        running: dict[int, Process] = {}
        for port, following in ((first, ()), (second, ("--replicaof", f"127.0.0.1 {first}"))):
            own = folder / str(port)
            own.mkdir()
            running[port] = started(
                folder, f"redis-{port}", redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(own),
                "--requirepass", REDIS_PASSWORD, "--masterauth", REDIS_PASSWORD, "--save", "", *following,
            )  # fmt: skip
            stack.callback(running[port].stop)
            until(lambda port=port: accepts(port), "Redis accepts connections")
        for port in watching:
            configuration = folder / f"sentinel-{port}.conf"
            configuration.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass {REDIS_PASSWORD}\n"
                f"sentinel sentinel-pass {REDIS_PASSWORD}\nsentinel monitor ours 127.0.0.1 {first} 2\n"
                f"sentinel auth-pass ours {REDIS_PASSWORD}\nsentinel down-after-milliseconds ours 1000\n"
                "sentinel failover-timeout ours 6000\n"
            )
            watcher = started(folder, f"sentinel-{port}", redis_binary(), str(configuration), "--sentinel")
            stack.callback(watcher.stop)
        with redis.Redis(port=watching[0], password=REDIS_PASSWORD, decode_responses=True) as asked:
            until(lambda: accepts(watching[0]), "a Sentinel accepts connections")
            until(lambda: agreed(asked), "the Sentinels know each other and the replica")
        hosts = ",".join(f"127.0.0.1:{port}" for port in watching)
        yield running, f"sentinel://:{REDIS_PASSWORD}@{hosts}/0?master=ours&sentinel_password={REDIS_PASSWORD}"


def agreed(asked: "redis.Redis[str]") -> bool:
    master = asked.sentinel_master("ours")
    return master["num-other-sentinels"] == 2 and master["num-slaves"] == 1


def master_of(url: str) -> int:
    """The port of the master that the Sentinels of `url` name."""
    port = int(url.partition("@")[2].partition(",")[0].rpartition(":")[2])
    with redis.Redis(port=port, password=REDIS_PASSWORD, decode_responses=True) as asked:
        return int(asked.sentinel_get_master_addr_by_name("ours")[1])


def test_a_failover_by_sentinel_ends_nothing(tmp_path: Path, store: Odd) -> None:
    with sentinels(tmp_path) as (running, url), contextlib.ExitStack() as stack:
        deployment = Deployment(tmp_path / "dropoff", workers=2, redis_url=url, **LOOPBACK)
        deployment.dropoff("migrate")
        for process in (*deployment.workers, *deployment.apis):
            stack.callback(process.stop)
        deployment.start_api()
        deployment.start_worker(0)
        deployment.start_worker(1)
        api = deployment.client()
        assert api.create(s3compatible(store.url)).status == 200
        processes = [worker.popen.pid for worker in deployment.workers if worker.popen]

        was = master_of(url)
        with gated(STORED) as slow, ThreadPoolExecutor(1) as threads:
            held = threads.submit(api.create, s3compatible(slow.url))
            until(lambda: slow.connections, "a job is under way")
            running[was].popen.kill()  # type: ignore[union-attr]
            until(lambda: master_of(url) != was, "the replica is the master")
            back = time.monotonic()
            before = [len(worker.events("verification finished")) for worker in deployment.workers]

            def both_work() -> bool:
                works = api.create(s3compatible(store.url)).status == 200
                done = [len(worker.events("verification finished")) for worker in deployment.workers]
                return works and all(now > was for now, was in zip(done, before, strict=True))

            until(both_work, "both workers carry out jobs")
            took = time.monotonic() - back
            slow.gate.set()
            assert held.result().status == 200, held.result()
        assert took < BACK_SECONDS
        assert [each.popen.pid for each in deployment.workers if each.popen and each.popen.poll() is None] == processes


def test_tls_with_a_private_authority_works_on_both_sides_and_with_an_unknown_one_on_neither(
    tmp_path: Path, store: Odd, authority: Path, certificate: tuple[Path, Path]
) -> None:
    with link(0, certificate) as tls:
        url = f"rediss://:{REDIS_PASSWORD}@127.0.0.1:{tls.port}/0"
        made = Deployment(tmp_path, redis_url=f"{url}?ssl_ca_certs={authority}", **LOOPBACK)
        tls.target = made.redis_port
        with made:
            api = made.client()
            assert api.create(s3compatible(store.url)).status == 200
            made.environment["DROPOFF_REDIS_URL"] = url
            for process in (made.api, made.worker):
                process.stop()
            made.worker.start()
            made.start_api()
            assert api.create(s3compatible(store.url)).status == 503
            until(lambda: "CERTIFICATE_VERIFY_FAILED" in made.worker.log, "the worker refuses the certificate")
            assert made.worker.popen.poll() is None  # type: ignore[union-attr]
            assert made.worker.log.count("worker ready") == 1


def test_a_user_with_the_documented_permissions_is_enough(tmp_path: Path, store: Odd) -> None:
    made = Deployment(tmp_path, **LOOPBACK, operator_key="an-operator-of-tests")
    made.environment["DROPOFF_REDIS_URL"] = f"redis://dropoff:a-user@127.0.0.1:{made.redis_port}/0"
    made.dropoff("migrate")
    with contextlib.ExitStack() as stack:
        for process in (made.redis, made.worker, made.api):
            stack.callback(process.stop)
        made.start_redis()
        with redis.Redis(port=made.redis_port, password=REDIS_PASSWORD, decode_responses=True) as administrator:
            administrator.execute_command("ACL", "SETUSER", "dropoff", "on", ">a-user", *documented_acl())
            made.start_api()
            made.start_worker()
            api = made.client()
            assert api.create(s3compatible(store.url)).status == 200
            assert api.create({**s3compatible(store.url), "s3_bucket_name": "No Bucket"}).status == 400
            look_at_everything(made, api)
            inspected = inspect(made)
            assert "pong" in inspected, inspected
            made.worker.stop()
            made.api.stop()
            assert administrator.acl_log() == []


def look_at_everything(made: Deployment, api: Api) -> None:
    """Whatever reads Redis: readiness, metrics, jobs, their history, the feed, the dashboard, the command."""
    operator = Api(made.url, "an-operator-of-tests")
    assert operator.call("GET", "/readyz").status == 200
    assert "dropoff_workers_alive 1.0" in operator.call("GET", "/metrics").text
    (job,) = until(lambda: api.call("GET", "/jobs").json["jobs"], "the job is on the board")
    assert api.call("GET", f"/jobs/{job['id']}").status == 200
    until(lambda: operator.call("GET", "/dashboard/overview").json["refused"], "what was refused is counted")
    stream = urllib.request.Request(f"{made.url}/jobs/stream", headers={"Authorization": f"Bearer {api.key}"})
    with urllib.request.urlopen(stream, timeout=60) as told:
        assert told.readline()
    assert "workers" in made.dropoff("status")


def inspect(made: Deployment) -> str:
    """What the worker says to `celery inspect ping`, as soon as it does, with the full permissions of an operator."""
    celery = Celery(broker=made.redis_url, set_as_current=False)
    said = celery.control.inspect(timeout=60, limit=1).ping()
    celery.close()
    return repr(said)
