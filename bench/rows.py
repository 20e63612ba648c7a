"""Rows of the table that have a deployment, or a peer, of their own; each ends by itself within two minutes."""

import asyncio
import contextlib
import json
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import redis
import requests

from bench.cpu import spent
from bench.load import Load
from bench.verifications import child, store
from tests.servers.odd import answering
from tests.stack import (
    DROPOFF,
    Deployment,
    Process,
    clean_environment,
    free_port,
    redis_server,
    s3compatible,
    until,
)
from tests.types.every import STORAGES, settings_at
from tests.types.gcs import TOKEN
from tests.types.s3 import LOCATED

Rows = dict[str, float]

SLOW, NEVER = 50.0, 3_600_000.0
IN_FLIGHT = 256
BESIDE = 50
KIB = 1024


@contextlib.contextmanager
def product(**settings: Any) -> Iterator[Deployment]:
    """The product, with limits that are in nobody's way unless `settings` say otherwise."""
    limits: dict[str, Any] = {"allow_http": "1", "egress_allow": "127.0.0.0/8", "account_verifications": "100000",
              "destination_limit": "1000000"}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), **{**limits, **settings}) as running:
        yield running


def rss(process: Process) -> int:
    assert process.popen
    return int(psutil.Process(process.popen.pid).memory_info().rss)


def under_way(running: Deployment) -> int:
    """How many jobs the worker says that it has."""
    with redis.Redis.from_url(running.redis_url) as client:
        said = [json.loads(client.get(key) or "{}") for key in client.keys("dropoff:worker:*")]
    return sum(int(each.get("running", 0)) for each in said)


def neighbours() -> Rows:
    """How long 50 creates take beside so many of other accounts that hang, over the same alone, just before."""
    found: Rows = {}
    for hanging, hosts in ((200, 1), (1000, 1), (1000, 50)):
        with (
            store(SLOW) as slow,
            product(account_verifications="50", hold_seconds="60", verify_seconds="40") as running,
        ):
            accounts = [Load(running.url, running.client(f"a{n}").key) for n in range(50)]
            load = Load(running.url, running.client().key)
            asyncio.run(load.closed(slow, 100, 16))
            idle = rss(running.worker)
            with store(NEVER, hosts) as never:
                # They end when their store does.
                took = asyncio.run(_beside(running, load, accounts, slow, never, hanging, hosts))
        name = f"50 creates beside {hanging} that hang on {hosts} host{'s' * (hosts > 1)}"
        found[f"{name}, over alone"] = took[1] / took[0]
        found[f"{name}: answered 200"] = took[2]
        found[f"{name}: the worker's memory for each that hangs, KB"] = (took[3] - idle) / hanging / KIB
    return found


async def _beside(
    running: Deployment, load: Load, accounts: list[Load], slow: str, never: str, hanging: int, hosts: int
) -> tuple[float, float, int, int]:
    async def creates() -> tuple[float, int]:
        began = time.perf_counter()
        found = await load.closed(slow, BESIDE, BESIDE)
        return time.perf_counter() - began, sum(status == 200 for status, _ in found)

    alone = statistics.median([(await creates())[0] for _ in range(3)])
    stuck = []
    for number in range(hanging):
        host = never.replace("127.0.0.1", f"127.0.0.{number % hosts + 1}")
        stuck.append(asyncio.create_task(accounts[number % len(accounts)].closed(host, 1, 1)))
        if number % 50 == 49:
            await asyncio.sleep(0.2)
    await asyncio.to_thread(until, lambda: under_way(running) >= hanging, "all that hang are under way", 30)
    beside = [await creates() for _ in range(3)]
    for each in stuck:
        each.cancel()
    await asyncio.wait(stuck)
    return alone, statistics.median(took for took, _ in beside), min(good for _, good in beside), rss(running.worker)


