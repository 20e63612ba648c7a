"""Flower beside the product on its broker, started as docs/operating.md says: what it sees, and what it must not."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.e2e.test_secrets import found, planted
from tests.servers.odd import PAGE, gated, html
from tests.stack import REDIS_PASSWORD, Api, Deployment, Process, accepts, clean_environment, free_port, until
from tests.types.every import settings_at

BASIC = "dGVhbTphLXBhc3N3b3JkLW9mLXRoZS10ZWFt"
PASSWORD = "a-password-of-the-team"
PAGES = (
    "/", "/workers", "/worker/{worker}", "/tasks", "/task/{task}", "/broker", "/metrics", "/api/workers?refresh=1",
    "/api/tasks", "/api/task/info/{task}", "/api/task/types", "/api/queues/length",
    "/tasks/datatable?draw=1&start=0&length=99&search[value]=&order[0][column]=0&order[0][dir]=asc&columns[0][data]=name",
)  # fmt: skip


class Flower:
    """One that runs: its process, and what it answers to somebody with its password."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.port = free_port()
        self._client = Api(f"http://127.0.0.1:{self.port}")
        self.process = Process(
            (sys.executable, "-m", "celery", "flower", "--address=127.0.0.1", f"--port={self.port}"),
            folder / "flower.log",
            clean_environment(
                CELERY_BROKER_URL=redis_url, FLOWER_BASIC_AUTH=f"team:{PASSWORD}", FLOWER_READ_ONLY="true"
            ),
        )

    def get(self, path: str) -> str:
        answer = self._client.call("GET", path, headers={"Authorization": f"Basic {BASIC}"})
        assert answer.status == 200, (path, answer)
        return answer.text

    def refuses(self, method: str, path: str, **headers: str) -> int:
        return self._client.call(method, path, b"" if method == "POST" else None, headers).status

    @property
    def workers(self) -> dict[str, Any]:
        return json.loads(self.get("/api/workers"))

    @property
    def tasks(self) -> dict[str, Any]:
        return json.loads(self.get("/api/tasks"))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with html() as store:
        folder = tmp_path_factory.mktemp("flower")
        with Deployment(
            folder, hold_seconds="60", verify_seconds="30", allow_http="1", egress_allow="127.0.0.0/8",
            **settings_at(store.url),
        ) as running:  # fmt: skip
            yield running


@pytest.fixture(scope="module")
def flower(deployment: Deployment) -> Iterator[Flower]:
    running = Flower(deployment.folder, deployment.redis_url)
    running.process.start()
    try:
        until(lambda: accepts(running.port), "Flower listens")
        yield running
    finally:
        running.process.stop()


def test_flower_sees_the_worker_and_its_tasks_and_no_secret(
    deployment: Deployment, flower: Flower, seaweedfs: SeaweedFS
) -> None:
    api = deployment.client()
    key, secret = seaweedfs.customer
    good = {
        "type": "s3compatible", "s3_endpoint": seaweedfs.url, "s3_bucket_name": "results", "s3_access_key_id": key,
        "s3_secret_access_key": secret,
    }  # fmt: skip
    (worker,) = until(lambda: flower.workers, "Flower sees the worker")
    # It asks the workers for events every five seconds, and knows nothing of a task before that.
    wrong = {**good, "s3_secret_access_key": "SENTINEL"}
    until(lambda: api.create(wrong).status == 400 and flower.tasks, "Flower sees a task")

    answers = [api.create(good), api.create(wrong)]
    with html() as store:
        answers += [api.create(body) for body in planted(store.url)]
    assert [answer.status for answer in answers] == [200] + [400] * (len(answers) - 1)
    jobs = [answer.report["job"] for answer in answers]
    until(lambda: all(flower.tasks.get(job, {}).get("state") == "SUCCESS" for job in jobs), "all of them are done")
    with gated(PAGE) as store, ThreadPoolExecutor(1) as threads:
        held = threads.submit(api.create, planted(store.url)[1])
        until(lambda: "STARTED" in {task["state"] for task in flower.tasks.values()}, "one is under way")
        pages = {path: flower.get(path.format(worker=worker, task=jobs[1])) for path in PAGES}
        store.gate.set()
        assert held.result().status == 400

    assert {task["worker"] for task in flower.tasks.values()} == {worker}
    task = json.loads(pages["/api/task/info/{task}"])
    assert (task["name"], task["args"], task["kwargs"]) == ("dropoff.verify", "(sealed)", "{}")
    assert "dropoff.verify" in pages["/task/{task}"] and "(sealed)" in pages["/task/{task}"]
    assert worker in pages["/workers"] and jobs[1] in pages[PAGES[-1]]
    shown = [*pages.values(), json.dumps(flower.tasks), flower.process.log]
    assert not [text for text in shown if found(text)]
    unwanted = (REDIS_PASSWORD, secret, api.key, deployment.environment["DROPOFF_SECRET_KEYS"], PASSWORD)
    assert not [text for text in shown for each in unwanted if each in text]


def test_as_it_is_started_nobody_looks_without_the_password_and_nobody_interferes(flower: Flower) -> None:
    (worker,) = until(lambda: flower.workers, "Flower sees the worker")
    authorized = {"Authorization": f"Basic {BASIC}"}
    assert flower.refuses("GET", "/api/tasks") == flower.refuses("GET", "/") == 401
    for path in (f"/api/worker/shutdown/{worker}", "/api/task/revoke/a-task", "/api/task/send-task/dropoff.verify"):
        assert flower.refuses("POST", path, **authorized) == 403
