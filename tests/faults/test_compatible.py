"""S3-compatible services by their documented manners: what is found by itself, in how few requests, and what is not."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from app.domain.faults import Fault
from app.domain.verification import UNKNOWN_LOCATION, Location, Report
from app.messages.job import Left
from demo.seaweedfs import SeaweedFS
from tests.faults.verifying import KEY, LOOPBACK, WITHIN, failed, spec_of, step
from tests.servers.aws import REGION, Aws
from tests.servers.compatible import SERVICES, Loopback, Service, error, malformed, serving
from tests.servers.gateway import Canned
from workers.egress.asynchronous import guarded_session
from workers.egress.guard import Guard
from workers.storage.s3 import bucket as buckets
from workers.storage.s3.provider import S3Provider
from workers.verify import remove, verify

# Where each service's bucket is found to be, and the requests that the first verification takes.
EXPECTED: dict[str, tuple[str, str, list[str]]] = {
    "DigitalOcean Spaces": ("ams3", "path", ["PUT", "DELETE"]),
    "Cloudflare R2": ("auto", "path", ["PUT", "DELETE"]),
    "Backblaze B2": ("us-west-004", "path", ["PUT", "DELETE"]),
    "Wasabi": ("eu-central-1", "path", ["PUT", "DELETE"]),
    # The GET proves that its host is no bucket's.
    "MinIO": ("eu-test-1", "path", ["PUT", "PUT", "GET", "DELETE"]),
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

    async def verified(self, location: Location = UNKNOWN_LOCATION, timeout: float = WITHIN, **changes: Any) -> Report:
        """The report of a worker that has just started."""
        spec = spec_of("s3compatible", **{"s3_endpoint": self.service.url, **self.body, **changes})
        async with guarded_session(Guard(LOOPBACK), Loopback()) as session:
            provider = S3Provider(session, {})
            return await verify(provider, spec, KEY, timeout=timeout, job="job", location=location)

    async def left_and_removed(self, location: Location) -> tuple[list[str], Left | None]:
        """What was there when a worker had uploaded and died, and what remains when another, which knows nothing of the
        bucket, has deleted it."""
        spec = spec_of("s3compatible", **{"s3_endpoint": self.service.url, **self.body})
        async with guarded_session(Guard(LOOPBACK), Loopback()) as session:
            provider = S3Provider(session, {})
            await (await provider.open(spec, location)).upload(KEY, b"a file")
            there = self.objects()
            return there, (await remove(provider, spec, KEY, Left(), timeout=WITHIN, job="job"))[1]

    def regions(self) -> list[str | None]:
        """What was signed for, request by request."""
        return [request.region for request in self.service.requests]


@pytest.fixture(autouse=True)
def trusted(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    # Whether a host is the bucket's is found out however slow the machine is.
    monkeypatch.setattr(buckets, "PROOF_SECONDS", WITHIN)


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
        assert [step.outcome for step in report.steps] == ["skipped", "passed", "passed", "passed", "passed", "skipped"]
        assert report.host == customer.service.requests[-1].host + f":{customer.service.port}"
        assert customer.service.calls() == calls
        there, left = await customer.left_and_removed(report.location)
        assert (len(there), left, customer.objects()) == (len(before) + 1, None, before)
        customer.service.requests.clear()
        again = await customer.verified(report.location)
        assert again.ok and again.location == report.location, again
        assert customer.regions() == [region, region]
        assert customer.service.calls() == ["PUT", "DELETE"]
        assert customer.objects() == before

    async def test_tells_a_wrong_secret_and_an_unknown_key(self, customer: Customer, name: str) -> None:
        report = await customer.verified(s3_secret_access_key="another-secret")
        assert failed(report) == [("upload", Fault.SECRET_MISMATCH)], report
        assert customer.service.calls() == [call for call in EXPECTED[name][2] if call == "PUT"]
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
    assert customer.service.calls() == ["PUT", "GET", "DELETE"]
    report = await customer.verified(s3_region="eu-test-2")
    assert failed(report) == [("upload", Fault.BUCKET_WRONG_REGION)]
    assert report.parameter == "s3_region"
    assert "eu-test-1" not in report.model_dump_json(), "a host of the customer's choice is not repeated"
    assert customer.service.calls() == ["PUT"]


def told_in_words(region: str) -> Canned:
    """Scaleway's, which has no element for the region."""
    text = f"The authorization header is malformed; the region 'us-east-1' is wrong; expecting '{region}'"
    return error(400, "AuthorizationHeaderMalformed", text)


