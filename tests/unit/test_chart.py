"""The Helm chart: what it makes is what Kubernetes takes, runs the commands of the Procfile, and shows each process its
secrets alone."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]
HELM = Path(sys.executable).with_name("helm")
KUBERNETES = ("1.30", "1.37")
EVERYTHING = {
    "api": {"host": "dropoff.example.com", "ingressClass": "c", "tlsSecret": "t",
            "secrets": ["dropoff_operator_read_key"]},
    "worker": {"autoscaling": {"enabled": True, "redisAddress": "redis:6379"}},
    "deliveries": {"source": "file:///srv/results", "claim": "results"},
    "settings": {"DROPOFF_DESTINATION_LIMIT": "100"},
    "serviceAccount": "s", "nodeSelector": {"a": "b"}, "tolerations": [{"key": "a", "operator": "Exists"}],
}  # fmt: skip

pytestmark = pytest.mark.skipif(not (HELM.exists() or shutil.which("helm")), reason="there is no helm for this machine")


def made(values: dict[str, Any], folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What the chart makes of `values`, by kind and name; raises where they are refused."""
    given = folder / "values.yaml"
    given.write_text(yaml.safe_dump(values))
    helm = HELM if HELM.exists() else "helm"
    done = subprocess.run(
        [helm, "template", "our", ROOT / "deploy/helm", "--values", given, "--kube-version", "1.33.0"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = [each for each in yaml.safe_load_all(done.stdout) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in parts}


def secrets_of(part: dict[str, Any]) -> set[str]:
    volumes = part["spec"]["template"]["spec"]["volumes"]
    return {item["key"] for volume in volumes if "secret" in volume for item in volume["secret"]["items"]}


def command_of(part: dict[str, Any]) -> list[str]:
    (container,) = part["spec"]["template"]["spec"]["containers"]
    return list(container["command"])


@pytest.mark.parametrize(
    ("values", "deployments"), [({}, {"api", "worker"}), (EVERYTHING, {"api", "worker", "deliveries"})],
    ids=["as it comes", "everything"],
)  # fmt: skip
def test_what_it_makes_is_what_kubernetes_takes(values: dict[str, Any], deployments: set[str], tmp_path: Path) -> None:
    parts = made(values, tmp_path)
    assert {name.removeprefix("our-") for kind, name in parts if kind == "Deployment"} == deployments
    # KEDA's are no kinds of Kubernetes itself.
    for each in parts.values():
        for version in KUBERNETES if not each["apiVersion"].startswith("keda") else ():
            kubernetes_validate.validate(each, version, strict=True)


def test_each_process_is_started_as_the_procfile_says_and_sees_its_secrets_alone(tmp_path: Path) -> None:
    parts = made(EVERYTHING, tmp_path)
    api, worker, deliveries = (parts["Deployment", f"our-{name}"] for name in ("api", "worker", "deliveries"))
    procfile = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert " ".join(command_of(api)) == procfile["web"].replace("${PORT:-8080}", "8080")
    assert " ".join(command_of(worker)) == procfile["worker"]
    assert " ".join(command_of(deliveries)) == procfile["deliveries"]
    own = {"dropoff_redis_url", "dropoff_secret_keys"}
    assert secrets_of(worker) == secrets_of(deliveries) == own
    assert secrets_of(api) == own | {"dropoff_database_url", "dropoff_operator_key", "dropoff_operator_read_key"}
    migrate = parts["Job", "our-migrate"]
    assert (command_of(migrate), secrets_of(migrate)) == (["dropoff", "migrate"], {"dropoff_database_url"})
    assert "replicas" not in worker["spec"], "the autoscaler's number is not undone by an upgrade"


def test_a_source_with_a_password_comes_from_the_secret_and_is_in_no_environment(tmp_path: Path) -> None:
    parts = made({"deliveries": {"sourceFromSecret": True}}, tmp_path)
    readers = [part["metadata"]["name"] for part in parts.values() if part["kind"] in ("Deployment", "Job")
               and "dropoff_source" in secrets_of(part)]  # fmt: skip
    assert sorted(readers) == ["our-api", "our-deliveries"]
    assert "DROPOFF_SOURCE" not in str(parts)


def test_the_autoscaler_asks_redis_by_tls_where_the_processes_do(tmp_path: Path) -> None:
    """The Secret of the document has each key that is read."""
    for tls in (False, True):
        scaling = {"enabled": True, "redisAddress": "redis:6379", "redisTls": tls}
        parts = made({"worker": {"autoscaling": scaling}}, tmp_path)
        (trigger,) = parts["ScaledObject", "our-worker"]["spec"]["triggers"]
        assert trigger["metadata"]["enableTLS"] == str(tls).lower()
        (target,) = parts["TriggerAuthentication", "our-queue"]["spec"]["secretTargetRef"]
        assert f"--from-literal={target['key']}=" in (ROOT / "docs/operating.md").read_text()


def test_what_is_held_may_be_answered_before_a_pod_is_killed(tmp_path: Path) -> None:
    for hold in (int(Settings().hold_seconds), 100):
        api = made({"holdSeconds": hold}, tmp_path)["Deployment", "our-api"]["spec"]["template"]["spec"]
        (container,) = api["containers"]
        first = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert api["terminationGracePeriodSeconds"] >= hold + first + 10
        assert {"name": "DROPOFF_HOLD_SECONDS", "value": f"{hold}"} in container["env"]


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"DROPOFF_SECRET_KEYS": "k"}},
        {"worker": {"autoscaling": {"enabled": True}}},
        {"deliveries": {"source": "/srv/results"}},
        {"deliveries": {"source": "file:///srv/results", "sourceFromSecret": True}},
        {"replicas": 3},
    ],
    ids=[
        "a secret among the settings",
        "no address to scale by",
        "a source that is none",
        "two sources",
        "a name that is none",
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="values don't meet the specifications"):
        made(values, tmp_path)
