"""The OSS double is held against two clients that it does not know: alibabacloud-oss-v2, and oss2 in both versions."""

import base64
import contextlib
import hashlib
import http.client
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import alibabacloud_oss_v2 as v2
import crcmod
import oss2
import pytest
import requests
from oss2.exceptions import OssError

from tests.servers.oss import DELETE, DELETE_VERSION, GET, LIST, PUT, Identity, Oss, OssBucket, crc64, oss

KEY, SECRET = "LTAI5tRightRightRight", "the right secret"


@pytest.fixture(scope="module")
def double() -> Iterator[Oss]:
    with oss() as running:
        running.identities = {
            KEY: Identity(SECRET),
            "LTAI5tDisabled000000": Identity(SECRET, enabled=False),
            "LTAI5tPutOnly0000000": Identity(SECRET, (PUT,)),
            "LTAI5tReadOnly000000": Identity(SECRET, (GET, LIST)),
            "LTAI5tNoVersions0000": Identity(SECRET, (PUT, DELETE)),
        }
        running.buckets = {
            "results": OssBucket(),
            "versioned": OssBucket(versioned=True),
            "worm": OssBucket(worm=True),
            "elsewhere": OssBucket(region="eu-central-1"),
        }
        yield running


def second_client(double: Oss, key: str = KEY, secret: str = SECRET, region: str = "cn-hangzhou") -> v2.Client:
    config = v2.config.load_default()
    config.credentials_provider = v2.credentials.StaticCredentialsProvider(key, secret)
    config.region, config.endpoint, config.use_path_style = region, double.url, True
    config.retry_max_attempts = 1
    return v2.Client(config)


def code_of(call: Callable[[], Any]) -> tuple[int, str, str]:
    """The status, code and EC with which a call of either client is refused."""
    try:
        call()
    except v2.exceptions.OperationError as error:
        service = error.unwrap()
        assert isinstance(service, v2.exceptions.ServiceError), service
        return service.status_code, service.code, service.ec
    except OssError as error:
        return error.status, error.code, error.ec
    raise AssertionError("the call was not refused")


def put(client: v2.Client, bucket: str = "results", key: str = "a b/ä+%.txt", **more: Any) -> v2.PutObjectResult:
    return client.put_object(v2.PutObjectRequest(bucket=bucket, key=key, body=b"content", **more))


def test_the_second_client_writes_reads_lists_and_deletes(double: Oss) -> None:
    client = second_client(double)
    done = put(client)
    assert done.etag == f'"{hashlib.md5(b"content").hexdigest().upper()}"'
    assert client.get_object(v2.GetObjectRequest(bucket="results", key="a b/ä+%.txt")).body.content == b"content"
    listed = client.list_objects_v2(v2.ListObjectsV2Request(bucket="results"))
    assert [entry.key for entry in listed.contents or []] == ["a b/ä+%.txt"] == double.objects("results")
    client.delete_object(v2.DeleteObjectRequest(bucket="results", key="a b/ä+%.txt"))
    assert double.objects("results") == []


@pytest.mark.parametrize("auth", [oss2.Auth, oss2.AuthV4])
def test_oss2_writes_and_deletes_in_both_versions(double: Oss, auth: Any) -> None:
    bucket = oss2.Bucket(auth(KEY, SECRET), double.url, "results", region="cn-hangzhou")
    digest = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    assert bucket.put_object("a b/ä+%.txt", b"x", headers={"Content-MD5": digest}).status == 200
    assert double.objects("results") == ["a b/ä+%.txt"]
    assert bucket.delete_object("a b/ä+%.txt").status == 204
    assert double.objects("results") == []


@pytest.mark.parametrize("auth", [oss2.Auth, oss2.AuthV4])
def test_oss2_deletes_a_version_in_both_versions(double: Oss, auth: Any) -> None:
    bucket = oss2.Bucket(auth(KEY, SECRET), double.url, "versioned", region="cn-hangzhou")
    version = bucket.put_object("k", b"x").versionid
    assert version
    bucket.delete_object("k", params={"versionId": version})
    assert double.objects("versioned") == []


def test_a_plain_delete_in_a_versioned_bucket_leaves_the_version_and_a_marker(double: Oss) -> None:
    client = second_client(double)
    version = put(client, "versioned", "k").version_id
    done = client.delete_object(v2.DeleteObjectRequest(bucket="versioned", key="k"))
    assert done.delete_marker
    assert double.objects("versioned") == ["k", "k"]
    for each in (version, done.version_id):
        client.delete_object(v2.DeleteObjectRequest(bucket="versioned", key="k", version_id=each))
    assert double.objects("versioned") == []


@pytest.mark.parametrize(
    ("changes", "bucket", "refusal"),
    [
        ({"secret": "wrong"}, "results", (403, "SignatureDoesNotMatch", "0002-00000040")),
        ({"key": "LTAI5tUnknown0000000"}, "results", (403, "InvalidAccessKeyId", "0002-00000902")),
        ({"key": "LTAI5tDisabled000000"}, "results", (403, "InvalidAccessKeyId", "0002-00000903")),
        ({"key": "LTAI5tReadOnly000000"}, "results", (403, "AccessDenied", "0003-00000001")),
        ({"region": "eu-central-1"}, "results", (403, "AccessDenied", "0002-00000226")),
        ({}, "missing", (404, "NoSuchBucket", "0015-00000101")),
    ],
)
def test_what_oss_refuses_is_refused(
    double: Oss, changes: dict[str, str], bucket: str, refusal: tuple[int, str, str]
) -> None:
    assert code_of(lambda: put(second_client(double, **changes), bucket)) == refusal
    auth = oss2.AuthV4(changes.get("key", KEY), changes.get("secret", SECRET))
    other = oss2.Bucket(auth, double.url, bucket, region=changes.get("region", "cn-hangzhou"))
    assert code_of(lambda: other.put_object("k", b"x")) == refusal
    assert double.objects("results") == []


