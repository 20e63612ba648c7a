"""What only some types have: versions, retention, regions, keys that are disabled."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.contract import backends
from tests.servers.aws import Aws
from tests.servers.azure import Azure
from tests.servers.gcs import GcsServer
from tests.servers.oss import Oss
from tests.stack import Api

VERSIONED = [
    ("s3", "s3_bucket_name"),
    ("s3compatible", "s3_bucket_name"),
    ("gcs by service account", "gcs_bucket_name"),
    ("oss", "oss_bucket_name"),
]


@pytest.mark.parametrize(("backend", "parameter"), VERSIONED, indirect=["backend"])
def test_a_bucket_that_keeps_versions_keeps_none_of_the_test_file(
    service: Api, backend: backends.Backend, parameter: str
) -> None:
    objects = backend.objects()
    answer = service.create({**backend.right, parameter: "versioned"})
    assert answer.status == 200, answer.text
    assert answer.report["warnings"] == []
    assert backend.objects() == objects


@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        ("s3", {"s3_bucket_name": "versioned"}),
        ("oss", {"oss_bucket_name": "versioned", "oss_access_key": "LTAI5tNoVersions0000"}),
    ],
    indirect=["backend"],
)
def test_a_key_that_may_not_delete_versions_is_accepted_with_a_warning(
    service: Api, backend: backends.Backend, changes: Mapping[str, Any], aws: Aws
) -> None:
    if backend.right["type"] == "s3":
        key, secret = aws.keys["no-versions"]
        changes = {**changes, "s3_access_key_id": key, "s3_secret_access_key": secret}
    answer = service.create({**backend.right, **changes})
    assert answer.status == 200, answer.text
    (warning,) = answer.report["warnings"]
    assert answer.report["object"] in warning
    # The version, and the marker that hides it.
    assert backend.objects().count(answer.report["object"]) == 2


@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        ("gcs by service account", {"gcs_bucket_name": "kept"}),
        ("azure", {"azure_container_name": "delete-kept"}),
        ("oss", {"oss_bucket_name": "worm"}),
    ],
    indirect=["backend"],
)
def test_a_bucket_that_retains_is_refused_and_the_file_is_named(
    service: Api, backend: backends.Backend, changes: Mapping[str, Any]
) -> None:
    objects = backend.objects()
    answer = service.create({**backend.right, **changes})
    assert (answer.status, answer.error["code"]) == (400, "delete_blocked_by_retention"), answer.text
    assert answer.report["left_behind"]
    (left,) = set(backend.objects()) - set(objects)
    assert left.partition("#")[0] == answer.report["object"]
    assert answer.report["object"] in answer.report["message"]


def test_the_region_of_an_amazon_bucket_is_found_told_and_remembered(service: Api, aws: Aws) -> None:
    body = {**backends.s3(aws).right, "s3_bucket_name": "other"}
    first, second = service.create(body), service.create(body)
    assert (first.report["region"], second.report["region"]) == ("eu-west-1", "eu-west-1")
    assert first.step("locate")["outcome"] == "passed"
    assert second.step("locate")["outcome"] == "skipped"


def test_an_oss_bucket_of_another_region_is_told_so(service: Api, oss: Oss) -> None:
    answer = service.create({**backends.oss(oss).right, "oss_bucket_name": "elsewhere"})
    assert (answer.error["code"], answer.error["parameter"]) == ("bucket_wrong_region", "oss_region_id"), answer.text


def test_an_oss_key_that_is_disabled_is_told_so(service: Api, oss: Oss) -> None:
    answer = service.create({**backends.oss(oss).right, "oss_access_key": "LTAI5tDisabled000000"})
    assert (answer.error["code"], answer.error["parameter"]) == ("access_key_disabled", "oss_access_key"), answer.text


def test_the_providers_own_code_and_request_id_are_in_the_report(
    service: Api, aws: Aws, azure: Azure, gcs: GcsServer, oss: Oss
) -> None:
    """What the customer's engineer hands to the provider's support."""
    for backend, code in (
        (backends.s3(aws), "SignatureDoesNotMatch"),
        (backends.azure(azure), "AuthorizationFailure"),
        (backends.oss(oss), "SignatureDoesNotMatch"),
    ):
        step = service.create(backend.body("wrong_secret")).step("upload")
        assert (step["provider_code"], step["status"]) == (code, 403)
        assert step["request_id"]
    step = service.create(backends.gcs_by_service_account(gcs).body("write_refused")).step("upload")
    assert (step["provider_code"], step["status"]) == ("forbidden", 403)
    assert step["request_id"]
