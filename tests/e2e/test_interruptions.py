"""Any part may stop, freeze or die at any moment: what a client is told then, and what is stored."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from app.messages.keys import QUEUE, TASK
from demo.seaweedfs import SeaweedFS
from tests.servers.odd import STORED, gated, silent
from tests.stack import Api, Deployment, clean_environment, s3compatible, until

PATIENT = {"hold_seconds": "60", "verify_seconds": "30"}
HOLD, VERIFY = 6.0, 3.0
"""Those of a process that waits for no longer."""
HURRIED, UNSTARTED = 1, 2
"""The numbers of that process, and of one that holds for long, but waits no longer for a worker to begin."""
# A job that no worker took is answered this long after its submission.
NOT_STARTED = HOLD - VERIFY
SLACK = 10.0
"""What a slow machine may add."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    settings = {**PATIENT, "allow_http": "1", "egress_allow": "127.0.0.0/8", "destination_limit": "1000"}
    settings["account_verifications"] = "100"
    made = Deployment(folder, apis=3, **settings)
    made.set_api(HURRIED, hold_seconds=str(HOLD), verify_seconds=str(VERIFY))
    made.set_api(UNSTARTED, verify_seconds=str(60 - NOT_STARTED))
    with made as running:
        yield running


@pytest.fixture(scope="module")
def clients(deployment: Deployment) -> tuple[Api, ...]:
    """One of each process, all of the same account."""
    return deployment.clients()


@pytest.fixture(scope="module")
def api(clients: tuple[Api, ...]) -> Api:
    return clients[0]


@pytest.fixture(scope="module")
def hurried(clients: tuple[Api, ...]) -> Api:
    return clients[HURRIED]


def stored(api: Api) -> int:
    return int(api.list().json["usage"]["used"])


def works_again(api: Api, body: dict[str, Any]) -> None:
    """Creates succeed once more, soon and without anything being started again."""
    until(lambda: api.create(body).status == 200, "creates work again")


def test_ten_creates_at_once_each_get_their_own_verdict(api: Api, good: dict[str, Any]) -> None:
    bad = {**good, "s3_secret_access_key": "wrong"}
    before = stored(api)
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(api.create, [good, bad] * 5))
    assert [answer.status for answer in answers] == [200, 400] * 5
    assert [answer.error["code"] for answer in answers[1::2]] == ["secret_mismatch"] * 5
    assert len({answer.report["job"] for answer in answers}) == 10
    assert stored(api) == before + 5


def test_a_store_that_never_answers_delays_nobody_else(api: Api, hurried: Api, good: dict[str, Any]) -> None:
    before = stored(api)
    with gated(STORED) as slow, silent() as store, ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(api.create, s3compatible(slow.url)) for _ in range(10)]
        until(lambda: slow.connections >= 10, "the store that does not answer is called by all ten")
        never = [threads.submit(hurried.create, s3compatible(store.url)) for _ in range(10)]
        alone = [api.create(good) for _ in range(5)]
        assert not any(future.done() for future in waiting)
        refused = [future.result() for future in never]
        slow.gate.set()
        assert [future.result().status for future in waiting] == [200] * 10
    assert [answer.status for answer in alone] == [200] * 5
    assert {answer.error["code"] for answer in refused} == {"timeout"}
    assert all(VERIFY * 0.7 < answer.seconds < HOLD + SLACK for answer in refused)
    assert stored(api) == before + 15


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_without_redis_a_create_is_refused_soon_and_the_rest_works(
    deployment: Deployment, api: Api, good: dict[str, Any], how: signal.Signals
) -> None:
    before = stored(api)
    (destination,) = [api.create({**good, "name": "kept"}).json["destination"]["id"]]
    deployment.redis.signal(how)
    try:
        with ThreadPoolExecutor(10) as threads:
            refused = list(threads.map(api.create, [good] * 10))
        assert [answer.status for answer in refused] == [503] * 10
        assert max(answer.seconds for answer in refused) < 5 + SLACK
        assert all(answer.headers["Retry-After"] for answer in refused)
        assert api.call("GET", f"/destinations/{destination}").status == 200
        assert stored(api) == before + 1
    finally:
        if how == signal.SIGSTOP:
            deployment.redis.signal(signal.SIGCONT)
        else:
            deployment.redis.stop()
            deployment.start_redis()
    works_again(api, good)


def test_without_a_worker_nothing_is_stored_and_an_old_job_does_nothing_later(
    deployment: Deployment, clients: tuple[Api, ...], api: Api, good: dict[str, Any], seaweedfs: SeaweedFS
) -> None:
    before, objects = stored(api), seaweedfs.objects("results")
    assert deployment.worker.stop() == 0
    answer = clients[UNSTARTED].create(good)
    assert answer.status == 503
    assert NOT_STARTED - 0.5 < answer.seconds < NOT_STARTED + 2 + SLACK
    assert "No worker" in answer.json["request_info"]["message"]
    job = deployment.apis[UNSTARTED].events("job submitted")[-1]["job"]
    deployment.start_worker()

    def over() -> bool:
        return job in [event["job"] for event in deployment.worker.events("job expired")]

    until(over, "the old job is taken and found to be over")
    assert job not in [event["job"] for event in deployment.worker.events("verification finished")]
    assert api.create(good).status == 200
    assert stored(api) == before + 1
    assert seaweedfs.objects("results") == objects


