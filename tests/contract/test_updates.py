"""Updates through the whole service: what is verified again and what is not, and that a failure changes nothing."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.contract.conftest import created
from tests.servers.gcs import GcsServer
from tests.servers.odd import STORED, answering, gated
from tests.stack import Answer, Api, until
from tests.types import gcs as google
from tests.types import s3compatible

JSON = {"Content-Type": "application/json"}


def put(api: Api, destination: Mapping[str, Any], body: Mapping[str, Any]) -> Answer:
    return api.call("PUT", f"/destinations/{destination['id']}", json.dumps(body).encode(), JSON)


def now(api: Api, destination: Mapping[str, Any]) -> dict[str, Any]:
    return api.call("GET", f"/destinations/{destination['id']}").json["destination"]


def job(destination: Mapping[str, Any]) -> str:
    """The job that verified it last."""
    return destination["verification"]["job"]


class TestNotVerified:
    def test_a_rename(self, service: Api, existing: dict[str, Any]) -> None:
        after = put(service, existing, {"name": "another"}).json["destination"]
        assert after == {**existing, "name": "another", "updated_at": after["updated_at"]}
        assert after["updated_at"] > existing["updated_at"]
        assert now(service, existing) == after

    @pytest.mark.parametrize("body", [{"enabled": False}, {"enabled": "0", "name": "other"}])
    def test_disabling(self, service: Api, existing: dict[str, Any], body: dict[str, Any]) -> None:
        after = put(service, existing, body).json["destination"]
        assert after["enabled"] is False
        assert job(after) == job(existing)

    def test_the_values_that_it_has(self, service: Api, existing: dict[str, Any], right: dict[str, Any]) -> None:
        for body in ({}, {"enabled": True}, {**right, "name": "results", "enabled": "1"}, {"s3_region": None}):
            assert put(service, existing, body).json["destination"] == existing
        assert now(service, existing) == existing

    def test_disabling_waits_for_no_store(self, service: Api, right: dict[str, Any]) -> None:
        """The store has died meanwhile: it can be disabled at once, and not be enabled again."""
        with answering(STORED) as store:
            destination = created(service, {**right, "s3_endpoint": store.url})
        answer = put(service, destination, {"enabled": False})
        assert (answer.status, answer.json["destination"]["enabled"]) == (200, False)
        again = put(service, destination, {"enabled": True})
        assert (again.status, again.error["code"]) == (400, "connection_refused")
        assert now(service, destination) == answer.json["destination"]


class TestVerified:
    def test_enabling(self, service: Api, right: dict[str, Any]) -> None:
        destination = created(service, {**right, "enabled": False})
        assert destination["verification"] is None
        after = put(service, destination, {"enabled": True}).json["destination"]
        assert after["enabled"]
        assert after["verification"]["ok"]
        assert after["verified_at"] == after["updated_at"]

    @pytest.mark.parametrize("enabled", [True, False])
    def test_another_place(self, service: Api, right: dict[str, Any], enabled: bool) -> None:
        destination = created(service, {**right, "enabled": enabled})
        after = put(service, destination, {"s3_path_prefix": "elsewhere"}).json["destination"]
        assert after["s3_path_prefix"] == "elsewhere"
        assert after["verification"]["object"].startswith("elsewhere/dropoff-verify-")
        assert after["enabled"] is enabled

    @pytest.mark.parametrize("nothing", [None, ""])
    def test_an_optional_parameter_that_is_taken_away(
        self, service: Api, existing: dict[str, Any], nothing: str | None
    ) -> None:
        after = put(service, existing, {"s3_path_prefix": nothing}).json["destination"]
        assert "s3_path_prefix" not in after
        assert after["verification"]["object"].startswith("dropoff-verify-")

    def test_new_credentials(self, service: Api, existing: dict[str, Any], seaweedfs: SeaweedFS) -> None:
        key, secret = seaweedfs.admin
        after = put(service, existing, {"s3_access_key_id": key, "s3_secret_access_key": secret})
        assert after.status == 200
        assert job(after.json["destination"]) != job(existing)
        # And they are what is kept: enabling verifies with them.
        assert put(service, existing, {"enabled": False}).status == 200
        assert put(service, existing, {"enabled": True}).status == 200

    @pytest.mark.parametrize("enabled", [True, False])
    @pytest.mark.parametrize("case", ["wrong_secret", "missing_bucket", "write_refused"])
    def test_what_does_not_work_changes_nothing(
        self, service: Api, seaweedfs: SeaweedFS, right: dict[str, Any], case: str, enabled: bool
    ) -> None:
        backend = s3compatible.backend(seaweedfs, seaweedfs.url)
        destination = created(service, {**right, "enabled": enabled})
        answer = put(service, destination, {**backend.changes[case], "name": "another"})
        assert (answer.status, answer.error["code"]) == (400, backend.verdict(case)[0])
        assert now(service, destination) == destination


class TestAnotherType:
    def test_a_complete_result_is_taken(self, service: Api, existing: dict[str, Any], seaweedfs: SeaweedFS) -> None:
        body = google.by_hmac(seaweedfs).right
        after = put(service, existing, body).json["destination"]
        assert (after["id"], after["type"], after["gcs_bucket_name"]) == (existing["id"], "gcs", "results")
        assert not [name for name in after if name.startswith("s3_")]

    def test_an_incomplete_one_is_refused_with_all_that_it_lacks(self, service: Api, existing: dict[str, Any]) -> None:
        answer = put(service, existing, {"type": "azure", "azure_container_name": "box"})
        assert answer.status == 400
        assert {row["parameter"] for row in answer.error["parameters"]} == {"azure_account_name", "azure_account_key"}
        assert now(service, existing) == existing

    def test_a_service_account_takes_the_place_of_hmac_keys_and_back(
        self, service: Api, seaweedfs: SeaweedFS, gcs: GcsServer
    ) -> None:
        hmac, account = google.by_hmac(seaweedfs), google.by_service_account(gcs)
        destination = created(service, hmac.right)
        for body in (account.right, hmac.right, account.right):
            sent = {name: value for name, value in body.items() if "key" in name}
            assert put(service, destination, sent).status == 200


class TestAtOnce:
    """One update is held by a store that answers late, and something else happens meanwhile."""

    def test_of_two_updates_one_wins(self, service: Api, existing: dict[str, Any]) -> None:
        with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
            held = threads.submit(put, service, existing, {"s3_endpoint": store.url, "name": "held"})
            until(lambda: store.requests, "the store is called")
            other = put(service, existing, {"name": "faster"})
            store.gate.set()
            lost = held.result()
        assert other.status == 200
        assert (lost.status, lost.error["code"]) == (409, "destination_changed")
        assert now(service, existing) == other.json["destination"]

    def test_two_held_ones_make_no_mixture(self, service: Api, existing: dict[str, Any]) -> None:
        with gated(STORED) as store, ThreadPoolExecutor(2) as threads:
            bodies = [{"s3_endpoint": store.url, "name": f"n{n}", "s3_path_prefix": f"n{n}"} for n in range(2)]
            held = [threads.submit(put, service, existing, body) for body in bodies]
            until(lambda: len(store.requests) == 2, "both are held")
            store.gate.set()
            answers = [each.result() for each in held]
        assert sorted(answer.status for answer in answers) == [200, 409]
        kept = now(service, existing)
        assert kept["name"] == kept["s3_path_prefix"]
        assert [answer.json["destination"] for answer in answers if answer.status == 200] == [kept]

    def test_one_that_meets_a_delete_finds_nothing(self, service: Api, existing: dict[str, Any]) -> None:
        with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
            held = threads.submit(put, service, existing, {"s3_endpoint": store.url})
            until(lambda: store.requests, "the store is called")
            assert service.call("DELETE", f"/destinations/{existing['id']}").status == 200
            store.gate.set()
            assert held.result().status == 404
        assert service.call("GET", f"/destinations/{existing['id']}").status == 404

    def test_disabling_does_not_wait_for_one_that_is_held(self, service: Api, existing: dict[str, Any]) -> None:
        with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
            held = threads.submit(put, service, existing, {"s3_endpoint": store.url})
            until(lambda: store.requests, "the store is called")
            assert put(service, existing, {"enabled": False}).status == 200
            assert not held.done()
            store.gate.set()
            assert held.result().status == 409
        assert now(service, existing)["enabled"] is False


@pytest.mark.parametrize(
    ("body", "parameter", "code"),
    [
        ({"enabled": "yes"}, "enabled", "invalid_parameter"),
        ({"name": ""}, "name", "missing_parameter"),
        ({"name": "a\nb"}, "name", "invalid_parameter"),
        ({"bogus": "x"}, "bogus", "unknown_parameter"),
        ({"gcs_access_key": "x"}, "gcs_access_key", "unknown_parameter"),
        ({"type": "ftp"}, "type", "invalid_parameter"),
        ({"s3_path_prefix": "../up"}, "s3_path_prefix", "invalid_parameter"),
        ({"s3_bucket_name": None}, "s3_bucket_name", "missing_parameter"),
        ({"id": "X"}, "id", "unknown_parameter"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(
    service: Api, existing: dict[str, Any], body: dict[str, Any], parameter: str, code: str
) -> None:
    answer = put(service, existing, body)
    assert (answer.status, answer.error["parameter"], answer.error["code"]) == (400, parameter, code), answer.text
    assert now(service, existing) == existing


def test_a_form_does_the_same(service: Api, existing: dict[str, Any]) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = service.call("PUT", f"/destinations/{existing['id']}", b"enabled=0&name=by+form", form)
    assert answer.status == 200
    assert (answer.json["destination"]["name"], answer.json["destination"]["enabled"]) == ("by form", False)


def test_what_is_not_there_is_not_found(service: Api) -> None:
    assert put(service, {"id": "0" * 12}, {"name": "x"}).status == 404
