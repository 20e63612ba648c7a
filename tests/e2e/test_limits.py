"""How much an account and a process may have under way, on two API processes that share a queue."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.servers.odd import STORED, gated, silent
from tests.stack import Api, Deployment, s3compatible, until

HOLD, VERIFY = 8.0, 3.0
"""Those of the third API process, which waits for no longer."""
SLOTS = 4
HELD = 12


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(
        tmp_path_factory.mktemp("limits"), apis=3,
        hold_seconds="60", verify_seconds="30", allow_http="1", egress_allow="127.0.0.0/8",
        destination_limit="1000", account_verifications=str(SLOTS), held_requests=str(HELD),
    )  # fmt: skip
    made.set_api(2, hold_seconds=str(HOLD), verify_seconds=str(VERIFY))
    with made as running:
        yield running


@pytest.fixture(scope="module")
def apis(deployment: Deployment) -> tuple[Api, ...]:
    """Each process, with one account's key."""
    return deployment.clients("tester")


@pytest.fixture
def good(seaweedfs: SeaweedFS) -> dict[str, Any]:
    return s3compatible(seaweedfs.url, *seaweedfs.customer)


def test_an_account_has_so_many_slots_on_all_processes_together(
    apis: tuple[Api, ...], deployment: Deployment, good: dict[str, Any]
) -> None:
    other, apis = deployment.client("calm"), apis[:2]
    with gated(STORED) as store, ThreadPoolExecutor(SLOTS) as threads:
        body = s3compatible(store.url)
        flood = [threads.submit(apis[n % 2].create, body) for n in range(SLOTS)]
        until(lambda: store.connections >= SLOTS, "all slots are taken")
        refused = [*(api.create(good) for api in apis), apis[0].verify(good)]
        assert [answer.status for answer in refused] == [429] * 3
        assert {answer.error["code"] for answer in refused} == {"too_many_verifications"}
        assert all(answer.headers["Retry-After"] for answer in refused)
        meanwhile = [other.create(good) for _ in range(5)]
        assert [answer.status for answer in meanwhile] == [200] * 5
        assert not any(each.done() for each in flood), "nobody has waited for them"
        store.gate.set()
        assert [each.result().status for each in flood] == [200] * SLOTS
    # Its slots are free again at once, without anything to wait for.
    assert [api.create(good).status for api in apis] == [200, 200]


def test_a_refused_one_costs_an_account_nothing_but_that(apis: tuple[Api, ...], good: dict[str, Any]) -> None:
    for _ in range(SLOTS + 2):
        assert apis[0].create({**good, "s3_secret_access_key": "wrong"}).status == 400
    assert apis[0].create(good).status == 200


def test_a_dead_process_gives_its_slots_back_when_its_time_is_over(
    apis: tuple[Api, ...], deployment: Deployment, good: dict[str, Any]
) -> None:
    with silent() as store, ThreadPoolExecutor(SLOTS) as threads:
        flood = [threads.submit(apis[2].create, s3compatible(store.url)) for _ in range(SLOTS)]
        until(lambda: store.connections >= SLOTS, "all slots are taken")
        deployment.apis[2].signal(signal.SIGKILL)
        assert all(isinstance(each.exception(), OSError) for each in flood)
        deployment.apis[2].stop()
        assert apis[1].create(good).status == 429
        deployment.start_api(2)
    until(lambda: apis[1].create(good).status == 200, "the slots are free")


def test_a_process_holds_so_many_requests(deployment: Deployment, good: dict[str, Any]) -> None:
    accounts = [deployment.client(f"crowd-{n}") for n in range(HELD // SLOTS + 1)]
    with gated(STORED) as store, ThreadPoolExecutor(HELD) as threads:
        held = [threads.submit(accounts[n // SLOTS].create, s3compatible(store.url)) for n in range(HELD)]
        until(lambda: store.connections >= HELD, "the process holds as many as it may")
        answer = accounts[-1].create(good)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert "as many requests" in answer.json["request_info"]["message"]
        assert accounts[-1].list().status == 200
        assert not any(each.done() for each in held), "it was told at once"
        store.gate.set()
        assert {each.result().status for each in held} == {200}
    assert accounts[-1].create(good).status == 200
