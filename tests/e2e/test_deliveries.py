"""Result sets on their way through the whole service: what arrives, what is told, and what survives which death."""

import hashlib
import itertools
import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.servers.gateway import Canned, gateway
from tests.servers.platform import Told
from tests.servers.platform import platform as telling
from tests.stack import Answer, Api, Deployment, s3compatible, until

MIB = 1024 * 1024
OPERATOR = "the-operators-key-for-tests"
_numbers = itertools.count(1)


class Platform:
    """The platform that announces result sets, and its customer."""

    def __init__(self, deployment: Deployment, folder: Path, told: Told) -> None:
        self.deployment = deployment
        self.told = told
        self.folder = folder
        self.customer = deployment.client("customer")
        self.operator = Api(deployment.url, OPERATOR)

    def destination(self, body: Mapping[str, Any], **changes: Any) -> str:
        answer = self.customer.create({**body, **changes})
        assert answer.status == 200, answer.text
        return str(answer.json["destination"]["id"])

    def collection(self, *destinations: str) -> str:
        identity = f"C-{next(_numbers)}"
        answer = self.send("PUT", f"/collections/{identity}", {"name": "A/B", "destination_ids": list(destinations)})
        assert answer.status == 200, answer.text
        return identity

    def files(self, count: int, size: int = 100) -> list[dict[str, Any]]:
        """So many new files at the source, as they are announced."""
        announced = []
        for _ in range(count):
            name, body = f"f{next(_numbers)}.json", random.randbytes(size)
            (self.folder / "in").mkdir(exist_ok=True)
            (self.folder / "in" / name).write_bytes(body)
            sha256 = hashlib.sha256(body).hexdigest()
            announced.append({"name": name, "source": f"in/{name}", "bytes": size, "sha256": sha256})
        return announced

    def announce(self, collection: str, files: list[dict[str, Any]], number: int = 4, **changes: Any) -> Answer:
        times = {"started_at": "2026-03-01T00:00:00Z", "ended_at": "2026-03-01T00:05:00Z"}
        body = {"id": number, **times, "files": files, **changes}
        return self.send("POST", f"/collections/{collection}/results", body, self.operator, account="customer")

    def send(self, method: str, path: str, body: Any, api: Api | None = None, **query: str) -> Answer:
        content = json.dumps(body).encode()
        return (api or self.customer).call(method, path, content, {"Content-Type": "application/json"}, **query)

    def result_set(self, collection: str, number: int = 4) -> dict[str, Any]:
        answer = self.customer.call("GET", f"/collections/{collection}/results/{number}")
        assert answer.status == 200, answer.text
        return dict(answer.json["result_set"])

    def status(self, collection: str, destination: str) -> str:
        return str(self.result_set(collection)["destination_status"][destination]["status"])

    def delivered(self, collection: str, seconds: float = 120) -> dict[str, Any]:
        """The result set once every destination has it."""

        def done() -> dict[str, Any] | None:
            found = self.result_set(collection)
            states = {each["status"] for each in found["destination_status"].values()}
            return found if states == {"ok"} else None

        return dict(until(done, f"it is delivered\n{self.deployment.logs()[-5000:]}", seconds))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("source")
    settings = {"source": f"file://{folder}", "operator_key": OPERATOR, "allow_http": "1"}
    with (
        telling() as told,
        Deployment(
            tmp_path_factory.mktemp("deliveries"), apis=2, deliveries=2, egress_allow="127.0.0.0/8",
            SSL_CERT_FILE=str(authority), notify_url=told.url, notify_secret=told.secret, **settings,
        ) as running,
    ):  # fmt: skip
        yield Platform(running, folder, told)


@pytest.fixture(scope="module")
def tls(seaweedfs: SeaweedFS) -> dict[str, Any]:
    """The body of a destination on a real store, over TLS."""
    return s3compatible(seaweedfs.https_url, *seaweedfs.customer)