def plain() -> Rows:
    """Creates a second over those of the plain design, 256 in flight, 50 ms a call."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, store(SLOW) as slow:
        with redis_server(Path(folder)) as url:
            worker = ("celery", "-A", "bench.plain", "worker", "-c", "2", "--loglevel", "WARNING")
            with child(port, "bench.plain", str(port), PLAIN_REDIS=url), child(0, *worker, PLAIN_REDIS=url):
                there = f"http://127.0.0.1:{port}/?endpoint={slow}"
                asyncio.run(_posts(there, 4, 4))
                plain = asyncio.run(_posts(there, 80, 80))
        with product(hold_seconds="30", verify_seconds="10") as running:
            load = Load(running.url, running.client().key)
            asyncio.run(load.closed(slow, 100, 16))
            began = time.perf_counter()
            found = asyncio.run(load.closed(slow, 512, IN_FLIGHT))
            ours = sum(status == 200 for status, _ in found) / (time.perf_counter() - began)
    return {"creates a second of the plain design": plain, "creates a second over the plain design's": ours / plain}


async def _posts(url: str, count: int, in_flight: int) -> float:
    """So many posts, so many at any moment: how many a second."""
    left, began = iter(range(count)), time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one_after_another() -> None:
            for _ in left:
                async with session.post(url) as answer:
                    assert answer.status == 200

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    return count / (time.perf_counter() - began)


def reads() -> Rows:
    """A list of ten destinations, and a get, over a handler that answers the same bytes from memory: requests a second,
    and CPU of the API for one."""
    found: Rows = {}
    with store(0) as fast, product() as running:
        client = running.client()
        made = [client.create(s3compatible(fast)).json["destination"]["id"] for _ in range(10)]
        for name, path in (("list", "/destinations"), ("get", f"/destinations/{made[0]}")):
            port = free_port()
            with tempfile.NamedTemporaryFile() as file, _bare(port, file, client.call("GET", path).text) as bare:
                pairs = []
                for _ in range(3):
                    ours = asyncio.run(_gets(running.url + path, client.key, running.api))
                    pairs.append((ours, asyncio.run(_gets(f"http://127.0.0.1:{port}/", "", bare))))
            found[f"{name}s a second over a handler's"] = statistics.median(a[0] / b[0] for a, b in pairs)
            found[f"CPU of a {name}, ms"] = statistics.median(a[1] for a, _ in pairs)
            found[f"CPU of a {name} over a handler's"] = statistics.median(a[1] / b[1] for a, b in pairs)
    return found


@contextlib.contextmanager
def _bare(port: int, file: Any, content: str) -> Iterator[Process]:
    file.write(content.encode())
    file.flush()
    with child(port, "bench.handler", str(port), file.name) as process:
        yield process


async def _gets(url: str, key: str, process: Process, seconds: float = 3) -> tuple[float, float]:
    """Gets, 16 at any moment: how many a second, and milliseconds of CPU of `process` for each."""
    count, began, before = 0, time.perf_counter(), spent(process)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

        async def one_after_another() -> None:
            nonlocal count
            while time.perf_counter() < began + seconds:
                async with session.get(url) as answer:
                    assert answer.status == 200
                    await answer.read()
                count += 1

        await asyncio.gather(*(one_after_another() for _ in range(16)))
    return count / (time.perf_counter() - began), (spent(process) - before) / count


def overload() -> Rows:
    """What comes through at three and at ten times the highest rate, with the holds that are the default."""
    found: Rows = {}
    with store(SLOW) as slow, product(connections="20000", address_connections="20000") as running:
        load = Load(running.url, running.client().key)
        asyncio.run(load.closed(slow, 100, 16))
        began = time.perf_counter()
        asyncio.run(load.closed(slow, 512, IN_FLIGHT))
        best = 512 / (time.perf_counter() - began)
        found["creates a second, the most"] = best
        for times in (3, 10):
            seconds, before, cpu = 12.0, rss(running.api), spent(running.api)
            began = time.perf_counter()
            answers = asyncio.run(load.open(slow, best * times, seconds))
            took = time.perf_counter() - began
            good = [each.ms for each in answers if each.status == 200]
            refused = sorted(each.ms for each in answers if each.status == 503) or [0.0]
            late = sorted(each.late for each in answers)
            name = f"overload, {times} times"
            found[f"{name}: creates a second over the most"] = len(good) / took / best
            found[f"{name}: of them in the end, s"] = took - seconds
            found[f"{name}: held, 99 %, s"] = statistics.quantiles(good, n=100)[98] / 1000
            found[f"{name}: refused"] = len([each for each in answers if each.status == 503])
            for status in {each.status for each in answers} - {200, 503}:
                told = f"answered {status}" if status else "not answered"
                found[f"{name}: {told}"] = len([each for each in answers if each.status == status])
            found[f"{name}: a refusal, median, s"] = statistics.median(refused) / 1000
            found[f"{name}: a refusal, 99 %, s"] = refused[int(len(refused) * 0.99)] / 1000
            found[f"{name}: sent later than due, 99 %, s"] = late[int(len(late) * 0.99)] / 1000
            found[f"{name}: CPU of the API for an answer, ms"] = (spent(running.api) - cpu) / len(answers)
            found[f"{name}: memory of the API, MB more"] = (rss(running.api) - before) / KIB / KIB
    return found


def memory(held: int = 3000) -> Rows:
    """Memory of the API for each request that is held, and of a bare handler that holds as many."""
    found: Rows = {}
    many = dict.fromkeys(("held_requests", "waiting_requests", "connections", "address_connections"), "20000")
    with (
        product(hold_seconds="120", verify_seconds="10", **many) as running,
        tempfile.NamedTemporaryFile() as file,
    ):
        port = free_port()
        with _bare(port, file, "") as bare:
            found["memory of a bare handler for a request held, KB"] = asyncio.run(
                _held(f"http://127.0.0.1:{port}/", "", bare, held, lambda: True)
            )
        key = running.client().key
        running.worker.stop()

        def all_held() -> bool:
            with redis.Redis.from_url(running.redis_url) as client:
                return int(client.zcard("dropoff:held")) >= held

        found["memory of the API for a request held, KB"] = asyncio.run(
            _held(f"{running.url}/destinations", key, running.api, held, all_held)
        )
    return found


async def _held(url: str, key: str, process: Process, held: int, there: Any) -> float:
    body = {"name": "n", "enabled": True, **s3compatible("http://127.0.0.1:9009")}
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"}, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        first = [asyncio.create_task(session.post(url, json=body)) for _ in range(100)]
        await asyncio.sleep(2)
        before, more = rss(process), []
        for number in range(held - 100):
            more.append(asyncio.create_task(session.post(url, json=body)))
            if number % 100 == 99:
                await asyncio.sleep(0.1)
        await asyncio.to_thread(until, there, "all are held", 60)
        await asyncio.sleep(2)
        assert not any(each.done() for each in (*first, *more))
        used = (rss(process) - before) / len(more) / KIB
        for each in (*first, *more):
            each.cancel()
        await asyncio.wait((*first, *more))
    return used


def deliveries() -> Rows:
    """How long a create is held beside eight deliveries of 64 MiB each, over alone."""
    from bench.deliveries import MIB, Product, made
    from bench.deliveries import running as delivering

    with store(SLOW) as slow, delivering() as (folder, where, deployment):
        files = [made(folder / "source" / f"f{n}", 64 * MIB) for n in range(8)]
        product = Product(deployment, where, files)
        load = Load(deployment.url, deployment.client().key)

        def held(count: int) -> list[float]:
            found = asyncio.run(load.closed(slow, count, 1))
            assert all(status == 200 for status, _ in found)
            return [ms for _, ms in found]

        held(5)
        alone = statistics.median(held(15))
        beside, spent_on = asyncio.run(_while(lambda: product.deliver(1), lambda: held(1)[0]))
    return {
        "hold beside 8 deliveries over alone": statistics.median(beside) / alone,
        "8 deliveries of 64 MiB, MiB a second meanwhile": 512 / spent_on,
    }


def transfers() -> Rows:
    """One large file and many small ones beside what is made for nothing else, each in turn."""
    from bench.deliveries import MIB, ratio

    large, memory = ratio(1, 1024 * MIB, 5)
    small, _ = ratio(1000, 64 * KIB, 5)
    return {
        "one file of 1 GiB over rclone's rate": large,
        "the worker's memory for it above idle, MiB": memory,
        "1,000 files of 64 KiB over s5cmd's rate": small,
    }


def tail() -> Rows:
    """How long the slowest of a hundred creates is held over half of them, at half the highest rate."""
    with store(SLOW) as slow, product() as running:
        load = Load(running.url, running.client().key)
        asyncio.run(load.closed(slow, 100, 16))
        began = time.perf_counter()
        asyncio.run(load.closed(slow, 512, IN_FLIGHT))
        half = 512 / (time.perf_counter() - began) / 2
        ratios = []
        for _ in range(3):
            cuts = statistics.quantiles((ms for _, ms, *_ in asyncio.run(load.open(slow, half, 8))), n=100)
            ratios.append(cuts[98] / cuts[49])
    return {"held, 99 % over 50 %, at half the highest rate": statistics.median(ratios)}


def million() -> Rows:
    """What a create and a page of a list take where there are a million destinations, over where there are a thousand;
    50 of each account."""
    with store(0) as fast, product() as few, product() as many:
        for running, accounts in ((few, 20), (many, 20_000)):
            client = running.client()
            assert client.create({**s3compatible(fast), "enabled": False}).status == 200
            _fill(Path(running.folder) / "dropoff.db", accounts)
        found: dict[str, list[float]] = {}
        for _ in range(5):
            took = [_reading(running, fast, middle) for running, middle in ((few, 10), (many, 10_000))]
            for name, ms in took[1].items():
                found.setdefault(name, []).append(ms / took[0][name])
    return {f"a million destinations over a thousand: {name}": statistics.median(of) for name, of in found.items()}


def _fill(file: Path, accounts: int, each: int = 50) -> None:
    """Copies of the one destination that there is, for so many accounts."""
    with contextlib.closing(sqlite3.connect(file, 60)) as database:

        def copies(table: str, count: int, **changed: str) -> None:
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(changed.get(name, name) for name in names)
            numbers = f"WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < {count - 1})"
            one = f"(SELECT * FROM {table} LIMIT 1)"
            database.execute(f"INSERT INTO {table} ({', '.join(names)}) {numbers} SELECT {values} FROM n, {one}")

        copies("accounts", accounts, id="n + 1000", name="'many-' || n")
        copies("destinations", accounts * each, id="printf('%012X', n)", account_id=f"n / {each} + 1000")
        database.commit()


def _reading(running: Deployment, fast: str, middle: int) -> dict[str, float]:
    """Milliseconds, one call after the other."""
    load, reader = Load(running.url, running.client().key), running.client(f"many-{middle}")
    pages = {"first page": reader.list, "last page": partial(reader.list, page="3")}
    found = {"create": statistics.median(ms for _, ms in asyncio.run(load.closed(fast, 40, 1)))}
    for name, page in pages.items():
        answers = [page() for _ in range(100)]
        assert all(len(answer.json["destinations"]) > 0 for answer in answers)
        found[name] = statistics.median(answer.seconds * 1000 for answer in answers)
    return found


def types() -> Rows:
    """CPU of the worker for a verification of each type and kind of credentials, over that of S3's dialect."""
    spent_on: dict[str, list[float]] = {}
    with answering(b"") as host, answering(TOKEN) as issuer:
        places = {**settings_at(host.url), "gcs_token_endpoint": issuer.url + "/token"}
        with product(**places) as running:
            key = running.client().key
            for _ in range(4):
                for name, storage in STORAGES.items():
                    host.replies = {"": storage.stored, "HEAD": LOCATED, "DELETE": storage.deleted}
                    place = {storage.endpoint: host.url} if storage.endpoint else {}
                    before = spent(running.worker)
                    asyncio.run(
                        _verifications(running.url, key, {"name": "n", "enabled": True, **storage.good, **place}, 80)
                    )
                    spent_on.setdefault(name, []).append((spent(running.worker) - before) / 80)
    # The first of each makes its client.
    least = {name: statistics.median(of[1:]) for name, of in spent_on.items()}
    return {f"CPU of the worker over S3's: {name}": ms / least["s3"] for name, ms in least.items() if name != "s3"}


