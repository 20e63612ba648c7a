"""Who waits for a job watches over it: no dead worker, lost message, copy, lie or wrong clock changes the answer."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from app.messages.keys import QUEUE, replies_key
from tests.servers.odd import STORED, Odd, gated
from tests.stack import REDIS_PASSWORD, Api, Deployment, Process, s3compatible, until

HOLD, VERIFY = 24.0, 10.0
OPERATOR = "the-key-of-the-operator"
AGAIN_SECONDS = 10.0
"""Within so long after the death of a worker another has its jobs."""
SLACK = 10.0
"""What a slow machine may add."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    settings = {"hold_seconds": str(HOLD), "verify_seconds": str(VERIFY), "operator_key": OPERATOR}
    folder = tmp_path_factory.mktemp("supervision")
    with Deployment(folder, workers=2, allow_http="1", egress_allow="127.0.0.0/8", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def api(deployment: Deployment) -> Api:
    return deployment.client()


@pytest.fixture(scope="module")
def broker(deployment: Deployment) -> Iterator["redis.Redis[bytes]"]:
    with redis.Redis(port=deployment.redis_port, password=REDIS_PASSWORD) as client:
        yield client


def counted(deployment: Deployment, name: str) -> float:
    """The value of the API's metric `name`, with its labels as Prometheus writes them; 0 where there is none yet."""
    text = Api(deployment.url, OPERATOR).call("GET", "/metrics").text
    return float(next((line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")), 0))


def worker_of(deployment: Deployment, name: str) -> Process:
    """The process of the worker that is called `name`."""
    return next(each for each in deployment.workers if each.popen and f"dropoff-{each.popen.pid}@" in name)


def under_way(api: Api, number: int) -> list[str]:
    """The names of the workers that have this account's newest jobs, of which there are to be so many."""

    def named() -> list[str] | None:
        uploading = api.call("GET", "/jobs", state="uploading", limit=f"{number}").json["jobs"]
        return [job["worker"] for job in uploading] if len(uploading) == number else None

    workers: list[str] = until(named, "workers have the jobs")
    return workers


def uploads(store: Odd) -> int:
    return sum(request.startswith(b"PUT ") for request in store.requests)


def test_the_jobs_of_a_worker_that_was_killed_are_carried_out_by_another(deployment: Deployment, api: Api) -> None:
    before = counted(deployment, 'dropoff_jobs_resubmitted_total{reason="worker_lost"}')
    with gated(STORED) as store, ThreadPoolExecutor(3) as threads:
        held = [threads.submit(api.create, s3compatible(store.url)) for _ in range(3)]
        workers = under_way(api, 3)
        dead, lost = worker_of(deployment, workers[0]), workers.count(workers[0])
        until(lambda: uploads(store) == 3, "all three are uploading")
        killed = time.monotonic()
        dead.signal(signal.SIGKILL)
        until(lambda: uploads(store) == 3 + lost, "another worker uploads what the dead one had", HOLD)
        took = time.monotonic() - killed
        store.gate.set()
        answers = [each.result() for each in held]
    assert [answer.status for answer in answers] == [200] * 3
    assert took < AGAIN_SECONDS + SLACK
    assert counted(deployment, 'dropoff_jobs_resubmitted_total{reason="worker_lost"}') == before + lost
    assert uploads(store) == 3 + lost
    dead.stop()
    deployment.start_worker(deployment.workers.index(dead))


def test_without_another_worker_the_answer_names_the_file_that_may_remain(deployment: Deployment, api: Api) -> None:
    with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
        held = threads.submit(api.create, s3compatible(store.url))
        until(lambda: uploads(store) == 1, "a worker uploads")
        for worker in deployment.workers:
            worker.signal(signal.SIGKILL)
        answer = held.result()
        assert uploads(store) == 1
    assert (answer.status, answer.error["code"]) == (504, "verification_timed_out")
    assert answer.seconds < HOLD + SLACK
    assert answer.error["object"] in answer.json["request_info"]["message"]
    for number, worker in enumerate(deployment.workers):
        worker.stop()
        deployment.start_worker(number)


def test_a_job_whose_message_was_lost_is_handed_in_again(
    deployment: Deployment, api: Api, broker: "redis.Redis[bytes]"
) -> None:
    with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
        store.gate.set()
        for worker in deployment.workers:
            worker.signal(signal.SIGSTOP)
        try:
            # What they wait for would still be handed to them.
            broker.client_kill_filter(_type="normal", skipme=True)
            held = threads.submit(api.create, s3compatible(store.url))
            until(lambda: broker.delete(QUEUE), "the message is lost")
        finally:
            for worker in deployment.workers:
                worker.signal(signal.SIGCONT)
        assert held.result().status == 200
    assert uploads(store) == 1


def test_copies_of_a_message_do_nothing(deployment: Deployment, api: Api, broker: "redis.Redis[bytes]") -> None:
    with gated(STORED) as store, ThreadPoolExecutor(1) as threads, broker.monitor() as commands:
        held = threads.submit(api.create, s3compatible(store.url))
        message = next(
            command["command"].partition(f"{QUEUE} ")[2]
            for command in commands.listen()
            if command["command"].startswith(f"LPUSH {QUEUE} ")
        ).encode()
        until(lambda: uploads(store) == 1, "it is uploading")
        for _ in range(3):
            broker.lpush(QUEUE, message)
        until(lambda: sum(len(w.events("job is done or under way already")) for w in deployment.workers) >= 3, "seen")
        store.gate.set()
        assert held.result().status == 200
        broker.lpush(QUEUE, message)
        until(lambda: sum(len(w.events("job is done or under way already")) for w in deployment.workers) >= 4, "seen")
    assert uploads(store) == 1


def test_a_verdict_that_we_did_not_seal_has_no_effect(
    deployment: Deployment, api: Api, broker: "redis.Redis[bytes]"
) -> None:
    """Whoever has Redis' password could have a destination that was never tried."""
    before = counted(deployment, 'dropoff_messages_refused_total{source="replies"}')
    with gated(STORED) as store, ThreadPoolExecutor(1) as threads, broker.monitor() as commands:
        held = threads.submit(api.create, s3compatible(store.url))
        until(lambda: uploads(store) == 1, "it is uploading")
        job = deployment.api.events("job submitted")[-1]["job"]
        asked = (each["command"].split() for each in commands.listen())
        # Workers read the queue by the same command.
        replies = next(words[3] for words in asked if words[0] == "BLMPOP" and words[3].startswith(replies_key("")))
        report = (
            '{"ok":true,"message":"m","provider":"s3","host":"h","object":"o","duration_ms":1,"steps":[],"job":"%s"}'
        )
        forged = f'{{"report":{report % job},"at":1}}'
        for each in (forged.encode(), b"\xff", b"", b"{}"):
            broker.rpush(replies, each)
        until(
            lambda: counted(deployment, 'dropoff_messages_refused_total{source="replies"}') == before + 4,
            "all four are refused",
        )
        assert not held.done()
        store.gate.set()
        assert held.result().status == 200
    assert api.call("GET", "/healthz").status == 200


def test_workers_whose_clocks_are_wrong_work_and_that_is_told(deployment: Deployment, api: Api) -> None:
    shifts = (14, 3600)
    for number, (worker, seconds) in enumerate(zip(deployment.workers, shifts, strict=True)):
        worker.stop()
        shifted = {"PYTHONPATH": str(Path(__file__).parent / "shifted"), "SHIFTED_SECONDS": str(seconds)}
        worker.environment = {**worker.environment, **shifted}
        deployment.start_worker(number)
    with gated(STORED) as store, ThreadPoolExecutor(6) as threads:
        held = [threads.submit(api.create, s3compatible(store.url)) for _ in range(6)]
        names = under_way(api, 6)
        store.gate.set()
        assert [each.result().status for each in held] == [200] * 6
    assert {worker_of(deployment, name).log_path for name in names} == {w.log_path for w in deployment.workers}

    def told() -> bool:
        """How far they are off is known the better the quicker Redis has answered."""
        ready = Api(deployment.url, OPERATOR).call("GET", "/readyz")
        (detail,) = [check["detail"] for check in ready.json["checks"] if check["check"] == "clocks"]
        return ready.status == 200 and all(f"is {seconds:+d}.0 s" in detail for seconds in shifts)

    until(told, "that is told")
    assert all(worker.events("clock is off") for worker in deployment.workers)