def test_what_is_announced_arrives_with_a_receipt(
    platform: Platform, tls: dict[str, Any], seaweedfs: SeaweedFS
) -> None:
    first = platform.destination(tls, s3_path_prefix="one/%COLLECTION_ID%/%COLLECTION_NAME%/%RESULT_SET_ID%/%DATE%")
    second = platform.destination(tls, s3_path_prefix="two")
    disabled = platform.destination(tls, enabled=False)
    collection, files = platform.collection(first, second, disabled), platform.files(3)
    answer = platform.announce(collection, files)
    assert answer.status == 202, answer.text
    shown = answer.json["result_set"]
    assert (shown["id"], shown["collection_id"], shown["file_count"]) == (4, collection, 3)
    assert shown["destination_status"][disabled]["status"] == "skipped"

    found = until(
        lambda: (
            (each := platform.result_set(collection))
            and {s["status"] for s in each["destination_status"].values()} == {"ok", "skipped"}
            and each
        ),
        "both have it",
    )
    receipts = {(each["destination"], each["name"]): each for each in found["files"]}
    assert len(receipts) == 9
    for file in files:
        day = found["created_at"][:10].replace("-", "_")
        keys = {first: f"one/{collection}/A-B/4/{day}/{file['name']}", second: f"two/{file['name']}"}
        for destination, key in keys.items():
            receipt = receipts[destination, file["name"]]
            assert (receipt["key"], receipt["status"], receipt["attempts"]) == (key, "ok", 1)
            assert (receipt["sha256"], receipt["sent"]) == (file["sha256"], file["bytes"])
            assert receipt["etag"]
            assert receipt["request_id"]
            content = seaweedfs.content("results", key)
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert receipts[disabled, file["name"]]["status"] == "skipped"
    assert {line["text"] for line in found["destination_status"][second]["log"]} == {
        f"{file['name']}: delivered, 100 bytes." for file in files
    }
    again = platform.announce(collection, files)
    assert (again.status, again.json["result_set"]["destination_status"][first]["status"]) == (200, "ok")

    moved = platform.operator.call("GET", "/dashboard/overview").json["deliveries"]
    assert sum(moved["bytes"]) >= 6 * 100
    assert sum(moved["ok"]) >= 6
    lines = [json.loads(line) for line in platform.deployment.logs().splitlines() if '"delivery":' in line]
    assert {line["delivery"] for line in lines} >= {
        each["id"] for each in found["files"] if each["destination"] != disabled
    }
    assert {line["account"] for line in lines} == {"customer"}
    assert platform.announce(collection, files[:2]).error["code"] == "result_set_differs"


def test_a_customer_announces_nothing_and_sees_its_own_alone(platform: Platform, tls: dict[str, Any]) -> None:
    destination = platform.destination(tls)
    collection, files = platform.collection(destination), platform.files(1)
    body = {"id": 1, "started_at": "2026-03-01T00:00:00Z", "ended_at": "2026-03-01T00:00:00Z", "files": files}
    path = f"/collections/{collection}/results"
    assert platform.send("POST", path, body).status == 401
    assert platform.announce(collection, files).status == 202
    platform.delivered(collection)
    other = platform.deployment.client("other")
    for asked in (f"/collections/{collection}", path, f"{path}/4"):
        assert other.call("GET", asked).status == 404
        assert platform.operator.call("GET", asked).error["parameter"] == "account"
        assert platform.operator.call("GET", asked, account="customer").status == 200
    mine = platform.customer.call("GET", "/deliveries", collection=collection).json["deliveries"]
    assert [(each["destination"], each["status"]) for each in mine] == [(destination, "ok")]
    assert "worker" not in mine[0]
    assert other.call("GET", "/deliveries").json["deliveries"] == []
    assert other.call("GET", f"/deliveries/{mine[0]['id']}").status == 404
    seen = platform.operator.call("GET", f"/deliveries/{mine[0]['id']}").json["delivery"]
    assert (seen["account_name"], seen["key"]) == ("customer", files[0]["name"])
    assert seen["worker"]
    assert platform.customer.call("DELETE", f"/destinations/{destination}").error["code"] == "destination_in_use"
    assert platform.customer.call("GET", f"/destinations/{destination}").json["destination"]["used_by"] == 1


def test_what_is_not_at_the_source_as_announced_is_not_delivered(
    platform: Platform, tls: dict[str, Any], seaweedfs: SeaweedFS
) -> None:
    destination = platform.destination(tls, s3_path_prefix="changed")
    collection, (file,) = platform.collection(destination), platform.files(1)
    (platform.folder / file["source"]).write_bytes(b"something else")
    assert platform.announce(collection, [file]).status == 202
    until(lambda: platform.status(collection, destination) == "failed", "it fails")
    (receipt,) = platform.result_set(collection)["files"]
    assert (receipt["fault"], receipt["attempts"]) == ("source_changed", 1)
    assert not any(name.startswith("changed/") for name in seaweedfs.objects("results"))
    # The destination is not to blame.
    failed = platform.customer.call("GET", "/deliveries", fault="source_changed").json["deliveries"]
    assert [each["id"] for each in failed] == [receipt["id"]]