async def _verifications(url: str, key: str, body: Any, count: int) -> None:
    left = iter(range(count))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

        async def one_after_another() -> None:
            for _ in left:
                async with session.post(f"{url}/destinations/verify", json=body) as answer:
                    assert answer.status == 200, await answer.text()

        await asyncio.gather(*(one_after_another() for _ in range(16)))


def starting(times: int = 5) -> Rows:
    """How long `dropoff up` takes on a new folder until it is ready, its CPU until then, and how long `dropoff --help`
    takes: seconds, medians."""
    ready, cpu, told = [], [], []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run((*DROPOFF, "--help"), env=clean_environment(), check=True, stdout=subprocess.DEVNULL)
        told.append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            up = Process(
                (*DROPOFF, "up", "--port", str(port), "--data", folder), Path(folder) / "log", clean_environment()
            )
            began = time.perf_counter()
            up.start()
            try:
                until(lambda port=port: _is_ready(port), "it is ready", pause=0.01)
                ready.append(time.perf_counter() - began)
                assert up.popen
                all_of_it = [psutil.Process(up.popen.pid)]
                all_of_it += all_of_it[0].children(recursive=True)
                cpu.append(sum(sum(each.cpu_times()[:4]) for each in all_of_it))
            finally:
                up.stop()
    return {
        "`dropoff up` to ready, s": statistics.median(ready),
        "`dropoff up` to ready, CPU, s": statistics.median(cpu),
        "`dropoff --help`, s": statistics.median(told),
    }


def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5).ok)
    return False


async def _while(work: Any, measure: Any) -> tuple[list[float], float]:
    """What `measure` gave while `work` was done, and how many seconds that took."""
    began, done = time.perf_counter(), asyncio.ensure_future(asyncio.to_thread(work))
    found = []
    while not done.done():
        found.append(await asyncio.to_thread(measure))
    await done
    return found, time.perf_counter() - began


ROWS = {
    each.__name__: each
    for each in (neighbours, plain, reads, overload, memory, tail, million, types, deliveries, transfers, starting)
}
