"""Verifications that create nothing: of a body, and of a destination as it is."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.contract.conftest import created
from tests.contract.test_updates import JSON, now, put
from tests.servers.odd import STORED, answering, gated
from tests.stack import Answer, Api, until
from tests.types import s3compatible


def told(answer: Answer) -> dict[str, Any]:
    """The report without what differs from one verification to the next."""
    steps = [{n: v for n, v in step.items() if n not in ("ms", "request_id")} for step in answer.report["steps"]]
    return {**answer.report, "steps": steps, "object": "", "duration_ms": 0, "job": ""}


class TestOfABody:
    @pytest.mark.parametrize("enabled", [True, False])
    def test_what_works_is_told_so_and_nothing_is_created(
        self, service: Api, right: dict[str, Any], seaweedfs: SeaweedFS, enabled: bool
    ) -> None:
        before, objects = service.list().json, seaweedfs.objects("results")
        answer = service.verify({**right, "enabled": enabled})
        assert answer.status == 200, answer.text
        assert set(answer.json) == {"request_info", "verification"}
        assert answer.json["request_info"] == {"success": True}
        assert answer.report["ok"]
        assert answer.step("delete")["outcome"] == "passed"
        assert service.list().json == before
        assert seaweedfs.objects("results") == objects

    @pytest.mark.parametrize("case", ["wrong_secret", "unknown_key", "missing_bucket", "write_refused"])
    def test_what_does_not_work_is_an_answer_too_with_the_report_of_the_create(
        self, service: Api, seaweedfs: SeaweedFS, case: str
    ) -> None:
        body = s3compatible.backend(seaweedfs, seaweedfs.url).body(case)
        answer, refusal = service.verify(body), service.create(body)
        assert (answer.status, refusal.status) == (200, 400)
        assert not answer.report["ok"]
        assert told(answer) == told(refusal)

    @pytest.mark.parametrize(
        "changes", [{"name": None}, {"enabled": "maybe", "bogus": 1}, {"s3_endpoint": "https://a/b", "type": "s3"}]
    )
    def test_a_body_that_no_create_takes_is_refused_alike(
        self, service: Api, right: dict[str, Any], changes: dict[str, Any]
    ) -> None:
        answer, refusal = service.verify({**right, **changes}), service.create({**right, **changes})
        assert (answer.status, answer.json) == (400, refusal.json)


class TestOfADestination:
    def test_nothing_but_the_report_and_its_time_changes(
        self, service: Api, existing: dict[str, Any], right: dict[str, Any]
    ) -> None:
        neighbour = created(service, right)
        answer = service.verify(destination=existing["id"])
        assert (answer.status, answer.report["ok"]) == (200, True), answer.text
        after = now(service, existing)
        assert after == {**existing, "verification": answer.report, "verified_at": after["verified_at"]}
        assert after["verified_at"] > existing["verified_at"]
        assert now(service, neighbour) == neighbour

    def test_a_disabled_one_is_verified_and_stays_disabled(self, service: Api, right: dict[str, Any]) -> None:
        destination = created(service, {**right, "enabled": False})
        assert service.verify(destination=destination["id"]).report["ok"]
        after = now(service, destination)
        assert (after["enabled"], after["verification"]["ok"]) == (False, True)
        assert after["verified_at"]

    def test_a_failure_is_kept_beside_the_time_when_it_worked(self, service: Api, right: dict[str, Any]) -> None:
        with answering(STORED) as store:
            destination = created(service, {**right, "s3_endpoint": store.url})
        answer = service.verify(destination=destination["id"])
        assert (answer.status, answer.report["code"]) == (200, "connection_refused")
        found = now(service, destination)
        assert found["failing_since"]
        why = {"code": "connection_refused", "message": answer.report["message"]}
        fails = {"failing_since": found["failing_since"], "failing": why}
        assert found == {**destination, **fails, "verification": answer.report}

    @pytest.mark.parametrize("body", [{"name": "x"}, {"s3_bucket_name": "other"}])
    def test_it_is_verified_as_it_is(self, service: Api, existing: dict[str, Any], body: Mapping[str, Any]) -> None:
        path = f"/destinations/{existing['id']}/verify"
        answer = service.call("POST", path, json.dumps(body).encode(), JSON)
        assert (answer.status, answer.error["parameter"], answer.error["code"]) == (400, *body, "unknown_parameter")
        answer = service.call("POST", path, **body)
        assert (answer.status, answer.error["parameter"]) == (400, *body)
        assert now(service, existing) == existing

    def test_what_is_not_there_is_not_found(self, service: Api) -> None:
        answer = service.verify(destination="0" * 12)
        assert (answer.status, answer.error["code"]) == (404, "destination_not_found")


class TestAtOnce:
    """A verification is held by a store that answers late, and something else happens meanwhile."""

    def test_a_change_meanwhile_stands_and_the_report_is_not_kept(self, service: Api, right: dict[str, Any]) -> None:
        with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
            destination = self.of(service, store, right)
            held = threads.submit(service.verify, None, destination["id"])
            until(lambda: len(store.requests) > 2, "the store is called")
            after = put(service, destination, {"name": "another"}).json["destination"]
            store.gate.set()
            assert (held.result().status, held.result().error["code"]) == (409, "destination_changed")
        assert now(service, destination) == after

    def test_a_delete_meanwhile_leaves_nothing(self, service: Api, right: dict[str, Any]) -> None:
        with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
            destination = self.of(service, store, right)
            held = threads.submit(service.verify, None, destination["id"])
            until(lambda: len(store.requests) > 2, "the store is called")
            assert service.call("DELETE", f"/destinations/{destination['id']}").status == 200
            store.gate.set()
            assert (held.result().status, held.result().error["code"]) == (404, "destination_not_found")
        assert service.call("GET", f"/destinations/{destination['id']}").status == 404

    def test_an_update_that_is_held_does_not_lose_by_it(self, service: Api, existing: dict[str, Any]) -> None:
        with gated(STORED) as store, ThreadPoolExecutor(1) as threads:
            held = threads.submit(put, service, existing, {"s3_endpoint": store.url})
            until(lambda: store.requests, "the store is called")
            assert service.verify(destination=existing["id"]).report["ok"]
            store.gate.set()
            assert held.result().status == 200
        assert now(service, existing) == held.result().json["destination"]

    def of(self, service: Api, store: Any, right: dict[str, Any]) -> dict[str, Any]:
        """A destination at `store`, which answers nothing any more."""
        store.gate.set()
        destination = created(service, {**right, "s3_endpoint": store.url})
        assert len(store.requests) == 2
        store.gate.clear()
        return destination
