"""What only some types have: versions, retention, regions, keys that are disabled."""

import pytest

from tests.servers.aws import Aws
from tests.servers.oss import Oss
from tests.stack import Api
from tests.types import oss as alibaba
from tests.types import s3
from tests.types.base import Backend
from tests.types.every import STORAGES, with_case


@pytest.mark.parametrize("backend", with_case("versioned"), indirect=True)
def test_a_bucket_that_keeps_versions_keeps_none_of_the_test_file(service: Api, backend: Backend) -> None:
    objects = backend.objects()
    answer = service.create(backend.body("versioned"))
    assert answer.status == 200, answer.text
    assert answer.report["warnings"] == []
    assert backend.objects() == objects


@pytest.mark.parametrize("backend", with_case("no_versions"), indirect=True)
def test_a_key_that_may_not_delete_versions_is_accepted_with_a_warning(service: Api, backend: Backend) -> None:
    answer = service.create(backend.body("no_versions"))
    assert answer.status == 200, answer.text
    (warning,) = answer.report["warnings"]
    assert answer.report["object"] in warning
    # The version, and the marker that hides it.
    assert backend.objects().count(answer.report["object"]) == 2


@pytest.mark.parametrize("backend", with_case("retained"), indirect=True)
def test_a_bucket_that_retains_is_refused_and_the_file_is_named(service: Api, backend: Backend) -> None:
    objects = backend.objects()
    answer = service.create(backend.body("retained"))
    assert (answer.status, answer.error["code"]) == (400, "delete_blocked_by_retention"), answer.text
    assert answer.report["left_behind"]
    (left,) = set(backend.objects()) - set(objects)
    assert left.partition("#")[0] == answer.report["object"]
    assert answer.report["object"] in answer.report["message"]


SUPPORT = [(name, *storage.support) for storage in STORAGES.values() for name in storage.backends if storage.support]


@pytest.mark.parametrize(("backend", "case", "code", "status"), SUPPORT, indirect=["backend"])
def test_the_providers_own_code_and_request_id_are_in_the_report(
    service: Api, backend: Backend, case: str, code: str, status: int
) -> None:
    """What the customer's engineer hands to the provider's support."""
    step = service.create(backend.body(case)).step("upload")
    assert (step["provider_code"], step["status"]) == (code, status)
    assert step["request_id"]


def test_the_region_of_an_amazon_bucket_is_found_told_and_remembered(service: Api, aws: Aws) -> None:
    body = {**s3.backend(aws).right, "s3_bucket_name": "other"}
    first, second = service.create(body), service.create(body)
    assert (first.report["region"], second.report["region"]) == ("eu-west-1", "eu-west-1")
    assert first.step("locate")["outcome"] == "passed"
    assert second.step("locate")["outcome"] == "skipped"


def test_an_oss_bucket_of_another_region_is_told_so(service: Api, oss: Oss) -> None:
    answer = service.create({**alibaba.backend(oss).right, "oss_bucket_name": "elsewhere"})
    assert (answer.error["code"], answer.error["parameter"]) == ("bucket_wrong_region", "oss_region_id"), answer.text


def test_an_oss_key_that_is_disabled_is_told_so(service: Api, oss: Oss) -> None:
    answer = service.create({**alibaba.backend(oss).right, "oss_access_key": "LTAI5tDisabled000000"})
    assert (answer.error["code"], answer.error["parameter"]) == ("access_key_disabled", "oss_access_key"), answer.text
