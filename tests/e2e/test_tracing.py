"""Traces as an operator's collector gets them, from the product as it is deployed; and that without one nothing is
sent, imported or slower."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.e2e.test_secrets import found, planted
from tests.servers.collector import Collector, Sent, collector
from tests.servers.odd import dead_url, html, silent
from tests.stack import Answer, Deployment, clean_environment, until
from tests.types.every import settings_at

SERVER, CLIENT, PRODUCER, CONSUMER, INTERNAL = 2, 3, 4, 5, 1
OPEN = {"hold_seconds": "60", "verify_seconds": "30", "allow_http": "1", "egress_allow": "127.0.0.0/8"}
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def good(seaweedfs: SeaweedFS) -> dict[str, Any]:
    key, secret = seaweedfs.customer
    return {
        "type": "s3compatible", "s3_endpoint": seaweedfs.url, "s3_bucket_name": "results", "s3_access_key_id": key,
        "s3_secret_access_key": secret, "name": "results", "enabled": True,
    }  # fmt: skip


def create(deployment: Deployment, body: dict[str, Any], **headers: str) -> Answer:
    api = deployment.client()
    return api.call("POST", "/destinations", json.dumps(body).encode(), {"Content-Type": "application/json", **headers})


@dataclass
class Recorded:
    """What was said while traces were collected, by whom; all processes have ended since."""

    deployment: Deployment
    collector: Collector
    created: Answer
    refused: Answer
    others: list[Answer]
    stores_heard: list[bytes]

    def of(self, answer: Answer) -> list[Sent]:
        """The spans of the request that `answer` belongs to, found by the trace that the log has for it."""
        return [span for span in self.collector.spans if span.trace == self.line(answer)["trace"]]

    def line(self, answer: Answer) -> dict[str, Any]:
        (line,) = [e for e in self.deployment.api.events("request") if e["request"] == answer.headers["X-Request-Id"]]
        return line


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, seaweedfs: SeaweedFS) -> Iterator[Recorded]:
    """A create that works, of a caller with a trace of its own, one with a wrong secret, and those with sentinels;
    nothing is sent before the processes end."""
    with collector() as collected, html() as store:
        deployment = Deployment(
            tmp_path_factory.mktemp("tracing"), **OPEN, log_level="DEBUG",
            **settings_at(store.url),
            OTEL_EXPORTER_OTLP_ENDPOINT=collected.url, OTEL_BSP_SCHEDULE_DELAY="600000",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        )  # fmt: skip
        with deployment:
            created = create(deployment, good(seaweedfs), traceparent=CALLER)
            refused = create(deployment, {**good(seaweedfs), "s3_secret_access_key": "SENTINEL-wrong"})
            others = [create(deployment, {**body, "name": "n", "enabled": True}) for body in planted(store.url)]
            api = deployment.client()
            others += [
                api.call("GET", "/destinations/SENTINEL", api_key=api.key, page="SENTINEL"),
                api.call("GET", "/SENTINEL", headers={"traceparent": "SENTINEL", "tracestate": "a=SENTINEL"}),
                api.call("GET", "/destinations", headers={"Authorization": "Bearer SENTINEL", "baggage": "a=SENTINEL"}),
            ]
            assert collected.requests == []
        yield Recorded(deployment, collected, created, refused, others, store.requests)


def named(spans: list[Sent], name: str) -> Sent:
    (span,) = [span for span in spans if span.name == name]
    return span


def test_one_trace_goes_from_the_callers_request_through_the_queue_to_each_step(recorded: Recorded) -> None:
    assert recorded.created.status == 200, recorded.created.text
    spans = recorded.of(recorded.created)
    request, publish, hold, verify = (named(spans, n) for n in ("POST /destinations", "publish", "hold", "verify"))
    assert (request.trace, request.parent) == tuple(CALLER.split("-")[1:3])
    assert publish.parent == hold.parent == request.id
    assert verify.parent == publish.id
    steps = sorted((span for span in spans if span.parent == verify.id), key=lambda span: span.start)
    assert len(spans) == 4 + len(steps)
    kinds = [span.kind for span in (request, publish, hold, verify, *steps)]
    assert kinds == [SERVER, PRODUCER, INTERNAL, CONSUMER] + [CLIENT] * len(steps)
    assert not [span for span in spans if span.failed]


def test_the_steps_are_those_of_the_report_one_after_the_other(recorded: Recorded) -> None:
    for answer in (recorded.created, recorded.refused):
        spans, told = recorded.of(answer), answer.report["steps"]
        verify = named(spans, "verify")
        steps = sorted((span for span in spans if span.parent == verify.id), key=lambda span: (span.start, span.end))
        assert [span.name for span in steps] == [step["step"] for step in told if step["outcome"] != "skipped"]
        assert list(verify.events) == [step["step"] for step in told if step["outcome"] == "skipped"]
        assert [(s.end - s.start) // 1_000_000 for s in steps] == [step["ms"] for step in told if "ms" in step]
        assert all(before.end == after.start for before, after in pairwise(steps))
        # A report counts whole milliseconds, so a step may seem to end a little after all of them did.
        assert verify.start <= steps[0].start and steps[-1].end <= verify.end + len(steps) * 1_000_000
        for step in told:
            span = verify.events.get(step["step"]) or named(steps, step["step"]).attributes
            assert span["dropoff.outcome"] == step["outcome"]
            assert span.get("dropoff.reason") == step.get("reason")


def test_a_span_says_what_is_needed_to_find_and_understand_it(recorded: Recorded) -> None:
    spans, job = recorded.of(recorded.refused), recorded.refused.report["job"]
    assert recorded.refused.status == 400
    assert named(spans, "POST /destinations").attributes == {
        "http.request.method": "POST",
        "http.route": "/destinations",
        "http.response.status_code": 400,
    }
    assert named(spans, "publish").attributes == {"dropoff.job": job, "dropoff.type": "s3compatible"}
    verify, upload = named(spans, "verify"), named(spans, "upload")
    assert verify.attributes == {
        "dropoff.job": job,
        "dropoff.type": "s3compatible",
        "dropoff.host": recorded.refused.report["host"],
        "error.type": "secret_mismatch",
    }
    assert upload.attributes["dropoff.code"] == upload.attributes["error.type"] == "secret_mismatch"
    assert (upload.attributes["dropoff.status"], upload.attributes["dropoff.provider_code"]) == (
        403,
        "SignatureDoesNotMatch",
    )
    # The customer's mistake: the verification failed, the request was answered as it should be.
    assert {span.name for span in spans if span.failed} == {"verify", "upload"}
    assert {span.description for span in spans} == {""}
    for process, name in (("api", "hold"), ("worker", "verify")):
        resource = named(spans, name).resource
        assert (resource["service.name"], resource["dropoff.process"]) == ("dropoff", process)
        assert resource["deployment.environment.name"] == "test"


def test_the_logs_carry_the_ids_of_the_trace_and_of_the_job(recorded: Recorded) -> None:
    trace, job = CALLER.split("-")[1], recorded.created.report["job"]
    spans = recorded.of(recorded.created)
    for process, event, span in (
        (recorded.deployment.api, "job submitted", "POST /destinations"),
        (recorded.deployment.api, "destination created", "POST /destinations"),
        (recorded.deployment.api, "request", "POST /destinations"),
        (recorded.deployment.worker, "verification finished", "verify"),
    ):
        (line,) = [each for each in process.events(event) if each.get("trace") == trace]
        assert (line["job"], line["span"]) == (job, named(spans, span).id)
    requests = recorded.deployment.api.events("request")
    assert len({line["trace"] for line in requests}) == len(requests) > 10
    assert [line for line in requests if "job" not in line], "a request without a job has none of another"


def test_no_trace_has_a_secret_in_it_and_no_store_hears_of_one(recorded: Recorded) -> None:
    assert {answer.status for answer in recorded.others} == {400, 401, 404}
    assert len(recorded.collector.spans) > 40
    assert not [body for body in recorded.collector.requests if found(body)]
    assert not [name for span in recorded.collector.spans for name in (span.name, *span.events) if name == "exception"]
    assert recorded.stores_heard
    assert not [request for request in recorded.stores_heard if b"traceparent" in request.lower()]


def test_what_is_no_route_of_ours_is_not_named(recorded: Recorded) -> None:
    """A path that we do not know may be anything; and what is no traceparent begins a trace of its own."""
    (unknown,) = recorded.of(recorded.others[-2])
    assert unknown.name == "GET"
    assert unknown.attributes == {"http.request.method": "GET", "http.response.status_code": 404}
    assert unknown.parent == ""
    (one,) = recorded.of(recorded.others[-3])
    assert one.attributes["http.route"] == "/destinations/{id}"


ROOTS = """
import sys
from app.observe import logs, tracing
logs.configure("test")
import app.web.server, workers.main
with tracing.exporting("test"):
    with tracing.span("outer"), tracing.span("inner", parent=tracing.traceparent()) as span:
        print(span.is_recording(), bool(tracing.traceparent()))
