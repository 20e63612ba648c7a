"""What an operator and a customer see of jobs: in every way in which one may go, whatever dies meanwhile."""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from redis import Redis

from app.monitor.board import STREAM
from app.web.jobs import SLOW_SECONDS
from tests.servers.odd import silent
from tests.stack import Answer, Api, Deployment, s3compatible, until

HOLD, VERIFY = 6.0, 3.0
"""Those of the second API process, which waits for no longer."""
OPERATOR_KEY = "the-key-of-the-operator"
DONE = ["queued", "running", "uploading", "deleting", "succeeded"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    settings = {"hold_seconds": "60", "verify_seconds": "30", "allow_http": "1"}
    settings |= {"egress_allow": "127.0.0.0/8", "destination_limit": "1000", "operator_key": OPERATOR_KEY}
    made = Deployment(tmp_path_factory.mktemp("jobs"), apis=2, **settings)
    made.set_api(1, hold_seconds=str(HOLD), verify_seconds=str(VERIFY))
    with made as running:
        yield running


@pytest.fixture(scope="module")
def api(deployment: Deployment) -> Api:
    return deployment.client()


@pytest.fixture(scope="module")
def hurried(deployment: Deployment, api: Api) -> Api:
    """The same account's client of the process that does not wait for long."""
    return Api(deployment.urls[1], api.key)


@pytest.fixture(scope="module")
def operator(deployment: Deployment) -> Api:
    return Api(deployment.url, OPERATOR_KEY)


def job_of(api: Api, job: str) -> dict[str, Any]:
    answer = api.call("GET", f"/jobs/{job}")
    assert answer.status == 200, answer.text
    return answer.json["job"]


def ended(api: Api, answer: Answer) -> dict[str, Any]:
    """The job behind `answer`, once its end is on the board, and its beginning, which another process tells."""
    error = answer.json.get("error", {})
    job = error.get("job") or answer.report["job"]
    under_way = ("queued", "running", "uploading", "deleting")

    def over() -> Any:
        shown = api.call("GET", f"/jobs/{job}")
        found = shown.json.get("job", {"state": "queued"})
        stored = "error" in answer.json or found.get("destination")
        whole = stored and found["state"] not in under_way and states(found)[0] == "queued"
        return found if whole else None

    return until(over, f"the job {job} has ended")


def listed(job: dict[str, Any]) -> dict[str, Any]:
    """The job as a list shows it."""
    return {name: value for name, value in job.items() if name not in ("bucket", "timeline", "report")}


def states(job: dict[str, Any]) -> list[str]:
    return [each["state"] for each in job["timeline"]]


def test_a_create_that_succeeds_is_told_step_by_step(deployment: Deployment, api: Api, good: dict[str, Any]) -> None:
    answer = api.create(good)
    job = ended(api, answer)
    assert (job["state"], job["fault"], states(job)) == ("succeeded", None, DONE)
    assert job["destination"] == answer.json["destination"]["id"]
    assert (job["id"], job["type"], job["attempt"]) == (answer.report["job"], "s3compatible", 1)
    assert job["report"] == answer.report
    assert job["host"] == answer.report["host"]
    assert {each["worker"] for each in job["timeline"][1:]} == {job["worker"]}
    assert str(deployment.worker.popen.pid) in job["worker"]  # type: ignore[union-attr]
    times = [each["at"] for each in job["timeline"]]
    assert times == sorted(times)
    assert (job["submitted_at"], job["changed_at"]) == (times[0], times[-1])
    assert api.call("GET", "/jobs", limit="1").json["jobs"] == [listed(job)]
    assert {event["job"] for event in deployment.worker.events("verification finished")} >= {job["id"]}


def test_a_refusal_shows_its_fault_and_an_update_its_destination(api: Api, good: dict[str, Any]) -> None:
    refused = ended(api, api.create({**good, "s3_secret_access_key": "wrong"}))
    assert (refused["state"], refused["fault"]) == ("failed", "secret_mismatch")
    assert api.call("GET", f"/destinations/{refused['destination']}").status == 404, "the id that it was to get"
    assert states(refused) == ["queued", "running", "uploading", "failed"]
    destination = api.create(good).json["destination"]["id"]
    body = json.dumps({"s3_secret_access_key": "wrong"}).encode()
    answer = api.call("PUT", f"/destinations/{destination}", body, {"Content-Type": "application/json"})
    assert ended(api, answer)["destination"] == destination
    found = api.call("GET", "/jobs", destination=destination, fault="secret_mismatch").json["jobs"]
    assert [job["id"] for job in found] == [answer.report["job"]]


def test_a_customer_sees_its_own_jobs_and_the_operator_all(
    deployment: Deployment, api: Api, operator: Api, good: dict[str, Any]
) -> None:
    other = deployment.client("another")
    mine, theirs = ended(api, api.create(good)), ended(other, other.create(good))
    assert theirs["id"] in [job["id"] for job in other.call("GET", "/jobs").json["jobs"]]
    assert theirs["id"] not in [job["id"] for job in api.call("GET", "/jobs").json["jobs"]]
    hidden = api.call("GET", f"/jobs/{theirs['id']}")
    assert (hidden.status, hidden.error["code"]) == (404, "job_not_found")
    assert hidden.text == api.call("GET", "/jobs/no-such-job").text
    everybody = operator.call("GET", "/jobs", limit="2").json["jobs"]
    assert [(job["id"], job["account_name"]) for job in everybody] == [
        (theirs["id"], "another"), (mine["id"], "tester"),
    ]  # fmt: skip
    assert job_of(operator, theirs["id"]) == {**theirs, "account_name": "another"}
    found = operator.call("GET", "/jobs", account=str(theirs["account"])).json["jobs"]
    assert {job["account_name"] for job in found} == {"another"}
    assert api.call("GET", "/jobs", account=str(mine["account"])).status == 200
    foreign = api.call("GET", "/jobs", account=str(theirs["account"]))
    assert (foreign.status, foreign.error["parameter"]) == (400, "account")


def test_the_operators_key_makes_no_destination_and_no_other_key_opens_jobs(
    deployment: Deployment, operator: Api
) -> None:
    assert operator.create(s3compatible("http://127.0.0.1:1")).status == 401
    for key in ("", "wrong", OPERATOR_KEY[:-1]):
        for path in ("/jobs", "/jobs/x", "/jobs/stream"):
            assert Api(deployment.url, key).call("GET", path).status == 401
    assert operator.call("GET", "/jobs", headers={"Authorization": ""}, api_key=OPERATOR_KEY).status == 200


def test_what_is_no_parameter_is_refused_by_name(api: Api) -> None:
    answer = api.call("GET", "/jobs", page="2", limit="0")
    assert answer.status == 400
    assert [fault["parameter"] for fault in answer.error["parameters"]] == ["page", "limit"]
    assert api.call("GET", "/jobs/x", page="2").status == 400
    assert api.call("GET", "/jobs/stream", page="2").status == 400
    assert api.call("GET", "/jobs/stream", last_event_id="yesterday").status == 400
    assert api.call("POST", "/jobs").status == 405


def test_a_job_whose_worker_is_killed_is_lost(deployment: Deployment, api: Api, hurried: Api) -> None:
    with silent() as store, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(hurried.create, s3compatible(store.url))
        until(lambda: store.connections == 1, "the store is called")
        until(lambda: api.call("GET", "/jobs", state="uploading").json["jobs"], "the upload is on the board")
        deployment.worker.signal(signal.SIGKILL)
        answer = waiting.result()
    assert answer.status == 504
    job = ended(api, answer)
    assert (job["state"], states(job)) == ("lost", ["queued", "running", "uploading", "lost"])
    assert (job["host"], job["report"]) == (store.url.removeprefix("http://"), None)
    deployment.worker.stop()
    deployment.start_worker()


def test_a_job_that_no_worker_takes_expires_and_stays_so(
    deployment: Deployment, api: Api, hurried: Api, good: dict[str, Any]
) -> None:
    deployment.worker.stop()
    answer = hurried.create(good)
    assert answer.status == 503
    assert ended(api, answer)["state"] == "expired"
    deployment.start_worker()
    until(
        lambda: answer.error["job"] in [event["job"] for event in deployment.worker.events("job expired")],
        "the worker finds it",
    )
    job = until(lambda: len((shown := job_of(api, answer.error["job"]))["timeline"]) == 3 and shown, "it is noted")
    assert (job["state"], job["worker"], states(job)) == ("expired", None, ["queued", "expired", "expired"])


def test_jobs_outlive_an_api_process(deployment: Deployment, api: Api, hurried: Api, good: dict[str, Any]) -> None:
    """One that is killed at once, and one whose last note is written by the way."""
    before = ended(api, api.create(good))
    failed = {"state": "failed", "fault": "timeout", "limit": "1"}
    with silent() as store, ThreadPoolExecutor(1) as threads:
        held = threads.submit(abandoned, hurried, s3compatible(store.url))
        until(lambda: store.connections == 1, "the store is called")
        deployment.apis[1].signal(signal.SIGKILL)
        held.result()
        deployment.apis[1].stop()
        deployment.start_api(1)
        assert job_of(hurried, before["id"]) == before
        job = until(
            lambda: next(iter(hurried.call("GET", "/jobs", **failed).json["jobs"]), None),
            "the worker notes how it ended",
        )
    assert states(job_of(hurried, job["id"]))[-1] == "failed"


def abandoned(api: Api, body: dict[str, Any]) -> None:
    """A create whose answer never comes."""
    with contextlib.suppress(OSError):
        api.create(body)


def test_pages_stay_as_they_are_while_jobs_arrive(api: Api, good: dict[str, Any]) -> None:
    everything = [job["id"] for job in api.call("GET", "/jobs", limit="100").json["jobs"]]
    assert len(everything) > 4
    seen: list[str] = []
    query = {"limit": "2"}
    for _ in range(100):
        page = api.call("GET", "/jobs", **query).json
        seen += [job["id"] for job in page["jobs"]]
        if not page["next_cursor"]:
            break
        ended(api, api.create(good))
        query["cursor"] = page["next_cursor"]
    assert seen == everything


STREAM_SECONDS = 60


def jobs(events: Iterator[dict[str, str]], number: int) -> list[tuple[str, dict[str, Any]]]:
    """The ids and jobs of the next events about jobs, which come soon."""
    found, ends = [], time.monotonic() + STREAM_SECONDS
    for event in events:
        if event.get("event") == "job":
            found.append((event["id"], json.loads(event["data"])))
        if len(found) == number:
            break
        # A stream without news has a heartbeat now and then, and so no end.
        assert time.monotonic() < ends, f"{len(found)} of {number} events"
    return found


def test_the_stream_tells_of_each_transition_and_resumes(
    deployment: Deployment, api: Api, operator: Api, good: dict[str, Any]
) -> None:
    other = deployment.client("another")
    with api.stream() as own, operator.stream() as everything:
        opening = next(own)["id"]
        next(everything)
        answer = api.create(good)
        job = answer.report["job"]
        events = jobs(own, 5)
        # Two processes write, each a moment later: an event may show a later state than its own, but none goes back.
        assert {each["id"] for _, each in events} == {job}
        assert sorted(events, key=lambda event: DONE.index(event[1]["state"])) == events
        assert events[-1][1] == listed(ended(api, answer))
        foreign = ended(other, other.create(good))["id"]
        last = jobs(everything, 10)
        assert {each["id"] for _, each in last} == {job, foreign}
        assert {each["account_name"] for _, each in last} == {"tester", "another"}
        assert last[-1][1] == listed(job_of(operator, foreign))
    with api.stream(after=opening) as again:
        next(again)
        assert jobs(again, 5) == events
    with api.stream(after=events[2][0]) as resumed:
        next(resumed)
        assert jobs(resumed, 2) == events[3:]


def flood(deployment: Deployment, number: int) -> None:
    """As many events as if the workers had written them."""
    with Redis.from_url(deployment.redis_url, decode_responses=True) as redis:
        (_, newest), *_ = redis.xrevrange(STREAM, count=1)
        # Of one event each: those of several are numbered by who writes them.
        fields = {"job": newest["job"].splitlines()[-1]}
        with redis.pipeline(transaction=False) as pipe:
            for _ in range(number):
                pipe.xadd(STREAM, fields, maxlen=10_000, approximate=True)
            pipe.execute()


@contextlib.contextmanager
def never_reading(operator: Api) -> Iterator[socket.socket]:
    """A client of the stream that reads its head and then nothing."""
    host, port = operator.url.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect((host, int(port)))
        client.sendall(f"GET /jobs/stream HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {operator.key}\r\n\r\n".encode())
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        yield client


def established(deployment: Deployment, client: socket.socket) -> bool:
    assert deployment.api.popen
    connections = psutil.Process(deployment.api.popen.pid).net_connections("tcp")
    return any(c.raddr and c.raddr.port == client.getsockname()[1] for c in connections)


def test_a_slow_reader_is_cut_and_nobody_else(deployment: Deployment, operator: Api, api: Api) -> None:
    with never_reading(operator) as slow, operator.stream() as quick:
        next(quick)
        assert established(deployment, slow)
        for _ in range(20):
            flood(deployment, 1000)
            last = jobs(quick, 1000)[-1][0]
        until(lambda: not established(deployment, slow), "the slow reader is cut", SLOW_SECONDS + 60)
        flood(deployment, 10)
        assert len(jobs(quick, 10)) == 10
    with operator.stream(after=last) as resumed:
        next(resumed)
        assert len(jobs(resumed, 10)) == 10


def test_a_gap_is_told(deployment: Deployment, operator: Api) -> None:
    with operator.stream(after="1-0") as events:
        assert next(events)["id"] == "1-0"
        assert next(events)["event"] == "gap"
        assert jobs(events, 1)


def test_streams_do_not_delay_the_end_of_an_api_process(deployment: Deployment, operator: Api) -> None:
    with never_reading(operator), operator.stream() as idle:
        next(idle)
        flood(deployment, 9000)
        began = time.monotonic()
        assert deployment.api.stop() == 0
        # A request that is held would be waited for.
        assert time.monotonic() - began < 30
    assert "Traceback" not in deployment.api.log
    deployment.start_api()


def test_a_board_that_cannot_be_written_fails_no_job(
    deployment: Deployment, api: Api, operator: Api, good: dict[str, Any]
) -> None:
    def logged(event: str) -> list[int]:
        """How often the API process and the worker have logged this about the board."""
        processes = (deployment.api, deployment.worker)
        return [sum(line["task"] == "board" for line in process.events(event)) for process in processes]

    waits, works = "background task waits for redis", "background task works again"
    before = logged(waits)
    with Redis.from_url(deployment.redis_url) as redis:
        redis.set(STREAM, "no stream")
        answers = [api.create(good) for _ in range(3)]
        assert [answer.status for answer in answers] == [200] * 3
        assert api.create({**good, "s3_secret_access_key": "wrong"}).error["code"] == "secret_mismatch"
        until(lambda: all(now > then for now, then in zip(logged(waits), before, strict=True)), "both say so")
        redis.delete(STREAM)
    assert ended(operator, api.create(good))["state"] == "succeeded"
    assert logged(waits) == [number + 1 for number in before]
    assert all(logged(works))