def test_a_worker_that_dies_at_work_stores_nothing_and_names_the_file(
    deployment: Deployment, api: Api, hurried: Api, good: dict[str, Any]
) -> None:
    before = stored(api)
    with silent() as store, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(hurried.create, s3compatible(store.url))
        until(lambda: store.connections == 1, "the store is called")
        deployment.worker.signal(signal.SIGKILL)
        answer = waiting.result()
    assert answer.status == 504
    assert answer.seconds < HOLD + SLACK
    assert answer.error["object"].startswith("dropoff-verify-")
    assert stored(api) == before
    deployment.worker.stop()
    deployment.start_worker()
    assert api.create(good).status == 200


def test_an_api_process_that_dies_while_it_holds_has_stored_nothing(
    deployment: Deployment, api: Api, good: dict[str, Any]
) -> None:
    before = stored(api)
    with silent() as store:
        request = raw_create(api, s3compatible(store.url))
        until(lambda: store.connections == 1, "the store is called")
        deployment.api.signal(signal.SIGKILL)
        assert request.recv(1) == b""
        request.close()
    deployment.api.stop()
    deployment.start_api()
    assert stored(api) == before
    assert api.create(good).status == 200


def test_of_a_client_that_goes_away_nothing_is_stored_and_its_file_not_forgotten(
    deployment: Deployment, api: Api, hurried: Api, seaweedfs: SeaweedFS
) -> None:
    """The store does not answer, so the report is there after the client has gone."""
    process, before, told = deployment.apis[HURRIED], stored(api), "test file may remain"
    noted = len(process.events(told))
    with silent() as store:
        request = raw_create(hurried, s3compatible(store.url))
        until(lambda: store.requests, "the store is called")
        request.close()
        until(lambda: len(process.events(told)) > noted, "the report is taken in")
    assert stored(api) == before
    job = process.events(told)[-1]["job"]
    until(lambda: job in [each["id"] for each in api.call("GET", "/leftovers").json["leftovers"]], "it is on record")


def raw_create(api: Api, body: dict[str, Any]) -> socket.socket:
    """A create that was sent on a connection of its own and not yet answered."""
    host, port = api.url.removeprefix("http://").split(":")
    content = json.dumps({"name": "n", "enabled": True, **body})
    request = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST /destinations HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    request.sendall(head.encode() + content.encode())
    return request


def test_a_stopped_api_answers_what_it_holds_before_it_ends(
    deployment: Deployment, hurried: Api, good: dict[str, Any]
) -> None:
    process = deployment.apis[HURRIED]
    with silent() as store:
        request = raw_create(hurried, s3compatible(store.url))
        until(lambda: store.requests, "the store is called")
        process.signal(signal.SIGTERM)
        answer = request.recv(65536).decode()
        request.close()
    assert answer.startswith("HTTP/1.1 400 ")
    assert '"code":"timeout"' in answer
    assert process.stop() == 0
    deployment.start_api(HURRIED)
    until(lambda: hurried.create(good).status == 200, "creates work again")


def test_a_message_that_we_did_not_seal_does_nothing(deployment: Deployment, api: Api, good: dict[str, Any]) -> None:
    before = deployment.worker.log.count("message refused")
    celery = Celery(broker=deployment.redis_url)
    for arguments in (("not sealed",), ("",), (json.dumps(good),)):
        celery.send_task(TASK, args=arguments, queue=QUEUE, ignore_result=True)
    celery.close()
    until(lambda: deployment.worker.log.count("message refused") == before + 3, "all three are refused")
    assert api.create(good).status == 200


@pytest.mark.parametrize("command", ["api", "worker"])
def test_api_and_worker_do_not_start_without_what_they_need(tmp_path: Path, command: str) -> None:
    """Each says on one line what is missing; none shows a traceback."""
    redis, key = {"DROPOFF_REDIS_URL": "redis://127.0.0.1:1/0"}, "A" * 43 + "="
    cases: dict[str, list[tuple[dict[str, str], str]]] = {
        "api": [
            ({}, "DROPOFF_REDIS_URL"),
            (redis, "DROPOFF_SECRET_KEYS"),
            ({"DROPOFF_HOLD_SECONDS": "a"}, "DROPOFF_HOLD_SECONDS"),
            ({**redis, "DROPOFF_SECRET_KEYS": key}, "dropoff migrate"),
        ],
        "worker": [({}, "DROPOFF_REDIS_URL"), ({**redis, "DROPOFF_SECRET_KEYS": "short"}, "32 bytes")],
    }

    def start(settings: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "app.cli", command], capture_output=True, text=True, check=False, timeout=60,
            env=clean_environment(DROPOFF_DATA=str(tmp_path), **settings),
        )  # fmt: skip

    with ThreadPoolExecutor(2) as threads:
        ended = threads.map(start, [settings for settings, _ in cases[command]])
        for (_, word), done in zip(cases[command], ended, strict=True):
            assert done.returncode == 1
            assert word in done.stderr
            assert "Traceback" not in done.stderr