@pytest.mark.parametrize("region", ["SBG", "fr-par"])
@pytest.mark.parametrize("refusal", [malformed, told_in_words])
async def test_a_region_is_found_however_it_is_spelled_and_told(
    at: Callable[[Service], Customer], region: str, refusal: Callable[[str], Canned]
) -> None:
    customer = at(Service(region=region, wrong_region=refusal))
    report = await customer.verified()
    assert report.ok and report.region == region, report
    assert customer.regions() == ["us-east-1", region, region]
    assert (await customer.verified(s3_region=region)).ok


async def test_where_the_region_was_a_guess_the_secret_is_not_all_that_is_blamed(
    at: Callable[[Service], Customer],
) -> None:
    customer = at(Service(region="somewhere", wrong_region=lambda _: error(403, "SignatureDoesNotMatch")))
    report = await customer.verified()
    assert failed(report) == [("upload", Fault.SECRET_MISMATCH)]
    assert "s3_region" in report.message and "us-east-1" in report.message
    assert (await customer.verified(s3_region="somewhere")).ok
    report = await customer.verified(s3_region="nowhere")
    assert report.code == Fault.SECRET_MISMATCH and "s3_region" not in report.message


@pytest.mark.parametrize(
    "named", ["zh_CN", "evil.com/#", "-a", "123", "", "a" * 64, "fips-us-east-1", "us-fips-1", "aws-global"]
)
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
    assert failed(await customer.verified(Location(region="x"))) == [("upload", Fault.BUCKET_WRONG_REGION)]
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
    report = await customer.verified(Location(region="eu-test-0", addressing="path"))
    assert report.ok and report.region == "eu-test-1", report
    assert customer.regions() == ["eu-test-0", "eu-test-1", "eu-test-1"]


async def test_an_addressing_that_is_no_longer_true_is_found_again(at: Callable[[Service], Customer]) -> None:
    """Nobody has a certificate for, or knows, the bucket as a part of the host any more."""
    customer = at(SERVICES["MinIO"]())
    customer.service.virtual_style = error(404, "NoSuchBucket")
    report = await customer.verified(Location(region="eu-test-1", addressing="virtual"))
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


async def test_a_service_whose_own_clock_is_wrong_is_told_so(at: Callable[[Service], Customer]) -> None:
    customer = at(Service(region="none", wrong_region=lambda _: error(403, "RequestTimeTooSkewed")))
    report = await customer.verified()
    assert failed(report) == [("upload", Fault.CLOCK_SKEW)]
    assert report.host in report.message and "its own clock" in report.message and "our fault" not in report.message
    # Whose operator is paged by the others.
    alerts = (Path(__file__).parents[2] / "docs/monitoring/alerts.yml").read_text()
    assert 'dropoff_faults_total{code="clock_skew",type!="s3compatible"}' in alerts


async def test_who_is_told_that_the_secret_is_wrong_looks_at_the_key_too(at: Callable[[Service], Customer]) -> None:
    """Swift's word for a key that it does not know."""
    customer = at(Service(unknown=error(403, "SignatureDoesNotMatch")))
    report = await customer.verified(s3_access_key_id="AKIANOBODYKNOWSTHIS0", s3_region="us-east-1")
    assert failed(report) == [("upload", Fault.SECRET_MISMATCH)]
    assert "s3_secret_access_key" in report.message and "s3_access_key_id" in report.message


