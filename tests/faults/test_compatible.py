"""S3-compatible services by their documented manners: what is found by itself, in how few requests, and what is not."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import Fault
from app.domain.verification import NOTHING_FOUND, Found, Report
from app.settings import Settings
from demo.seaweedfs import SeaweedFS
from tests.faults.verifying import KEY, LOOPBACK, failed, spec_of
from tests.servers.aws import REGION, Aws
from tests.servers.compatible import SERVICES, Loopback, Service, error, malformed, serving
from workers.egress import Guard, guarded_session
from workers.providers.s3 import S3Provider
from workers.verify import verify

# Where each service's bucket is found to be, and the requests that the first verification takes.
EXPECTED: dict[str, tuple[str, str, list[str]]] = {
    "DigitalOcean Spaces": ("ams3", "path", ["PUT", "DELETE"]),
    "Cloudflare R2": ("auto", "path", ["PUT", "DELETE"]),
    "Backblaze B2": ("us-west-004", "path", ["PUT", "DELETE"]),
    "Wasabi": ("eu-central-1", "path", ["PUT", "DELETE"]),
    "MinIO": ("eu-test-1", "path", ["PUT", "PUT", "DELETE"]),
    "Ceph": ("us-east-1", "path", ["PUT", "DELETE"]),
    "OSS": ("cn-hangzhou", "virtual", ["PUT", "DELETE"]),
    "Tencent COS": ("ap-beijing", "virtual", ["PUT", "DELETE"]),
    "OSS of its own": ("cn-hangzhou", "virtual", ["PUT", "PUT", "PUT", "DELETE"]),
}
EVERY = pytest.mark.parametrize("name", SERVICES)


@dataclass
class Customer:
    """Somebody with a bucket at `service`; `objects` lists all that is in it."""

    service: Service
    body: dict[str, Any]
    objects: Callable[[], list[str]]

    async def verified(self, found: Found = NOTHING_FOUND, within: float = 5, **changes: Any) -> Report:
        """The report of a worker that has just started."""
        spec = spec_of("s3compatible", **{"s3_endpoint": self.service.url, **self.body, **changes})
        async with guarded_session(Guard(LOOPBACK), Loopback()) as session:
            provider = S3Provider(session, Settings(data=Path("unused")))
            return await verify(provider, spec, KEY, within=within, job="job", found=found)

    def regions(self) -> list[str | None]:
        """What was signed for, request by request."""
        return [request.region for request in self.service.requests]


@pytest.fixture(autouse=True)
def trusted(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))


@pytest.fixture
def at(seaweedfs: SeaweedFS, certificate: tuple[Path, Path]) -> Iterator[Callable[[Service], Customer]]:
    """Starts a service before SeaweedFS, and has its customer."""
    key, secret = seaweedfs.customer
    body = {"s3_bucket_name": "results", "s3_access_key_id": key, "s3_secret_access_key": secret}
    with contextlib.ExitStack() as stack:

        def start(service: Service) -> Customer:
            service.keys = tuple(pair.id for pair in (seaweedfs.customer, seaweedfs.reader))
            stack.enter_context(serving(service, int(seaweedfs.url.rpartition(":")[2]), certificate))
            return Customer(service, body, lambda: seaweedfs.objects("results"))

        yield start


@pytest.fixture
def customer(
    request: pytest.FixtureRequest, name: str, at: Callable[[Service], Customer], certificate: tuple[Path, Path]
) -> Iterator[Customer]:
    """That of the service called `name`. Ceph's has a bucket by a name that SeaweedFS refuses and moto does not."""
    if name != "Ceph":
        yield at(SERVICES[name]())
        return
    aws: Aws = request.getfixturevalue("aws")
    bucket, (key, secret) = "My_Bucket", aws.keys["full"]
    aws.client().create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    with serving(SERVICES[name](), int(aws.direct.rpartition(":")[2]), certificate) as service:
        body = {"s3_bucket_name": bucket, "s3_access_key_id": key, "s3_secret_access_key": secret}
        yield Customer(service, body, lambda: aws.objects(bucket))
    aws.client().delete_bucket(Bucket=bucket)


@EVERY
class TestEvery:
    async def test_is_found_in_as_few_requests_as_can_be_and_afterwards_without_any(
        self, customer: Customer, name: str
    ) -> None:
        region, addressing, calls = EXPECTED[name]
        before = customer.objects()
        report = await customer.verified()
        assert report.ok, report
        assert (report.region, report.addressing) == (region, addressing)
        assert [step.outcome for step in report.steps] == ["skipped", "passed", "passed", "passed", "passed"]
        assert report.host == customer.service.requests[-1].host + f":{customer.service.port}"
        assert customer.service.calls() == calls
        again = await customer.verified(report.found)
        assert again.ok and again.found == report.found, again
        assert customer.regions() == [region, region]
        assert customer.service.calls() == ["PUT", "DELETE"]
        assert customer.objects() == before

    async def test_tells_a_wrong_secret_and_an_unknown_key(self, customer: Customer, name: str) -> None:
        report = await customer.verified(s3_secret_access_key="another-secret")
        assert failed(report) == [("upload", Fault.SECRET_MISMATCH)], report
        assert customer.service.calls() == EXPECTED[name][2][:-1]
        report = await customer.verified(s3_access_key_id="AKIANOBODYKNOWSTHIS0")
        assert failed(report) == [("upload", Fault.ACCESS_KEY_UNKNOWN)], report


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "Ceph"])
async def test_a_bucket_that_was_pasted_into_the_endpoint_is_recognised(customer: Customer, name: str) -> None:
    service = customer.service
    report = await customer.verified(s3_endpoint=f"https://results.{service.host}:{service.port}")
    assert report.ok, report
    assert service.calls() == EXPECTED[name][2]


