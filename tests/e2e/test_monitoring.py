"""What an operator is told: metrics of the API and of workers, readiness, and `dropoff status`."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from app.domain.faults import Fault
from app.monitor.heartbeats import ALIVE_SECONDS
from app.observe import metrics
from app.web.health import KEPT_SECONDS
from tests.stack import Answer, Api, Deployment, free_port, until

OPERATOR = "the-key-of-the-operator"
MONITORING = Path(__file__).parents[2] / "docs/monitoring"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("monitoring"), hold_seconds="26", verify_seconds="16", allow_http="1",
        egress_allow="127.0.0.0/8", operator_key=OPERATOR, worker_metrics=f"127.0.0.1:{metrics_port}",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def operator(deployment: Deployment) -> Api:
    return Api(deployment.url, OPERATOR)


@pytest.fixture(scope="module")
def customer(deployment: Deployment) -> Api:
    return deployment.client()


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name.startswith("dropoff_")
    }


def of_api(operator: Api) -> Samples:
    answer = operator.call("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return samples(answer.text)


def of_worker(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return samples(answer.read().decode())


def grown(before: Samples, after: Samples) -> Samples:
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


def readyz(api: Api) -> Answer:
    return api.call("GET", "/readyz")


def detail(operator: Api, check: str) -> str | None:
    """What the operator is told of `check`; None where it is well."""
    (found,) = [each for each in readyz(operator).json["checks"] if each["check"] == check]
    return None if found["ok"] else found["detail"]


def status(deployment: Deployment) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app.cli", "status"]
    return subprocess.run(command, env=deployment.environment, capture_output=True, text=True, check=False, timeout=60)


class TestMetrics:
    def test_are_for_the_operator(self, operator: Api, customer: Api) -> None:
        for api in (customer, Api(operator.url, "wrong"), Api(operator.url, "")):
            assert api.call("GET", "/metrics").status == 401
        assert operator.call("GET", "/metrics").status == 200

    def test_count_what_happens_on_both_sides(
        self, operator: Api, customer: Api, metrics_port: int, good: dict[str, Any]
    ) -> None:
        api, worker = of_api(operator), of_worker(metrics_port)
        assert customer.create(good).status == 200
        assert customer.create({**good, "s3_secret_access_key": "wrong"}).status == 400
        for path in ("/nobody/has", "/this/path", "/destinations/000000000000"):
            assert customer.call("GET", path).status == 404
        told = grown(api, of_api(operator))
        created = (("method", "POST"), ("route", "/destinations"))
        assert told["dropoff_requests_total", (*created, ("status", "200"))] == 1
        assert told["dropoff_requests_total", (*created, ("status", "400"))] == 1
        assert told["dropoff_requests_total", (("method", "any"), ("route", "none"), ("status", "404"))] == 2
        assert told["dropoff_hold_seconds_count", ()] == 2
        assert told["dropoff_reply_lag_seconds_count", ()] == 2
        did = grown(worker, of_worker(metrics_port))
        kind = ("type", "s3compatible")
        assert did["dropoff_verification_seconds_count", (("outcome", "passed"), kind)] == 1
        assert did["dropoff_verification_seconds_count", (("outcome", "failed"), kind)] == 1
        assert did["dropoff_step_seconds_count", (("step", "upload"), kind)] == 2
        assert did["dropoff_step_seconds_count", (("step", "delete"), kind)] == 1
        assert did["dropoff_faults_total", (("code", "secret_mismatch"), kind)] == 1

    def test_count_what_may_not_be_called(
        self, deployment: Deployment, customer: Api, metrics_port: int, good: dict[str, Any]
    ) -> None:
        before = of_worker(metrics_port)
        answer = customer.create({**good, "s3_endpoint": "https://169.254.169.254"})
        assert answer.error["code"] == "endpoint_not_allowed"
        assert grown(before, of_worker(metrics_port))["dropoff_egress_refusals_total", ()] == 1
        (line,) = deployment.worker.events("egress refused")
        assert (line["host"], line["setting"]) == ("169.254.169.254", "DROPOFF_EGRESS_ALLOW")
        assert "DROPOFF" not in answer.text

    def test_show_what_waits_and_who_is_held(
        self, deployment: Deployment, operator: Api, customer: Api, good: dict[str, Any]
    ) -> None:
        deployment.worker.signal(signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(3) as threads:
                held = [threads.submit(customer.create, good) for _ in range(3)]
                until(lambda: of_api(operator)["dropoff_held_requests", ()] == 3, "three are held")
                # The worker's connection may have taken one before it was stopped.
                assert of_api(operator)["dropoff_queue_depth", ()] >= 2
                assert {each.result().status for each in held} == {503}
        finally:
            deployment.worker.signal(signal.SIGCONT)
        until(lambda: of_api(operator)["dropoff_queue_depth", ()] == 0, "what waited was taken")
        assert of_api(operator)["dropoff_held_requests", ()] == 0
        # For up to a second what was found of the queue is believed.
        until(lambda: customer.create(good).status == 200, "there is room again")

    def test_are_there_without_redis(self, deployment: Deployment, operator: Api, customer: Api) -> None:
        deployment.redis.signal(signal.SIGKILL)
        deployment.redis.stop()
        try:
            before = of_api(operator)
            assert customer.create({"type": "s3", "s3_bucket_name": "b"}).status == 400
            told = of_api(operator)
            assert str(told["dropoff_queue_depth", ()]) == "nan"
            assert str(told["dropoff_workers_alive", ()]) == "nan"
            assert [told["dropoff_deliveries", (("state", each),)] for each in ("pending", "uploading")] == [0, 0]
            assert grown(before, told)
        finally:
            deployment.start_redis()
        until(lambda: of_api(operator)["dropoff_workers_alive", ()] == 1, "the worker is seen again")
        # It says that it reads when its connection has held for a moment.
        until(lambda: readyz(customer).status == 200, "all is well again")

    def test_have_no_secret_and_no_name_of_a_customer(
        self, operator: Api, customer: Api, metrics_port: int, good: dict[str, Any]
    ) -> None:
        assert customer.create({**good, "name": "SENTINEL", "s3_secret_access_key": "SENTINEL"}).status == 400
        text = operator.call("GET", "/metrics").text + repr(of_worker(metrics_port))
        assert "SENTINEL" not in text
        assert good["s3_access_key_id"] not in text
        assert "127.0.0.1" not in text


class TestReadiness:
    def test_all_is_well(self, deployment: Deployment, operator: Api, customer: Api) -> None:
        for api in (customer, Api(operator.url, "")):
            assert (readyz(api).status, readyz(api).json) == (200, {"status": "ready"})
        answer = readyz(operator)
        assert [each["check"] for each in answer.json["checks"]] == ["database", "redis", "workers", "clocks"]
        assert all(each["ok"] for each in answer.json["checks"])
        done = status(deployment)
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [
            ["database", "ok"], ["redis", "ok"], ["workers", "ok"], ["clocks", "ok"],
        ]  # fmt: skip

    @pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGTERM])
    def test_without_a_worker_that_reads_it_is_not(
        self, deployment: Deployment, operator: Api, customer: Api, how: signal.Signals
    ) -> None:
        deployment.worker.signal(how)
        try:
            until(lambda: readyz(customer).status == 503, "the worker is missed", ALIVE_SECONDS + 60)
            assert readyz(customer).json == {"status": "not ready"}
            assert "dropoff worker" in (detail(operator, "workers") or "")
            assert detail(operator, "redis") is None
            done = status(deployment)
            assert done.returncode == 1
            assert re.search(r"^workers +not ok +none that reads the queue was heard of", done.stdout, re.M)
            assert operator.call("GET", "/healthz").status == 200
        finally:
            deployment.worker.signal(signal.SIGCONT)
            if how is signal.SIGTERM:
                deployment.worker.stop()
                deployment.start_worker()
        until(lambda: readyz(customer).status == 200, "it is seen again")

    def test_without_redis_it_is_not(self, deployment: Deployment, operator: Api, customer: Api) -> None:
        deployment.redis.signal(signal.SIGSTOP)
        try:
            # What was found a moment before is told for a second.
            until(lambda: readyz(customer).status == 503, "it is told", KEPT_SECONDS + 60)
            assert readyz(customer).json == {"status": "not ready"}
            assert "does not answer" in (detail(operator, "redis") or "")
            assert status(deployment).returncode == 1
        finally:
            deployment.redis.signal(signal.SIGCONT)
        until(lambda: readyz(customer).status == 200, "it answers again")

    def test_status_says_which_setting_is_missing(self, deployment: Deployment) -> None:
        environment = {**deployment.environment, "DROPOFF_REDIS_URL": ""}
        command = [sys.executable, "-m", "app.cli", "status"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert "DROPOFF_REDIS_URL" in done.stderr


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_what_watches_asks_for_metrics_that_there_are(name: str) -> None:
    text = (MONITORING / name).read_text()
    asked = set(re.findall(r"\bdropoff_[a-z_]+", text))
    there = {name for each in vars(metrics).values() if isinstance(each, MetricWrapperBase) for name in _names(each)}
    assert asked
    assert asked <= there


def test_every_metric_and_every_alert_is_documented() -> None:
    document = (MONITORING.parent / "operating.md").read_text()
    rows = [line.split("|")[1] for line in document.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    for each in vars(metrics).values():
        if isinstance(each, MetricWrapperBase):
            (family,) = each.describe()
            assert family.name + ("_total" if family.type == "counter" else "") in told
    alerts = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    assert len(alerts) > 20
    assert set(alerts) <= told


@pytest.mark.parametrize("metric", ["dropoff_workers_alive", "dropoff_delivery_workers_alive"])
def test_an_alert_says_that_no_worker_of_a_kind_is_there(metric: str) -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    assert any(f"max({metric}) == 0" in rule["expr"] and "for" in rule for rule in group["rules"])


def test_an_alert_counts_faults_that_there_are() -> None:
    text = (MONITORING / "alerts.yml").read_text()
    for matched in re.findall(r'(?:code|outcome)=~?"([^"]+)"', text):
        assert set(matched.split("|")) <= {*Fault, "refused", "source_.*"}, matched


def _names(metric: Any) -> set[str]:
    """The names of the samples that `metric` gives once something has been counted."""
    (family,) = metric.describe()
    endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}[family.type]
    return {family.name + ending for ending in endings}


def test_the_grafana_dashboard_is_one() -> None:
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