print(sorted({"opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf"} & set(sys.modules)))
"""


def said(script: str = ROOTS, **variables: str) -> tuple[list[str], list[Mapping[str, Any]]]:
    """What `script` prints and logs in a process of its own with `variables`."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, timeout=60, env=clean_environment(**variables),
    )  # fmt: skip
    return done.stdout.splitlines(), [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "dropoff", "OTEL_TRACES_SAMPLER": "always_on", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["nothing set", "no exporter", "disabled", "none"],
)
def test_without_its_variables_nothing_is_imported_sent_or_said(variables: dict[str, str]) -> None:
    """The SDK's metrics are left out of this: redis-py imports them by itself wherever they are installed."""
    with collector() as collected:
        printed, logged = said(**{name: value.format(url=collected.url) for name, value in variables.items()})
        assert printed == ["False False", "[]"]
        assert logged == []
        assert collected.requests == []


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"}, 2),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{url}/v1/traces", "OTEL_TRACES_EXPORTER": "otlp"}, 2),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_TRACES_SAMPLER": "always_off"}, 0),
    ],
    ids=["endpoint", "traces endpoint", "sampler"],
)
def test_the_standard_variables_are_honoured(variables: dict[str, str], sent: int) -> None:
    variables |= {"OTEL_SERVICE_NAME": "of-the-operator"}
    with collector() as collected:
        printed, logged = said(**{name: value.format(url=collected.url) for name, value in variables.items()})
        assert printed[0] == f"{sent > 0} True"
        assert [line["event"] for line in logged] == ["tracing is on"]
        assert len(collected.spans) == sent
        assert {span.resource["service.name"] for span in collected.spans} <= {"of-the-operator"}


