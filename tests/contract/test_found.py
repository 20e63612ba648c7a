"""What was found of a place is kept with its destination, through the whole service."""

from collections.abc import Iterator
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.contract.test_updates import created, now, put
from tests.servers.compatible import Service, serving
from tests.stack import Api
from tests.types import s3compatible


@pytest.fixture
def minio(seaweedfs: SeaweedFS) -> Iterator[Service]:
    """One that is configured for a region of its own."""
    with serving(Service(region="eu-test-1"), int(seaweedfs.url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def destination(service: Api, minio: Service, seaweedfs: SeaweedFS) -> dict[str, Any]:
    """One whose region had to be found, as the answer to its create has it."""
    destination = created(service, s3compatible.backend(seaweedfs, minio.url).right)
    assert minio.calls() == ["PUT", "PUT", "DELETE"]
    return destination


def test_the_report_has_it(destination: dict[str, Any]) -> None:
    report = destination["verification"]
    assert (report["region"], report["addressing"]) == ("eu-test-1", "path")
    assert "s3_region" not in destination, "what the customer gave stays as it was given"


@pytest.mark.parametrize(
    "before",
    [
        [],
        [{"name": "another"}, {"enabled": False}, {"name": "a third"}],
        [{"s3_secret_access_key": "another-secret"}],
        [{"s3_bucket_name": "there-is-none"}],
        [{"s3_path_prefix": "elsewhere"}],
    ],
)
def test_a_later_verification_begins_with_it(
    service: Api, minio: Service, destination: dict[str, Any], before: list[dict[str, Any]]
) -> None:
    """Whatever happened to the destination meanwhile, a change that failed among it."""
    for body in before:
        put(service, destination, body)
    minio.calls()
    assert put(service, destination, {"enabled": False}).status == 200
    assert put(service, destination, {"enabled": True}).status == 200
    assert [request.region for request in minio.requests] == ["eu-test-1", "eu-test-1"]
    assert minio.calls() == ["PUT", "DELETE"]


def test_it_is_found_again_where_it_is_no_longer_true(
    service: Api, minio: Service, destination: dict[str, Any]
) -> None:
    minio.region = "eu-test-2"
    after = put(service, destination, {"s3_path_prefix": "elsewhere"}).json["destination"]
    assert after["verification"]["region"] == "eu-test-2"
    assert [request.region for request in minio.requests] == ["eu-test-1", "eu-test-2", "eu-test-2"]


def test_it_is_nothing_to_another_place(
    service: Api, minio: Service, destination: dict[str, Any], seaweedfs: SeaweedFS
) -> None:
    elsewhere = Service(region="ap-test-1")
    with serving(elsewhere, int(seaweedfs.url.rpartition(":")[2])):
        assert put(service, destination, {"s3_endpoint": elsewhere.url}).status == 200
        assert [request.region for request in elsewhere.requests] == ["us-east-1", "ap-test-1", "ap-test-1"]
        assert put(service, destination, {"s3_bucket_name": "versioned"}).status == 200
        assert [request.region for request in elsewhere.requests][3:] == ["us-east-1", "ap-test-1", "ap-test-1"]
    assert now(service, destination)["verification"]["region"] == "ap-test-1"
    assert minio.calls() == []