async def test_a_region_that_was_given_is_taken_as_given(at: Callable[[Service], Customer]) -> None:
    customer = at(SERVICES["MinIO"]())
    report = await customer.verified(s3_region="eu-test-1")
    assert report.ok and report.region is None, "nothing had to be found"
    assert customer.service.calls() == ["PUT", "DELETE"]
    report = await customer.verified(s3_region="eu-test-2")
    assert failed(report) == [("upload", Fault.BUCKET_WRONG_REGION)]
    assert report.parameter == "s3_region"
    assert "eu-test-1" not in report.model_dump_json(), "a host of the customer's choice is not repeated"
    assert customer.service.calls() == ["PUT"]


@pytest.mark.parametrize("named", ["zh_CN", "evil.com/#", "-a", "123", "", "a" * 64])
async def test_a_region_that_is_none_is_neither_tried_nor_told(at: Callable[[Service], Customer], named: str) -> None:
    customer = at(Service(region="somewhere", wrong_region=lambda _: malformed(named)))
    report = await customer.verified()
    assert failed(report) == [("upload", Fault.BUCKET_WRONG_REGION)]
    assert not named or named not in report.message
    assert customer.service.calls() == ["PUT"]


async def test_a_service_that_is_never_content_is_left(at: Callable[[Service], Customer]) -> None:
    """It names another region each time, and demands another style whichever it is called in."""
    regions = iter(f"region-{n}" for n in range(99))
    customer = at(Service(region="none", wrong_region=lambda _: malformed(next(regions))))
    assert failed(await customer.verified()) == [("upload", Fault.BUCKET_WRONG_REGION)]
    assert customer.regions() == ["us-east-1", "region-0"]
    assert failed(await customer.verified(Found(region="x"))) == [("upload", Fault.BUCKET_WRONG_REGION)]
    assert customer.regions()[2:] == ["x", "region-2"]
    demanding = at(SERVICES["OSS of its own"]())
    demanding.service.virtual_style = demanding.service.path_style
    assert failed(await demanding.verified()) == [("upload", Fault.PROTOCOL_UNSUPPORTED)]
    assert demanding.service.calls() == ["PUT", "PUT"]


async def test_a_region_that_did_not_work_is_not_kept_and_not_repeated(at: Callable[[Service], Customer]) -> None:
    """It names a region and then breaks, so that it is not known whether the file was stored."""
    answers = chain((malformed("named-by-it"),), repeat(error(500, "InternalError")))
    customer = at(Service(region="none", wrong_region=lambda _: next(answers)))
    report = await customer.verified()
    assert failed(report)[0] == ("upload", Fault.PROVIDER_UNAVAILABLE)
    assert customer.regions()[:2] == ["us-east-1", "named-by-it"]
    assert "named-by-it" not in report.model_dump_json()


async def test_a_region_that_is_no_longer_true_is_found_again(at: Callable[[Service], Customer]) -> None:
    customer = at(SERVICES["MinIO"]())
    report = await customer.verified(Found(region="eu-test-0", addressing="path"))
    assert report.ok and report.region == "eu-test-1", report
    assert customer.regions() == ["eu-test-0", "eu-test-1", "eu-test-1"]


async def test_an_addressing_that_is_no_longer_true_is_found_again(at: Callable[[Service], Customer]) -> None:
    """Nobody has a certificate for, or knows, the bucket as a part of the host any more."""
    customer = at(SERVICES["MinIO"]())
    customer.service.virtual_style = error(404, "NoSuchBucket")
    report = await customer.verified(Found(region="eu-test-1", addressing="virtual"))
    assert report.ok and report.addressing == "path", report
    assert customer.service.calls() == ["PUT", "PUT", "PUT", "DELETE"], "the region had to be found again as well"


@pytest.mark.parametrize(("name", "calls"), [("OSS", []), ("OSS of its own", ["PUT"])])
@pytest.mark.parametrize("bucket", ["re.sults", "Results", "re_sults"])
async def test_a_bucket_that_no_host_can_be_named_for_is_told_so(
    customer: Customer, calls: list[str], bucket: str
) -> None:
    report = await customer.verified(s3_bucket_name=bucket)
    assert (report.code, report.parameter) == (Fault.BUCKET_NAME_NOT_A_HOST, "s3_bucket_name")
    assert bucket in report.message
    assert customer.service.calls() == calls


async def test_a_redirect_to_the_endpoint_of_the_buckets_region_is_not_followed(
    at: Callable[[Service], Customer],
) -> None:
    """Wasabi's word for a bucket of another region: its own region's endpoint has to be given."""
    customer = at(SERVICES["Wasabi"]())
    customer.service.region = "eu-west-1"
    customer.service.wrong_region = lambda _: error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1")
    for found in (NOTHING_FOUND, Found(region="eu-central-1", addressing="path")):
        report = await customer.verified(found)
        assert failed(report) == [("upload", Fault.BUCKET_WRONG_REGION)]
        assert "s3_endpoint" in report.message
        assert customer.service.calls() == ["PUT"]
