"""`make faults`: each fault under steady load, and what came of it. The table is in build/faults.md afterwards."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_redis import master_of, sentinels
from tests.faults_e2e.faults import CASES, Case
from tests.faults_e2e.load import Client, Load
from tests.faults_e2e.stage import EMPTY_SECONDS, HOLD, OPERATOR, VERIFY, Outcome, Stage, judged, staged
from tests.faults_e2e.store import running_store
from tests.stack import DROPOFF, Process, clean_environment, free_port, kill, until, wait_ready

# A process that is frozen answers when it goes on.
FROZEN_SECONDS = 10.0
BEFORE_SECONDS, AFTER_SECONDS = 3.0, 6.0
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
    port = free_port()
    settings = {"DROPOFF_HOLD_SECONDS": str(HOLD), "DROPOFF_VERIFY_SECONDS": str(VERIFY), "DROPOFF_ALLOW_HTTP": "1"}
    settings |= {"DROPOFF_EGRESS_ALLOW": "127.0.0.0/8", "DROPOFF_ACCOUNT_VERIFICATIONS": "100"}
    settings |= {"DROPOFF_OPERATOR_KEY": OPERATOR, "DROPOFF_DESTINATION_LIMIT": "100000"}
    up = f"mount -t tmpfs -o size=24m tmpfs {tmp_path} && exec {' '.join(DROPOFF)} up --port {port} --data {tmp_path}/d"
    process = Process(("unshare", "-rm", "sh", "-c", up), tmp_path.with_suffix(".log"), clean_environment(**settings))
    with running_store() as store:
        process.start()
        try:
            wait_ready(process)
            assert process.popen
            filler = Path(f"/proc/{process.popen.pid}/root{tmp_path}/filler")
            # They share the account and its bucket.
            load = Load([Client(0, "demo", [f"http://127.0.0.1:{port}"], store)])
            began = time.monotonic()
            load.start()
            time.sleep(BEFORE_SECONDS)
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(65536))
            time.sleep(15)
            filler.unlink()
            over = time.monotonic()
            time.sleep(AFTER_SECONDS)
            load.stop()
            until(lambda: not store.objects, "the bucket is empty", EMPTY_SECONDS)
            load.clients[0].check()
        finally:
            process.stop()
    outcome = judged("disk full 15 s (tmpfs of 24 MB)", load, store, began, over)
    table.append(outcome)
    assert outcome.untrue == []
    assert outcome.recovery < 5


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
