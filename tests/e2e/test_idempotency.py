"""Idempotency keys, on two API processes that share a database and a queue."""

import json
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from app.store.engine import open_engine
from demo.seaweedfs import SeaweedFS
from tests.servers.odd import STORED, gated
from tests.stack import Answer, Api, Deployment, s3compatible, until

HOLD, VERIFY = 8.0, 3.0
"""Those of the third API process, which waits for no longer."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    database = {}
    if request.param == "postgresql":
        database = {"database_url": request.getfixturevalue("postgres").new_database()}
    made = Deployment(
        tmp_path_factory.mktemp("two"), apis=3, workers=2,
        hold_seconds="60", verify_seconds="30", allow_http="1", egress_allow="127.0.0.0/8",
        destination_limit="1000", **database,
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
    return body_for(seaweedfs.url, *seaweedfs.customer)


def body_for(endpoint: str, key: str = "k", secret: str = "s") -> dict[str, Any]:
    return {"name": "results", "enabled": True, **s3compatible(endpoint, key, secret)}


def send(api: Api, key: str, body: Mapping[str, Any], path: str = "/destinations") -> Answer:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    method = "POST" if path.endswith(("/destinations", "/verify")) else "PUT"
    return api.call(method, path, json.dumps(body).encode(), headers)


def used(api: Api) -> int:
    return int(api.list().json["usage"]["used"])


class TestIdempotency:
    def test_a_repeat_is_answered_the_same_by_any_process(self, apis: tuple[Api, ...], good: dict[str, Any]) -> None:
        before = used(apis[0])
        first, *repeats = [send(api, "a-key", good) for api in (*apis[:2], apis[0])]
        assert first.status == 200
        assert "Idempotency-Replayed" not in first.headers
        for repeat in repeats:
            assert (repeat.status, repeat.json) == (200, first.json)
            assert repeat.headers["Idempotency-Replayed"] == "true"
        assert used(apis[0]) == before + 1

    def test_the_same_json_spelled_otherwise_is_the_same_request(
        self, apis: tuple[Api, ...], good: dict[str, Any]
    ) -> None:
        first = send(apis[0], "spelling", good)
        backwards = dict(reversed(good.items()))
        assert send(apis[1], "spelling", backwards).json == first.json

    def test_a_refusal_is_repeated_without_a_verification(
        self, apis: tuple[Api, ...], good: dict[str, Any], deployment: Deployment
    ) -> None:
        wrong = {**good, "s3_secret_access_key": "wrong"}
        first = send(apis[0], "refused", wrong)
        jobs = sum(len(api.events("job submitted")) for api in deployment.apis)
        repeat = send(apis[1], "refused", wrong)
        assert (first.status, repeat.status) == (400, 400)
        assert repeat.json == first.json
        assert sum(len(api.events("job submitted")) for api in deployment.apis) == jobs

    def test_another_body_is_refused(self, apis: tuple[Api, ...], good: dict[str, Any]) -> None:
        assert send(apis[0], "reused", good).status == 200
        again = send(apis[1], "reused", {**good, "name": "another"})
        assert (again.status, again.error["code"]) == (422, "idempotency_key_reused")

    def test_a_repeat_during_the_hold_is_told_to_wait(self, apis: tuple[Api, ...]) -> None:
        with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
            body = body_for(store.url)
            held = threads.submit(send, apis[0], "held", body)
            until(lambda: store.requests, "the store is called")
            repeat = send(apis[1], "held", body)
            assert (repeat.status, repeat.error["code"]) == (409, "idempotency_key_in_use")
            assert repeat.headers["Retry-After"]
            store.gate.set()
            assert held.result().status == 200
        assert send(apis[1], "held", body).json == held.result().json

    def test_ten_at_once_create_one(self, apis: tuple[Api, ...], good: dict[str, Any]) -> None:
        before = used(apis[0])
        with ThreadPoolExecutor(10) as threads:
            answers = list(threads.map(lambda n: send(apis[n % 2], "at-once", good), range(10)))
        assert {answer.status for answer in answers} <= {200, 409}
        assert len({answer.text for answer in answers if answer.status == 200}) == 1
        assert used(apis[0]) == before + 1

    def test_an_update_is_carried_out_once(self, apis: tuple[Api, ...], good: dict[str, Any]) -> None:
        path = f"/destinations/{send(apis[0], 'to-update', good).json['destination']['id']}"
        first = send(apis[0], "update", {"name": "one"}, path)
        assert first.status == 200
        assert send(apis[1], "not-this-key", {"name": "two"}, path).status == 200
        assert send(apis[1], "update", {"name": "one"}, path).json == first.json
        assert apis[0].call("GET", path).json["destination"]["name"] == "two"

    def test_a_verification_is_carried_out_once_and_is_no_create(
        self, apis: tuple[Api, ...], good: dict[str, Any], deployment: Deployment
    ) -> None:
        path = f"/destinations/{send(apis[0], 'to-verify', good).json['destination']['id']}/verify"
        for key, body, where in (("verify", good, "/destinations/verify"), ("verify-it", {}, path)):
            first = send(apis[0], key, body, where)
            jobs = sum(len(api.events("job submitted")) for api in deployment.apis)
            repeat = send(apis[1], key, body, where)
            assert (first.status, repeat.status) == (200, 200)
            assert repeat.json == first.json
            assert sum(len(api.events("job submitted")) for api in deployment.apis) == jobs
        assert send(apis[0], "verify", good).status == 422

    def test_accounts_do_not_share_keys(
        self, apis: tuple[Api, ...], good: dict[str, Any], deployment: Deployment
    ) -> None:
        other = deployment.client("another")
        mine, theirs = send(apis[0], "shared", good), send(other, "shared", good)
        assert mine.json["destination"]["id"] != theirs.json["destination"]["id"]

    @pytest.mark.parametrize("key", ["", " ", "x" * 256, "a b", "ä"])
    def test_what_is_no_key_is_refused(self, apis: tuple[Api, ...], good: dict[str, Any], key: str) -> None:
        answer = send(apis[0], key, good)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")

    async def test_what_is_kept_has_no_secret_and_no_body(
        self, apis: tuple[Api, ...], deployment: Deployment, good: dict[str, Any]
    ) -> None:
        body = {**good, "s3_secret_access_key": "SENTINEL-1", "name": "wrong-secret"}
        assert send(apis[0], "SENTINEL-key", body).status == 400
        async with open_engine(deployment.database_url) as engine, engine.connect() as connection:
            rows = (await connection.execute(text("select * from idempotency_keys"))).all()
        assert rows
        assert "SENTINEL" not in repr(rows)
        assert "wrong-secret" not in repr(rows)

    def test_no_answer_that_would_last_lets_the_repeat_run(self, apis: tuple[Api, ...], deployment: Deployment) -> None:
        """503 says: try again. So the same key tries again."""
        with gated(STORED) as store:
            store.gate.set()
            body = body_for(store.url)
            for worker in deployment.workers:
                worker.signal(signal.SIGSTOP)
            try:
                first = send(apis[2], "unlucky", body)
            finally:
                for worker in deployment.workers:
                    worker.signal(signal.SIGCONT)
            assert first.status == 503
            again = until(lambda: (a := send(apis[1], "unlucky", body)).status == 200 and a, "it works again")
        assert "Idempotency-Replayed" not in again.headers

    def test_after_a_crash_it_runs_anew_and_creates_once(
        self, apis: tuple[Api, ...], deployment: Deployment, good: dict[str, Any]
    ) -> None:
        before = used(apis[1])
        with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
            body = body_for(store.url)
            lost = threads.submit(send, apis[2], "crashed", body)
            until(lambda: store.requests, "the store is called")
            deployment.apis[2].signal(signal.SIGKILL)
            assert isinstance(lost.exception(), OSError)
            deployment.apis[2].stop()
            assert send(apis[1], "crashed", body).status == 409
            deployment.start_api(2)
            store.gate.set()
            answer = until(lambda: (a := send(apis[1], "crashed", body)).status == 200 and a, "its time is over")
        assert used(apis[1]) == before + 1
        assert send(apis[0], "crashed", body).json == answer.json