def undelivered(platform: Platform) -> dict[str, int]:
    """How many deliveries of the customer's were given up, by their faults."""
    failing = platform.operator.call("GET", "/dashboard/overview").json["failing"]["accounts"]
    return {code: n for each in failing if each["account"] == "customer" for code, n in each["undelivered"].items()}


def test_a_mended_destination_gets_what_it_missed_by_itself(platform: Platform, seaweedfs: SeaweedFS) -> None:
    denied = threading.Event()

    def answers(method: str, path: str, _: Mapping[str, str]) -> Canned | None:
        refused = b"<Error><Code>SignatureDoesNotMatch</Code><Message>No.</Message></Error>"
        return Canned(403, {"Content-Type": "application/xml"}, refused) if denied.is_set() else None

    with gateway(int(seaweedfs.url.rpartition(":")[2]), answers) as url:
        destination = platform.destination(s3compatible(url, *seaweedfs.customer), s3_path_prefix="mended")
        collection, files = platform.collection(destination), platform.files(3)
        denied.set()
        platform.announce(collection, files)
        until(lambda: platform.status(collection, destination) == "failed", "it fails at once")
        found = platform.result_set(collection)
        assert {each["fault"] for each in found["files"]} == {"secret_mismatch"}
        said = {"step": "upload", "provider_code": "SignatureDoesNotMatch", "status": 403, "request_id": None}
        assert [each["refusal"] for each in found["files"]] == [said] * 3
        assert "SignatureDoesNotMatch, HTTP 403." in found["destination_status"][destination]["log"][0]["text"]
        assert "s3_secret_access_key" in found["destination_status"][destination]["log"][0]["text"]
        assert platform.customer.verify(destination=destination).json["verification"]["ok"] is False
        assert platform.status(collection, destination) == "failed"
        moved = platform.operator.call("GET", "/dashboard/overview").json["deliveries"]
        assert moved["counts"]["failed"] >= 3
        assert moved["faults"]["secret_mismatch"] >= 3
        until(lambda: undelivered(platform).get("secret_mismatch", 0) >= 3, "the account is counted among the failing")
        lines = [json.loads(line) for line in platform.deployment.logs().splitlines() if "delivery failed" in line]
        assert {line["account"] for line in lines} == {"customer"}
        denied.clear()
        assert platform.customer.verify(destination=destination).json["verification"]["ok"] is True
        platform.delivered(collection)
    assert {f"mended/{file['name']}" for file in files} <= set(seaweedfs.objects("results"))
    until(lambda: "result_set.delivered" in platform.told.types(collection_id=collection), "the platform is told")
    types = platform.told.types(destination=destination)
    assert types[0] == "delivery.failed"
    assert sorted(types[:4]) == ["delivery.failed"] * 3 + ["destination.failing"]
    assert types[4:] == ["destination.recovered"]
    assert platform.told.types(collection_id=collection)[-1] == "result_set.delivered"