async def test_a_redirect_to_the_endpoint_of_the_buckets_region_is_not_followed(
    at: Callable[[Service], Customer],
) -> None:
    """Wasabi's word for a bucket of another region: its own region's endpoint has to be given."""
    customer = at(SERVICES["Wasabi"]())
    customer.service.region = "eu-west-1"
    customer.service.wrong_region = lambda _: error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1")
    for found in (UNKNOWN_LOCATION, Location(region="eu-central-1", addressing="path")):
        report = await customer.verified(found)
        assert failed(report) == [("upload", Fault.BUCKET_WRONG_REGION)]
        assert "s3_endpoint" in report.message
        assert customer.service.calls() == ["PUT"]


async def test_an_endpoint_that_is_another_buckets_is_refused(
    at: Callable[[Service], Customer], seaweedfs: SeaweedFS
) -> None:
    """At SeaweedFS itself, which takes what stands before a name of its own for a bucket: files would end up there, in
    a folder called as ours, and there need be no such bucket as ours."""
    customer = at(Service(host="minio.example.com"))
    service, before = customer.service, seaweedfs.objects("results")
    for bucket in ("versioned", "there-is-none"):
        endpoint = f"https://results.{service.host}:{service.port}"
        report = await customer.verified(s3_endpoint=endpoint, s3_bucket_name=bucket)
        assert failed(report) == [("upload", Fault.ENDPOINT_NAMES_A_BUCKET)], report
        assert report.parameter == "s3_endpoint" and bucket in report.message
        assert step(report, "delete").outcome == "passed" and not report.left_behind
        assert service.calls() == ["PUT", "GET", "DELETE"]
        assert seaweedfs.objects("results") == before
    # In a bucket that keeps versions, the version is deleted.
    before = seaweedfs.objects("versioned")
    endpoint = f"https://versioned.{service.host}:{service.port}"
    report = await customer.verified(s3_endpoint=endpoint)
    assert report.code == Fault.ENDPOINT_NAMES_A_BUCKET and report.warnings == (), report
    assert seaweedfs.objects("versioned") == before


@pytest.mark.parametrize("said", ["", "<BucketName>results</BucketName>", "<BucketName>elsewhere</BucketName>"])
@pytest.mark.parametrize("status", [403, 404, 405, 500])
async def test_a_service_that_does_not_tell_the_bucket_of_its_host_is_believed(
    at: Callable[[Service], Customer], status: int, said: str
) -> None:
    """It may have the bucket under another name of its own, which is not before its host."""
    customer = at(Service(host="minio.example.com"))
    customer.service.lookup = error(status, "NoSuchKey", extra=said)
    report = await customer.verified()
    assert report.ok, report
    assert customer.service.calls() == ["PUT", "GET", "DELETE"]


async def test_an_endpoint_whose_path_is_another_bucket_is_refused(
    at: Callable[[Service], Customer], seaweedfs: SeaweedFS
) -> None:
    """Files would end up there, in a folder called as ours, as they do where it is named before the host."""
    customer = at(Service())
    before = seaweedfs.objects("results")
    report = await customer.verified(s3_endpoint=f"{customer.service.url}/results", s3_bucket_name="there-is-none")
    assert failed(report) == [("upload", Fault.ENDPOINT_NAMES_A_BUCKET)], report
    assert seaweedfs.objects("results") == before and not report.left_behind


async def test_an_api_under_a_path_is_called_and_signed_there(at: Callable[[Service], Customer]) -> None:
    """Here nobody is behind it but a store that answers as Supabase does."""
    stored, deleted = Canned(200, {"ETag": '"e"'}), Canned(204)
    customer = at(Service())
    customer.service.under = ("/storage/v1/s3/", {"PUT": stored, "DELETE": deleted})
    report = await customer.verified(s3_endpoint=f"{customer.service.url}/storage/v1/s3/")
    assert report.ok, report
    paths = [request.path.partition("?")[0] for request in customer.service.requests if request.method != "GET"]
    assert paths == [f"/storage/v1/s3/results/{KEY}"] * 2


