"""A deployment as docs/operating.md describes it: two API processes, two workers, Redis with a password, on PostgreSQL
and on SQLite. What an operator does to it while it runs."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.messages.sealing import new_key
from demo.seaweedfs import SeaweedFS
from tests.servers.postgres import Postgres
from tests.stack import Answer, Api, Deployment, clean_environment, until

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    database = {}
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        database = {"database_url": postgres.new_database()}
    with Deployment(
        tmp_path_factory.mktemp("operations"), apis=2, workers=2,
        hold_seconds="60", verify_seconds="30", allow_http="1", egress_allow="127.0.0.0/8", destination_limit="1000",
        **database,
    ) as running:  # fmt: skip
        yield running


def put(api: Api, destination: str, body: dict[str, Any]) -> Answer:
    return api.call("PUT", f"/destinations/{destination}", json.dumps(body).encode(), JSON)


def told(answer: Answer) -> tuple[int, str, set[str]]:
    """Everything that tells one answer from another, but for the id that each has of its own."""
    return answer.status, answer.text, set(answer.headers)


def test_both_processes_and_both_workers_do_the_same(deployment: Deployment, good: dict[str, Any]) -> None:
    apis = deployment.clients("both")
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda n: apis[n % 2].create(good), range(20)))
    assert {answer.status for answer in answers} == {200}
    listed = [api.list(page=page).json["destinations"] for api in apis for page in ("1", "2")]
    assert listed[:2] == listed[2:]
    assert {each["id"] for page in listed for each in page} == {a.json["destination"]["id"] for a in answers}
    assert all(worker.events("verification finished") for worker in deployment.workers)


@pytest.mark.parametrize("part", ["apis", "workers"])
def test_one_of_two_may_die(deployment: Deployment, good: dict[str, Any], part: str) -> None:
    api = deployment.clients("dying")[1]
    first = getattr(deployment, part)[0]
    first.signal(signal.SIGKILL)
    first.stop()
    try:
        until(lambda: api.create(good).status == 200, "creates work with the other one")
    finally:
        (deployment.start_api if part == "apis" else deployment.start_worker)()


def test_an_account_may_keep_what_may_not_be_deleted(
    deployment: Deployment, good: dict[str, Any], seaweedfs: SeaweedFS
) -> None:
    api, other = deployment.clients("write-only")[0], deployment.clients("another")[0]
    key, secret = seaweedfs.put_only
    body = {**good, "s3_access_key_id": key, "s3_secret_access_key": secret}
    assert api.create(body).error["code"] == "delete_denied"
    deployment.dropoff("accounts", "delete-policy", "write-only", "lenient")
    for answer in (api.create(body), api.verify(body)):
        assert answer.status == 200 and answer.report["ok"] and answer.report["left_behind"], answer.text
        (warning,) = answer.report["warnings"]
        assert answer.report["object"] in warning and answer.report["object"] in seaweedfs.objects("results")
    until(
        lambda: [job["state"] for job in api.call("GET", "/jobs").json["jobs"]][:1] == ["succeeded"],
        "the board says so too",
    )
    assert other.create(body).error["code"] == "delete_denied"
    deployment.dropoff("accounts", "delete-policy", "write-only", "default")
    assert api.create(body).error["code"] == "delete_denied"
    seaweedfs.empty("results")


def test_a_key_is_shown_once_and_revoked_at_once_everywhere(deployment: Deployment) -> None:
    key = deployment.dropoff("keys", "create", "keys").strip()
    apis = [Api(url, key) for url in deployment.urls]
    listed = deployment.dropoff("keys", "list")
    assert key not in listed
    (line,) = [line for line in listed.splitlines() if line.endswith("  keys")]
    assert [api.list().status for api in apis] == [200, 200]
    assert deployment.dropoff("keys", "revoke", line.split()[0]) == "Revoked.\n"
    assert [api.list().status for api in apis] == [401, 401]
    assert "keys" not in [each.split()[-1] for each in deployment.dropoff("keys", "list").splitlines()]


def test_nothing_tells_a_revoked_key_from_one_that_never_was(deployment: Deployment) -> None:
    revoked, _ = deployment.clients("revoked")
    (line,) = [line for line in deployment.dropoff("keys", "list").splitlines() if line.endswith("  revoked")]
    deployment.dropoff("keys", "revoke", line.split()[0])
    never = Api(deployment.url, "x" * len(revoked.key))
    for path in ("/destinations", f"/destinations/{'0' * 12}"):
        assert told(revoked.call("GET", path)) == told(never.call("GET", path))


def test_nothing_tells_anothers_destination_from_none(deployment: Deployment, good: dict[str, Any]) -> None:
    owner, stranger = deployment.client("owner"), deployment.client("stranger")
    identity = owner.create({**good, "enabled": False}).json["destination"]["id"]
    calls = (("GET", "", None), ("DELETE", "", None), ("PUT", "", b'{"name":"x"}'), ("POST", "/verify", None))
    for method, path, body in calls:
        theirs = stranger.call(method, f"/destinations/{identity}{path}", body, JSON)
        nobodys = stranger.call(method, f"/destinations/{'0' * 12}{path}", body, JSON)
        assert theirs.status == 404
        assert told(theirs) == told(nobodys)
    assert owner.call("GET", f"/destinations/{identity}").status == 200


def restart(deployment: Deployment, keys: str) -> None:
    """Every process anew, one after another, with these sealing keys."""
    deployment.environment["DROPOFF_SECRET_KEYS"] = keys
    for number, process in enumerate(deployment.workers):
        assert process.stop() == 0
        deployment.start_worker(number)
    for number, process in enumerate(deployment.apis):
        assert process.stop() == 0
        deployment.start_api(number)


# With SQLite it is the same but for what the tests of the store look at.
@pytest.mark.parametrize("deployment", ["postgresql"], indirect=True)
def test_the_sealing_key_is_rotated_while_the_service_runs(deployment: Deployment, good: dict[str, Any]) -> None:
    api = deployment.client("rotation")
    ids = [api.create({**good, "enabled": False}).json["destination"]["id"] for _ in range(12)]
    old, new = deployment.environment["DROPOFF_SECRET_KEYS"], new_key()
    restart(deployment, f"{new},{old}")
    with ThreadPoolExecutor(4) as threads:
        changes = [threads.submit(put, api, each, {"s3_path_prefix": "moved"}) for each in ids[:4]]
        said = deployment.dropoff("secrets", "rotate", "--batch", "3")
        assert [change.result().status for change in changes] == [200] * 4
    assert said.splitlines()[-1].endswith(" 0 left")
    assert deployment.dropoff("secrets", "rotate").startswith("0 sealed anew, 0 left")
    restart(deployment, new)
    for each in ids:
        assert put(api, each, {"enabled": True}).status == 200


def test_what_no_key_opens_is_named_and_left(deployment: Deployment, good: dict[str, Any]) -> None:
    """The rows of all the tests before were sealed by a key that is not among these."""
    api = deployment.client("lost")
    identity = api.create({**good, "enabled": False}).json["destination"]["id"]
    environment = {**deployment.environment, "DROPOFF_SECRET_KEYS": new_key()}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "secrets", "rotate"],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{identity}: none of the keys opens it" in done.stderr
    assert "Traceback" not in done.stderr
    assert put(api, identity, {"enabled": True}).status == 200


def test_api_and_worker_refuse_a_schema_that_is_not_theirs(tmp_path: Path, postgres: Postgres) -> None:
    environment = clean_environment(
        DROPOFF_DATA=str(tmp_path), DROPOFF_DATABASE_URL=postgres.new_database(),
        DROPOFF_REDIS_URL="redis://127.0.0.1:1/0", DROPOFF_SECRET_KEYS=new_key(),
    )  # fmt: skip

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "app.cli", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    for command in (("api",), ("worker",), ("keys", "create", "a"), ("keys", "list"), ("secrets", "rotate")):
        done = run(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "run `dropoff migrate`" in done.stderr
    assert run("migrate").returncode == 0
    assert run("keys", "create", "a").returncode == 0