def test_a_store_that_fails_every_third_request_gets_every_file_once(platform: Platform, seaweedfs: SeaweedFS) -> None:
    requests, refused = itertools.count(1), Counter[str]()
    counting = threading.Event()

    def answers(method: str, path: str, _: Mapping[str, str]) -> Canned | None:
        # Not the same file again and again: that one would be tried once more half a minute later.
        if not counting.is_set() or method != "PUT" or next(requests) % 3 or refused[path] > 1:
            return None
        refused[path] += 1
        return Canned(503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code></Error>")

    with gateway(int(seaweedfs.url.rpartition(":")[2]), answers) as url:
        destination = platform.destination(s3compatible(url, *seaweedfs.customer), s3_path_prefix="third/%DATE%")
        collection, files = platform.collection(destination), platform.files(60)
        counting.set()
        platform.announce(collection, files)
        found = platform.delivered(collection, 180)
    keys = sorted(each["key"] for each in found["files"])
    assert len(keys) == len(set(keys)) == 60
    assert refused.total() > 15
    assert sorted(name for name in seaweedfs.objects("results") if name.startswith("third/")) == keys


def test_a_worker_that_is_killed_costs_no_file_and_leaves_no_parts(platform: Platform, seaweedfs: SeaweedFS) -> None:
    """In the middle of a put, and in the third part of seven."""
    held, release = threading.Semaphore(0), threading.Event()
    holding = threading.Event()

    def answers(method: str, path: str, _: Mapping[str, str]) -> Canned | None:
        if method == "PUT" and holding.is_set() and ("partNumber" not in path or "partNumber=3" in path):
            held.release()
            release.wait(240)
        return None

    with gateway(int(seaweedfs.url.rpartition(":")[2]), answers) as url:
        destination = platform.destination(s3compatible(url, *seaweedfs.customer), s3_path_prefix="killed")
        collection, files = platform.collection(destination), [*platform.files(5), *platform.files(1, 50 * MIB)]
        holding.set()
        platform.announce(collection, files)
        for _ in files:
            assert held.acquire(timeout=60)
        assert platform.status(collection, destination) == "uploading"
        assert seaweedfs.unfinished("results") == 1
        until(
            lambda: max(each["sent"] for each in platform.result_set(collection)["files"]) >= 8 * MIB,
            "it is told how far the large one is",
        )
        holding.clear()
        for number in (1, 2):
            platform.deployment.workers[number].signal(signal.SIGKILL)
            platform.deployment.workers[number].stop()
            platform.deployment.start_worker(number)
        found = platform.delivered(collection)
        release.set()
    assert {each["attempts"] for each in found["files"]} == {2}
    assert "deliveries lost with their workers" in platform.deployment.logs()
    for file in files:
        content = seaweedfs.content("results", f"killed/{file['name']}")
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    assert seaweedfs.unfinished("results") == 0


def test_what_is_under_way_when_all_else_ends_arrives(
    platform: Platform, tls: dict[str, Any], seaweedfs: SeaweedFS
) -> None:
    """Redis with all that is in it, and the API process that dispatched, die while files are on their way."""
    destination = platform.destination(tls, s3_path_prefix="survives")
    collection, files = platform.collection(destination), platform.files(100)
    told = platform.told
    told.away.set()
    assert platform.announce(collection, files).status == 202
    deployment = platform.deployment
    for process in (deployment.redis, deployment.api):
        process.signal(signal.SIGKILL)
        process.stop()
    for path in deployment.folder.glob("appendonlydir/*"):
        path.unlink()
    deployment.start_redis()
    deployment.start_api()
    found = platform.delivered(collection)
    assert {each["status"] for each in found["files"]} == {"ok"}
    delivered = [name for name in seaweedfs.objects("results") if name.startswith("survives/")]
    assert sorted(delivered) == sorted(f"survives/{file['name']}" for file in files)

    # What the platform did not take is told by those that come after.
    def heard(events: list[tuple[str, dict[str, Any]]]) -> set[str]:
        return {identity for identity, content in events if content["data"].get("collection_id") == collection}

    until(lambda: heard(told.attempts), "the platform is told")
    for process in deployment.apis:
        process.signal(signal.SIGKILL)
        process.stop()
    deployment.start_ended()
    told.away.clear()
    until(lambda: heard(told.taken), "the platform takes it")
    assert len(heard(told.attempts)) == len(heard(told.taken)) == 1
    assert told.types(collection_id=collection) == ["result_set.delivered"]


def test_a_worker_that_is_told_to_stop_hands_back_what_it_cannot_finish(
    platform: Platform, seaweedfs: SeaweedFS
) -> None:
    held, release = threading.Semaphore(0), threading.Event()
    holding = threading.Event()

    def answers(method: str, path: str, _: Mapping[str, str]) -> Canned | None:
        if method == "PUT" and holding.is_set():
            held.release()
            release.wait(240)
        return None

    deployment = platform.deployment
    with gateway(int(seaweedfs.url.rpartition(":")[2]), answers) as url:
        destination = platform.destination(s3compatible(url, *seaweedfs.customer), s3_path_prefix="stopped")
        collection, files = platform.collection(destination), platform.files(1)
        holding.set()
        platform.announce(collection, files)
        assert held.acquire(timeout=60)
        holding.clear()
        for number in (1, 2):
            assert deployment.workers[number].popen
            deployment.workers[number].popen.terminate()
        for number in (1, 2):
            assert deployment.workers[number].stop() == 0
            deployment.start_worker(number)
        (receipt,) = platform.delivered(collection)["files"]
        release.set()
    # It was nobody's fault, and does not count.
    assert receipt["attempts"] == 1