@pytest.mark.parametrize(
    ("before", "variables", "sentence"),
    [
        ("import sys; sys.modules['opentelemetry.sdk'] = None", {}, "pip install 'dropoff[tracing]'"),
        ("", {"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER must be otlp"),
        ("", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL http/protobuf"),
        ("", {"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "no valid value"),
    ],
    ids=["not installed", "exporter", "protocol", "value"],
)
def test_what_cannot_be_done_is_one_line_and_the_process_goes_on(
    before: str, variables: dict[str, str], sentence: str
) -> None:
    with collector() as collected:
        printed, logged = said(before + ROOTS, OTEL_EXPORTER_OTLP_ENDPOINT=collected.url, **variables)
    assert printed[0] == "False False"
    (line,) = logged
    assert (line["level"], line["event"], sentence in line["reason"]) == ("warning", "tracing is off", True), line


def test_of_an_exception_a_span_keeps_its_type_and_not_its_text() -> None:
    failing = ROOTS + 'with tracing.exporting("t"), tracing.span("broke"): raise KeyError("SENTINEL")'
    with collector() as collected, pytest.raises(subprocess.CalledProcessError):
        said(failing, OTEL_EXPORTER_OTLP_ENDPOINT=collected.url)
    span = named(collected.spans, "broke")
    assert (span.failed, span.description, span.attributes) == (True, "", {"error.type": "KeyError"})
    assert not [body for body in collected.requests if found(body)]


def test_a_header_that_cannot_be_read_is_not_logged() -> None:
    with collector() as collected:
        _, logged = said(OTEL_EXPORTER_OTLP_ENDPOINT=collected.url, OTEL_EXPORTER_OTLP_HEADERS="SENTINEL")
    assert "SENTINEL" not in repr(logged)


@pytest.mark.parametrize("kind", ["nobody listens", "never answers"])
def test_a_collector_that_is_gone_delays_and_fails_nothing(
    tmp_path_factory: pytest.TempPathFactory, seaweedfs: SeaweedFS, kind: str
) -> None:
    """Everything is answered while the exporter, whose own patience is ten seconds, waits for its first answer."""
    with silent() as frozen:
        url = frozen.url if kind == "never answers" else dead_url()
        with Deployment(
            tmp_path_factory.mktemp("gone"), **OPEN,
            OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_SCHEDULE_DELAY="50", OTEL_BSP_MAX_QUEUE_SIZE="16",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8",
        ) as deployment:  # fmt: skip
            assert create(deployment, good(seaweedfs)).status == 200
            if kind == "never answers":
                until(lambda: frozen.connections >= 2, "both processes wait for the collector")
            answers = [create(deployment, good(seaweedfs)) for _ in range(5)]
            assert {answer.status for answer in answers} == {200}
            assert sorted(answer.seconds for answer in answers)[2] < 8, [answer.seconds for answer in answers]
            deployment.api.signal(15)
            deployment.worker.signal(15)
            assert deployment.api.popen and deployment.worker.popen
            assert deployment.api.popen.wait(45) == deployment.worker.popen.wait(45) == 0
    assert "Traceback" not in deployment.logs()
    lines = [line for process in (deployment.api, deployment.worker) for line in process.log.splitlines()]
    assert len([line for line in lines if "opentelemetry" in line]) < 10
