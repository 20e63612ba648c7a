"""Through the whole service: what may not be called is answered alike, and what is owed is done after the answer."""

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.odd import PAGE, STORED, answering, everywhere, gated, redirecting
from tests.stack import DROPOFF, Answer, Api, Deployment, free_port, until

VERIFY = 20.0
SHORT = {"DROPOFF_VERIFY_SECONDS": "3"}
"""What a worker has in place of it that waits for no longer."""
OPERATOR_KEY = "operator-key-0123456789"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
DENIED = b"HTTP/1.1 403 No\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (len(_DENIED), _DENIED)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One in which 127.0.0.1 stands for the whole public network: no other address may be called."""
    settings = {"hold_seconds": "40", "verify_seconds": str(VERIFY), "allow_http": "1", "egress_allow": "127.0.0.1/32"}
    settings["operator_key"] = OPERATOR_KEY
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


def test_what_a_stopped_worker_could_not_delete_is_told_and_removed_by_the_next(
    deployment: Deployment, api: Api
) -> None:
    worker, operator = deployment.worker, Api(deployment.url, OPERATOR_KEY)
    patient = worker.environment
    worker.stop()
    worker.environment = {**patient, **SHORT}
    deployment.start_worker()
    with answering(STORED) as store:
        # The first time costs it the client of the SDK as well.
        until(lambda: api.create(body(store.url)).status == 200, "a create works")
    with gated(STORED, PUT=STORED) as store:
        answer = api.create(body(store.url))
        assert answer.error["code"] == "timeout"
        assert answer.report["left_behind"]
        assert answer.seconds < VERIFY
        job, file = answer.report["job"], answer.report["object"]
        worker.signal(signal.SIGTERM)
        (line,) = until(lambda: api.call("GET", "/leftovers").json["leftovers"], "it is on record")
        assert (line["id"], line["object"], line["state"], line["parameters"]["s3_endpoint"]) == (
            job, file, "waiting", store.url,
        )  # fmt: skip
        assert deployment.client("another").call("GET", "/leftovers").json["leftovers"] == []
        (seen,) = operator.call("GET", "/leftovers").json["leftovers"]
        assert operator.call("GET", "/leftovers", account=seen["account_name"], state="").json["leftovers"] == [seen]
        assert operator.call("GET", "/leftovers", account="another").json["leftovers"] == []
        assert api.call("GET", "/leftovers", account="0", page="").error["parameter"] == "account"
        assert seen == {**line, "account_name": "tester"}
        assert f"{job}  " in deployment.dropoff("leftovers", "list")
        assert 'dropoff_leftovers{state="waiting"} 1.0' in operator.call("GET", "/metrics").text
        assert worker.popen
        assert worker.popen.wait(60) == 0
        store.gate.set()
        worker.environment = patient
        deployment.start_worker()
        (line,) = until(lambda: worker.events("test file removed late"), "the file is removed after all", 120)
        assert line["object"] == file
        until(lambda: not api.call("GET", "/leftovers").json["leftovers"], "it is off the record")


def test_an_operator_has_it_tried_again_or_forgotten(deployment: Deployment, api: Api) -> None:
    with answering(STORED, DELETE=DENIED) as store:
        answer = api.create(body(store.url))
        assert (answer.error["code"], answer.report["left_behind"]) == ("delete_denied", True)
        job = answer.report["job"]
        until(lambda: api.call("GET", "/leftovers").json["leftovers"], "it is on record")
        assert "tried again" in deployment.dropoff("leftovers", "retry", job)
        deployment.dropoff("leftovers", "forget", job)
        assert deployment.dropoff("leftovers", "list") == ""
        unknown = (*DROPOFF, "leftovers", "forget", job)
        done = subprocess.run(unknown, env=deployment.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "there is no leftover with the id" in done.stderr
