"""Through the whole service: what may not be called is answered alike, and what is owed is done after the answer."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.odd import PAGE, STORED, everywhere, gated, redirecting
from tests.stack import Answer, Api, Deployment, free_port, until

VERIFY = 2.0


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One in which 127.0.0.1 stands for the whole public network: no other address may be called."""
    settings = {"hold_seconds": "8", "verify_seconds": str(VERIFY), "allow_http": "1", "egress_allow": "127.0.0.1/32"}
    with Deployment(tmp_path_factory.mktemp("egress"), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def api(deployment: Deployment) -> Api:
    return deployment.client()


def body(endpoint: str) -> dict[str, Any]:
    keys = {"s3_access_key_id": "k", "s3_secret_access_key": "s"}
    return {"type": "s3compatible", "s3_bucket_name": "results", "s3_endpoint": endpoint, **keys}


def said(answer: Answer) -> str:
    """The whole answer but for the host, for durations and for names that are made up for each call."""
    content = answer.json
    for own in (answer.report["job"], answer.report["object"], answer.report["host"]):
        content = json.loads(json.dumps(content).replace(own, "OWN"))
    report = content["error"]["verification"]
    report["duration_ms"] = None
    for step in report["steps"]:
        step["ms"] = None
    return f"{answer.status} {json.dumps(content)}"


def test_whether_somebody_listens_is_not_learnt_through_the_service(api: Api) -> None:
    with everywhere(PAGE) as canary:
        open_port, closed_port = canary.url.rpartition(":")[2], free_port()
        hosts = ("127.0.0.2", "[::ffff:127.0.0.2]", "[::1]", "10.0.0.1")
        places = [f"http://{host}:{port}" for host in hosts for port in (open_port, closed_port)]
        answers = [api.create(body(place)) for place in places]
        assert canary.called == []
    assert {answer.error["code"] for answer in answers} == {"endpoint_not_allowed"}
    assert len({said(answer) for answer in answers}) == 1
    assert all(answer.seconds < VERIFY for answer in answers)


def test_where_a_redirect_leads_is_not_learnt_through_the_service(api: Api) -> None:
    with everywhere(PAGE) as canary:
        port, answers = canary.url.rpartition(":")[2], []
        for target in (f"127.0.0.2:{port}", f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}", "unknown.invalid"):
            with redirecting(f"http://{target}/") as store:
                answer = api.create(body(store.url))
                answers.append(said(answer))
                assert len(store.requests) == 1
        assert canary.called == []
    assert answer.error["code"] == "redirect_refused"
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    "place", ["http://k@127.0.0.1:9000", "http://127.1:9000", "http://127.0.0.1:9000#x", "file:///x"]
)
def test_what_is_no_plain_host_is_not_even_queued(deployment: Deployment, api: Api, place: str) -> None:
    before = len(deployment.worker.events("verification finished"))
    answer = api.create(body(place))
    assert (answer.status, answer.error["code"], answer.error["parameter"]) == (400, "invalid_parameter", "s3_endpoint")
    assert place not in answer.text
    assert len(deployment.worker.events("verification finished")) == before


def test_a_delete_that_is_owed_is_tried_after_the_answer(deployment: Deployment, api: Api) -> None:
    worker = deployment.worker
    with gated(STORED) as store:
        answer = api.create(body(store.url))
        assert answer.error["code"] == "timeout"
        assert answer.report["left_behind"]
        assert answer.seconds < VERIFY + 1.5
        store.gate.set()
        (line,) = until(lambda: worker.events("test file removed late"), "the file is removed after all", 15)
    assert (line["job"], line["object"]) == (answer.report["job"], answer.report["object"])
    assert worker.events("test file left behind") == []


def test_a_worker_that_is_stopped_does_what_is_owed_first(deployment: Deployment, api: Api) -> None:
    worker = deployment.worker
    with gated(STORED) as store:
        answer = api.create(body(store.url))
        assert worker.popen
        worker.signal(signal.SIGTERM)
        store.gate.set()
        assert worker.popen.wait(20) == 0
    (line,) = [line for line in worker.events("test file") if line["job"] == answer.report["job"]]
    assert line["event"] == "test file removed late"
    deployment.start_worker()
