"""`make faults`: each fault under steady load, and what came of it. The table is in build/faults.md afterwards."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.test_redis import master_of, sentinels
from tests.faults_e2e.faults import CASES, Case
from tests.faults_e2e.load import Client, Load
from tests.faults_e2e.stage import EMPTY_SECONDS, HOLD, OPERATOR, VERIFY, Outcome, Stage, judged, staged
from tests.faults_e2e.store import At, running_store
from tests.stack import (
    DROPOFF,
    Api,
    Deployment,
    Process,
    accepts,
    clean_environment,
    eventually,
    free_port,
    kill,
    until,
    wait_ready,
)

# A process that is frozen answers when it goes on.
FROZEN_SECONDS = 10.0
BEFORE_SECONDS, AFTER_SECONDS = 3.0, 6.0
THOUSAND = 1000
TABLE = Path("build/faults.md")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("stage")) as running:
        yield running


@pytest.fixture(scope="module")
def table() -> Iterator[list[Outcome]]:
    outcomes: list[Outcome] = []
    yield outcomes
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(_rows(outcomes)) + "\n")


def _rows(outcomes: list[Outcome]) -> Iterator[str]:
    yield "| fault | calls | wrong | unreported | files left, gone after s | recovery s | slowest s | other answers |"
    yield "|---|---|---|---|---|---|---|---|"
    for each in outcomes:
        others = ", ".join(f"{label} {times}" for label, times in each.statuses.items() if not label.startswith("200"))
        left = f"{each.left}, {each.empty:.0f}" if each.left else "0"
        yield (
            f"| {each.fault} | {each.calls} | {len(each.untrue)} | {len(each.unreported)} | {left} "
            f"| {each.recovery:.1f} | {each.slowest:.1f} | {others} |"
        )


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_fault_makes_no_answer_untrue_and_leaves_no_file_unreported(
    stage: Stage, table: list[Outcome], case: Case
) -> None:
    hold_true(stage, table, case)


def test_a_failover_by_sentinel(tmp_path: Path, table: list[Outcome]) -> None:
    with sentinels(tmp_path) as (running, url), staged(tmp_path / "stage", redis_url=url) as stage:

        @contextlib.contextmanager
        def failover(_: Stage) -> Iterator[None]:
            was = master_of(url)
            kill(running[was])
            until(lambda: master_of(url) != was, "the replica is the master", 30)
            yield

        hold_true(stage, table, Case("redis failed over by Sentinel", failover))


def test_a_disk_that_is_full_for_fifteen_seconds(tmp_path: Path, table: list[Outcome]) -> None:
    """All of `dropoff up`, its Redis and its SQLite, on a file system of 24 MB."""

    @contextlib.contextmanager
    def full(process: Process, _: Path) -> Iterator[None]:
        assert process.popen
        filler = Path(f"/proc/{process.popen.pid}/root{tmp_path}/filler")
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        time.sleep(15)
        filler.unlink()
        yield

    outcome = of_up("disk full 15 s (tmpfs of 24 MB)", tmp_path, full, f"mount -t tmpfs -o size=24m tmpfs {tmp_path}")
    table.append(outcome)
    assert outcome.recovery < 5


def test_a_second_up_on_one_folder(tmp_path: Path, table: list[Outcome]) -> None:
    """It ends with a sentence, again and again, and the first does not notice."""

    @contextlib.contextmanager
    def second(_: Process, data: Path) -> Iterator[None]:
        for _ in range(3):
            command = (*DROPOFF, "up", "--port", str(free_port()), "--data", str(data))
            done = subprocess.run(
                command, env=clean_environment(), capture_output=True, text=True, check=False, timeout=60
            )
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        yield

    outcome = of_up("two `up` on one folder", tmp_path, second)
    table.append(outcome)
    assert not any(label[0] in "5c" for label in outcome.statuses), outcome.statuses


def test_sqlite_that_another_process_locks(tmp_path: Path, table: list[Outcome]) -> None:
    with staged(tmp_path, postgres=False) as stage:

        @contextlib.contextmanager
        def locked(stage: Stage) -> Iterator[None]:
            with contextlib.closing(sqlite3.connect(stage.deployment.folder / "dropoff.db", 20)) as database:
                database.isolation_level = None
                database.execute("BEGIN IMMEDIATE")
                time.sleep(10)
                database.execute("ROLLBACK")
            yield

        hold_true(stage, table, Case("SQLite locked 10 s", locked))


async def test_a_thousand_are_held_and_the_process_is_told_to_end(tmp_path: Path, table: list[Outcome]) -> None:
    """It listens no more, and answers each of them."""
    settings = {"hold_seconds": "180", "verify_seconds": "120", "account_verifications": str(THOUSAND)}
    settings |= {"egress_allow": "127.0.0.0/8", "destination_limit": str(THOUSAND), "operator_key": OPERATOR}
    with (
        running_store() as store,
        Deployment(tmp_path, workers=2, allow_http="1", worker_jobs=str(THOUSAND), **settings) as running,
    ):
        client, operator = Client(0, running.client().key, [running.url], store), Api(running.url, OPERATOR)
        store.hold(At.AFTER_PUT)
        headers = {"Authorization": f"Bearer {client.key}"}
        began = time.monotonic()
        async with aiohttp.ClientSession(
            running.url, headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(200)
        ) as session:

            async def create() -> int:
                async with session.post("/destinations", json=client.body()) as response:
                    return response.status

            creates: list[asyncio.Task[int]] = []
            # More at once than can be begun in time would be refused.
            while len(creates) < THOUSAND:
                creates.extend(asyncio.create_task(create()) for _ in range(50))
                await eventually(lambda: len(store.objects) == len(creates), "all have a file")
            assert f"dropoff_held_requests {THOUSAND}.0" in operator.call("GET", "/metrics").text
            running.api.signal(signal.SIGTERM)
            port = int(running.url.rpartition(":")[2])
            await asyncio.to_thread(until, lambda: not accepts(port), "it listens no more")
            store.go_on()
            statuses = Counter(await asyncio.gather(*creates))
        slowest = time.monotonic() - began
        assert running.api.popen
        assert await asyncio.to_thread(running.api.popen.wait, 30) == 0
        left = len(store.objects)
    told = {str(status): times for status, times in statuses.items()}
    table.append(Outcome("1,000 held, SIGTERM", THOUSAND, told, slowest, 0.0, [], left, [], 0.0))
    assert statuses == {200: THOUSAND}
    assert left == 0


def of_up(
    name: str,
    folder: Path,
    fault: Callable[[Process, Path], contextlib.AbstractContextManager[None]],
    before: str = "true",
) -> Outcome:
    """What a fault came to that the process `dropoff up`, with its data in a folder of `folder`, has while clients call
    it; `before` is done ahead of it, in its own name space."""
    port, data = free_port(), folder / "d"
    settings = {"DROPOFF_HOLD_SECONDS": str(HOLD), "DROPOFF_VERIFY_SECONDS": str(VERIFY), "DROPOFF_ALLOW_HTTP": "1"}
    settings |= {"DROPOFF_EGRESS_ALLOW": "127.0.0.0/8", "DROPOFF_ACCOUNT_VERIFICATIONS": "100"}
    settings |= {"DROPOFF_OPERATOR_KEY": OPERATOR, "DROPOFF_DESTINATION_LIMIT": "100000"}
    up = f"{before} && exec {' '.join(DROPOFF)} up --port {port} --data {data}"
    process = Process(("unshare", "-rm", "sh", "-c", up), folder.with_suffix(".log"), clean_environment(**settings))
    url = f"http://127.0.0.1:{port}"
    with running_store() as store:
        process.start()
        try:
            wait_ready(process)
            load = Load([Client(number, key_of_new(url, f"account-{number}"), [url], store) for number in range(4)])
            began = time.monotonic()
            load.start()
            try:
                time.sleep(BEFORE_SECONDS)
                with fault(process, data):
                    over = time.monotonic()
                    time.sleep(AFTER_SECONDS)
            finally:
                load.stop()
            until(lambda: not store.objects, "the buckets are empty", EMPTY_SECONDS)
            for client in load.clients:
                client.check()
        finally:
            process.stop()
    outcome = judged(name, load, store, began, over)
    assert outcome.untrue == []
    return outcome


def key_of_new(url: str, account: str) -> str:
    """The key of an account that the operator makes."""
    operator, headers = Api(url, OPERATOR), {"Content-Type": "application/json"}
    assert operator.call("POST", "/accounts", json.dumps({"name": account}).encode(), headers).status == 200
    made = operator.call("POST", f"/accounts/{account}/keys", b"{}", headers)
    return str(made.json["key"]["key"])


def hold_true(stage: Stage, table: list[Outcome], case: Case) -> None:
    before = stage.running()
    began = time.monotonic()
    stage.load.start()
    try:
        time.sleep(BEFORE_SECONDS)
        with case.fault(stage):
            over = time.monotonic()
            time.sleep(AFTER_SECONDS)
    except BaseException:
        stage.load.stop()
        raise
    outcome = stage.settle(case.name, began, over)
    table.append(outcome)
    assert outcome.untrue == []
    assert outcome.unreported == []
    assert outcome.recovery < case.recovers_within
    assert outcome.slowest < HOLD + FROZEN_SECONDS + 2
    assert not any(label.startswith("500") for label in outcome.statuses)
    assert len(stage.running()) == len(before), "none has ended by itself"