def test_a_delete_is_refused_without_its_permission_and_under_retention(double: Oss) -> None:
    keeper = second_client(double)
    for key, bucket, action, refusal in (
        ("LTAI5tPutOnly0000000", "results", None, (403, "AccessDenied", "0003-00000001")),
        ("LTAI5tNoVersions0000", "versioned", DELETE_VERSION, (403, "AccessDenied", "0003-00000001")),
        (KEY, "worm", None, (409, "FileImmutable", "0055-00000001")),
    ):
        version = put(keeper, bucket, "k").version_id if action else put(keeper, bucket, "k") and None
        request = v2.DeleteObjectRequest(bucket=bucket, key="k", version_id=version)
        assert code_of(lambda key=key, request=request: second_client(double, key).delete_object(request)) == refusal
        assert double.objects(bucket) == ["k"]
        double.buckets[bucket].objects.clear()


def test_a_content_md5_that_is_wrong_is_refused(double: Oss) -> None:
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert code_of(lambda: put(second_client(double), content_md5=wrong))[1] == "InvalidDigest"
    assert code_of(lambda: put(second_client(double), content_md5="no"))[1] == "InvalidDigest"
    assert double.objects("results") == []


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_clock_that_is_off_is_refused(double: Oss, monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    class Skewed(datetime):
        @classmethod
        def utcnow(cls) -> "Skewed":
            return cls.now(UTC) + timedelta(minutes=minutes)

    monkeypatch.setattr("oss2.auth.datetime", Skewed)
    bucket = oss2.Bucket(oss2.AuthV4(KEY, SECRET), double.url, "results", region="cn-hangzhou")
    assert code_of(lambda: bucket.put_object("k", b"x")) == (403, "RequestTimeTooSkewed", "0002-00000504")


class _Tampering(requests.adapters.HTTPAdapter):
    """Changes a request after it was signed."""

    def __init__(self, change: Callable[[requests.PreparedRequest], None]) -> None:
        super().__init__()
        self._change = change

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self._change(request)
        return super().send(request, *args, **options)


@pytest.mark.parametrize("auth", [oss2.Auth, oss2.AuthV4])
@pytest.mark.parametrize(
    "change",
    [
        lambda request: request.headers.update({"Content-Type": "text/html"}),
        lambda request: request.headers.update({"x-oss-object-acl": "public-read"}),
        lambda request: setattr(request, "url", request.url.replace("/k", "/other")),
        lambda request: setattr(request, "url", request.url.replace("/results/", "/versioned/")),
        lambda request: setattr(request, "url", request.url + "?versionId=1"),
    ],
)
def test_what_was_signed_cannot_be_changed(
    double: Oss, auth: Any, change: Callable[[requests.PreparedRequest], None]
) -> None:
    session = oss2.Session(adapter=_Tampering(change))
    bucket = oss2.Bucket(auth(KEY, SECRET), double.url, "results", session=session, region="cn-hangzhou")
    assert code_of(lambda: bucket.put_object("k", b"x"))[1] == "SignatureDoesNotMatch"
    assert double.objects("results") == double.objects("versioned") == []


@pytest.mark.parametrize("headers", [{}, {"Authorization": "OSS x"}, {"Authorization": "OSS4-HMAC-SHA256 x"}])
def test_who_does_not_sign_is_refused_in_xml(double: Oss, headers: dict[str, str]) -> None:
    answer = requests.put(f"{double.url}/results/k", data=b"x", headers=headers, timeout=30)
    assert 400 <= answer.status_code < 404
    assert answer.text.startswith("<?xml")
    assert answer.headers["x-oss-request-id"]
    assert double.objects("results") == []


@pytest.mark.parametrize("content", [b"", b"some bytes"])
def test_a_connection_serves_the_next_request_whatever_way_a_body_is_sent(double: Oss, content: bytes) -> None:
    def parts() -> Iterator[bytes]:
        yield from (content[at : at + 4] for at in range(0, len(content), 4))

    host = urlsplit(double.url).netloc
    with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as connection:
        for body in (parts(), content):
            signed = oss2.http.Request("PUT", f"{double.url}/results/k", data=b"", region="cn-hangzhou", product="oss")
            oss2.AuthV4(KEY, SECRET)._sign_request(signed, "results", "k")
            connection.request(
                "PUT", "/results/k", body, {name: value for name, value in signed.headers.items() if value}
            )
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            assert double.buckets["results"].objects.pop("k")[-1][1] == content


def test_a_bucket_answers_at_its_own_regions_endpoint_only(double: Oss) -> None:
    headers = {"Host": "elsewhere.oss-cn-hangzhou.aliyuncs.com"}
    signed = oss2.http.Request("PUT", f"{double.url}/k", data=b"x", region="cn-hangzhou", product="oss")
    oss2.AuthV4(KEY, SECRET)._sign_request(signed, "elsewhere", "k")
    answer = requests.put(f"{double.url}/k", data=b"x", headers={**headers, **signed.headers}, timeout=30)
    assert (answer.status_code, "oss-eu-central-1.aliyuncs.com" in answer.text) == (403, True), answer.text


def test_the_checksum_is_the_one_of_another_implementation() -> None:
    other = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, initCrc=0, xorOut=0xFFFFFFFFFFFFFFFF, rev=True)
    for content in (b"", b"123456789", bytes(range(256))):
        assert crc64(content) == other(content)