STYLES = {
    "Huawei": error(404, "NoSuchKey", "The specified key does not exist."),
    "in words": error(403, "AccessDenied", "Please use virtual hosted style to access."),
    "in other words": error(400, "InvalidRequest", "Path-style access is not allowed."),
    "Volcengine": error(403, "InvalidPathAccess", "Forbidden path to access server."),
    "Huawei's words": error(405, "MethodNotAllowed", "Virtual host domain is required while accessing a bucket."),
    "a page": Canned(404, {"Content-Type": "text/html"}, b"<html><body>404 Not Found</body></html>"),
    "nothing": Canned(403),
}


@pytest.mark.parametrize("said", STYLES)
async def test_a_bucket_that_is_in_the_host_alone_is_found_there(at: Callable[[Service], Customer], said: str) -> None:
    customer = at(Service(host="oss.example.com", path_style=STYLES[said]))
    before = customer.objects()
    report = await customer.verified()
    assert report.ok and report.addressing == "virtual", report
    # Where it was a guess, it is proven.
    certain = said in ("in words", "in other words", "Volcengine", "Huawei's words")
    assert [request.host for request in customer.service.requests] == [
        "oss.example.com", *["results.oss.example.com"] * (2 if certain else 3)
    ]  # fmt: skip
    assert customer.objects() == before
    customer.service.requests.clear()
    assert (await customer.verified(report.location)).ok
    assert customer.service.calls() == ["PUT", "DELETE"]


async def test_where_nobody_is_at_the_buckets_own_host_the_first_refusal_stands(
    at: Callable[[Service], Customer],
) -> None:
    """An address in numbers has nothing before it, and a name may have no certificate for that."""
    for host in ("127.0.0.1", "a.minio.example.com"):
        customer = at(Service(host=host, path_style=STYLES["Huawei"]))
        report = await customer.verified()
        assert failed(report) == [("upload", Fault.BUCKET_NOT_FOUND)], report
        assert report.host == f"{host}:{customer.service.port}"
        assert [each.outcome for each in report.steps][1:3] == ["passed", "passed"]
        assert customer.service.calls() == ["PUT"]


async def test_where_no_store_is_at_the_buckets_own_host_the_first_refusal_stands(
    at: Callable[[Service], Customer],
) -> None:
    customer = at(Service(host="oss.example.com", path_style=STYLES["nothing"], virtual_style=STYLES["a page"]))
    report = await customer.verified()
    assert failed(report) == [("upload", Fault.NOT_A_STORAGE_ENDPOINT)], report
    assert step(report, "upload").status == 403
    assert report.host == f"oss.example.com:{customer.service.port}"
    assert customer.service.calls() == ["PUT", "PUT"]


@pytest.mark.parametrize("told", ["<BucketName>in</BucketName>", "<Key>{rest}.none</Key>"])
async def test_a_store_that_takes_a_folder_for_the_bucket_is_not_where_the_bucket_is(
    at: Callable[[Service], Customer], told: str
) -> None:
    """It answers under every name, looks at the path alone, and would have the files in a bucket called as the
    prefix."""
    customer = at(Service(host="oss.example.com", path_style=STYLES["a page"]))
    lookup = error(404, "NoSuchKey", extra=told.format(rest=KEY.partition("/")[2]))
    by_folder = {"PUT": Canned(200, {"ETag": '"e"'}), "GET": lookup, "DELETE": Canned(204)}
    customer.service.under = (f"/{KEY.partition('/')[0]}/", by_folder)
    report = await customer.verified()
    assert failed(report) == [("upload", Fault.NOT_A_STORAGE_ENDPOINT)], report
    assert step(report, "delete").outcome == "passed" and not report.left_behind
    assert customer.service.calls() == ["PUT", "PUT", "GET", "DELETE"]
