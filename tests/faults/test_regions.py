"""An Amazon bucket that is not where it was remembered to be."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.domain.faults import Fault
from app.domain.verification import UNKNOWN_LOCATION, Location, Report
from demo.seaweedfs import SeaweedFS
from tests.faults.verifying import KEY, WITHIN, failed, providers, spec_of, step
from tests.servers.compatible import Service, error, malformed, serving
from tests.servers.gateway import Canned
from workers.storage.port import Provider
from workers.verify import verify


def redirected(region: str) -> Canned:
    """S3's word for a bucket in another region than the one whose endpoint was called."""
    return error(301, "PermanentRedirect", "must be addressed using the specified endpoint", x_amz_bucket_region=region)


def head(region: str) -> Canned:
    return Canned(403, {"x-amz-bucket-region": region})


def opted_in(_: str) -> Canned:
    return error(400, "IllegalLocationConstraintException", "incompatible for the region specific endpoint")


@pytest.fixture
def amazon(seaweedfs: SeaweedFS) -> Iterator[Service]:
    """S3, as far as regions go: it names a bucket's region to anybody, and refuses what is signed for another."""
    service = Service(region="eu-west-1", unsigned=head)
    with serving(service, int(seaweedfs.url.rpartition(":")[2])) as running:
        yield running


async def verified(
    provider: Provider,
    seaweedfs: SeaweedFS,
    location: Location = UNKNOWN_LOCATION,
    multipart: bool = False,
    **changes: Any,
) -> Report:
    key, secret = seaweedfs.customer
    right = {"s3_bucket_name": "results", "s3_access_key_id": key, "s3_secret_access_key": secret}
    spec = spec_of("s3", **{**right, **changes})
    return await verify(provider, spec, KEY, timeout=WITHIN, job="job", location=location, multipart=multipart)


@pytest.mark.parametrize("refusal", [redirected, malformed, opted_in])
async def test_a_bucket_that_was_made_anew_in_another_region_is_found_there(
    amazon: Service, seaweedfs: SeaweedFS, refusal: Callable[[str], Canned]
) -> None:
    objects = seaweedfs.objects("results")
    amazon.wrong_region = refusal
    async with providers(amazon.url) as provider_for:
        provider = await provider_for(spec_of("s3"))
        assert (await verified(provider, seaweedfs)).region == "eu-west-1"
        assert amazon.calls() == ["HEAD", "PUT", "DELETE"]
        amazon.region = "us-west-2"
        moved = await verified(provider, seaweedfs)
        assert moved.ok and moved.region == "us-west-2", moved
        assert [request.region for request in amazon.requests] == ["eu-west-1", None, "us-west-2", "us-west-2"]
        assert amazon.calls() == ["PUT", "HEAD", "PUT", "DELETE"]
        assert (await verified(provider, seaweedfs)).ok
        assert amazon.calls() == ["PUT", "DELETE"]
    assert seaweedfs.objects("results") == objects


@pytest.mark.parametrize("refusal", [redirected, malformed, opted_in])
async def test_an_upload_in_parts_finds_a_bucket_elsewhere_without_being_in_the_way_of_the_file(
    amazon: Service, seaweedfs: SeaweedFS, refusal: Callable[[str], Canned]
) -> None:
    amazon.wrong_region = refusal
    async with providers(amazon.url) as provider_for:
        provider = await provider_for(spec_of("s3"))
        report = await verified(provider, seaweedfs, Location(region="eu-north-1"), multipart=True)
    assert report.ok and report.region == "eu-west-1", report
    assert step(report, "multipart").outcome == "passed", report
    assert not report.warnings
    assert seaweedfs.unfinished("results") == 0


async def test_a_worker_that_has_just_started_begins_with_what_was_kept(amazon: Service, seaweedfs: SeaweedFS) -> None:
    for kept, calls in (("eu-west-1", ["PUT", "DELETE"]), ("eu-north-1", ["PUT", "HEAD", "PUT", "DELETE"])):
        async with providers(amazon.url) as provider_for:
            report = await verified(await provider_for(spec_of("s3")), seaweedfs, Location(region=kept))
        assert report.ok and report.location == Location(region="eu-west-1"), report
        assert step(report, "locate").outcome == "skipped"
        assert amazon.calls() == calls


async def test_a_bucket_that_was_deleted_is_not_found(amazon: Service, seaweedfs: SeaweedFS) -> None:
    async with providers(amazon.url) as provider_for:
        provider = await provider_for(spec_of("s3"))
        assert (await verified(provider, seaweedfs)).ok
        amazon.region, amazon.unsigned = "gone", lambda _: Canned(404, {"x-amz-request-id": "0A49CE4060975EAC"})
        report = await verified(provider, seaweedfs)
    assert failed(report) == [("upload", Fault.BUCKET_NOT_FOUND)]
    assert step(report, "delete").outcome == "skipped"


async def test_a_region_that_was_asked_for_just_now_is_not_asked_for_again(
    amazon: Service, seaweedfs: SeaweedFS
) -> None:
    amazon.unsigned = lambda _: head("eu-north-1")
    async with providers(amazon.url) as provider_for:
        report = await verified(await provider_for(spec_of("s3")), seaweedfs)
    assert failed(report) == [("upload", Fault.BUCKET_WRONG_REGION)]
    assert amazon.calls() == ["HEAD", "PUT"]


async def test_a_store_that_is_never_content_is_asked_once_more(amazon: Service, seaweedfs: SeaweedFS) -> None:
    async with providers(amazon.url) as provider_for:
        provider = await provider_for(spec_of("s3"))
        assert (await verified(provider, seaweedfs)).ok
        amazon.calls()
        amazon.region, amazon.unsigned = "nowhere", lambda _: head("us-west-2")
        report = await verified(provider, seaweedfs)
    assert failed(report) == [("upload", Fault.BUCKET_WRONG_REGION)]
    assert amazon.calls() == ["PUT", "HEAD", "PUT"]


async def test_what_is_not_about_the_place_is_not_tried_again(amazon: Service, seaweedfs: SeaweedFS) -> None:
    async with providers(amazon.url) as provider_for:
        provider = await provider_for(spec_of("s3"))
        assert (await verified(provider, seaweedfs)).ok
        amazon.calls()
        report = await verified(provider, seaweedfs, s3_secret_access_key="another-secret")
    assert failed(report) == [("upload", Fault.SECRET_MISMATCH)]
    assert amazon.calls() == ["PUT"]
