"""The servers that stand for the providers refuse what these refuse: else what they accept would prove nothing."""

import base64
import contextlib
import http.client
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient
from botocore.config import Config
from botocore.exceptions import ClientError

from demo.seaweedfs import MISSING, Key, SeaweedFS
from tests.servers.aws import Aws
from tests.servers.azure import ACCOUNT, KEY, Azure

BODY = b"content"


@pytest.fixture(params=["http", "TLS"])
def client_of(request: pytest.FixtureRequest, seaweedfs: SeaweedFS, authority: Path) -> Callable[[Key], Any]:
    """A boto3 client for a key, over http and over TLS."""
    url = seaweedfs.url if request.param == "http" else seaweedfs.https_url

    def client(key: Key) -> Any:
        return boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", verify=str(authority),
            aws_access_key_id=key.id, aws_secret_access_key=key.secret,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}),
        )  # fmt: skip

    return client


def refusal(call: Callable[[], Any]) -> tuple[str, int]:
    """The code and the status of the refusal."""
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


class TestSeaweedFS:
    def put(self, client: Any, bucket: str = "results") -> Any:
        return client.put_object(Bucket=bucket, Key="own/file", Body=BODY)

    def test_a_customer_may_put_get_and_delete(self, client_of: Callable[[Key], Any], seaweedfs: SeaweedFS) -> None:
        client = client_of(seaweedfs.customer)
        self.put(client)
        assert client.get_object(Bucket="results", Key="own/file")["Body"].read() == BODY
        client.delete_object(Bucket="results", Key="own/file")
        assert "own/file" not in seaweedfs.objects("results")

    def test_an_unknown_key_is_refused(self, client_of: Callable[[Key], Any]) -> None:
        assert refusal(lambda: self.put(client_of(Key.new()))) == ("InvalidAccessKeyId", 403)

    def test_a_wrong_secret_is_refused(self, client_of: Callable[[Key], Any], seaweedfs: SeaweedFS) -> None:
        key = Key(seaweedfs.customer.id, seaweedfs.admin.secret)
        assert refusal(lambda: self.put(client_of(key))) == ("SignatureDoesNotMatch", 403)

    def test_a_missing_bucket_is_missing(self, client_of: Callable[[Key], Any], seaweedfs: SeaweedFS) -> None:
        assert refusal(lambda: self.put(client_of(seaweedfs.customer), MISSING)) == ("NoSuchBucket", 404)

    def test_another_bucket_is_denied(self, client_of: Callable[[Key], Any], seaweedfs: SeaweedFS) -> None:
        assert refusal(lambda: self.put(client_of(seaweedfs.customer), "elsewhere")) == ("AccessDenied", 403)

    def test_a_reader_may_not_put(self, client_of: Callable[[Key], Any], seaweedfs: SeaweedFS) -> None:
        assert refusal(lambda: self.put(client_of(seaweedfs.reader))) == ("AccessDenied", 403)

    def test_put_only_may_not_delete(self, client_of: Callable[[Key], Any], seaweedfs: SeaweedFS) -> None:
        client = client_of(seaweedfs.put_only)
        self.put(client)
        assert refusal(lambda: client.delete_object(Bucket="results", Key="own/file")) == ("AccessDenied", 403)
        client_of(seaweedfs.admin).delete_object(Bucket="results", Key="own/file")

    @pytest.mark.parametrize("minutes", [-30, 30])
    def test_a_wrong_clock_is_refused(
        self, client_of: Callable[[Key], Any], seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch, minutes: int
    ) -> None:
        moment = datetime.now(UTC) + timedelta(minutes=minutes)
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: moment.replace(tzinfo=None))
        assert refusal(lambda: self.put(client_of(seaweedfs.customer))) == ("RequestTimeTooSkewed", 403)

    def test_an_unsigned_write_is_refused(self, seaweedfs: SeaweedFS) -> None:
        """By no port of it: its own parts take writes without any signature when they are let."""
        for port in seaweedfs.ports:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            # Nobody may listen there, or something that speaks no HTTP.
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("PUT", "/buckets/results/unsigned", BODY)
                assert connection.getresponse().status >= 400
        assert "unsigned" not in seaweedfs.objects("results")


class TestMoto:
    """S3 and IAM, with authentication from the first call after those that set it up."""

    def test_users_may_do_what_their_policy_says(self, aws: Aws) -> None:
        for user, may_put, may_delete in (
            ("full", True, True),
            ("put-only", True, False),
            ("read-only", False, False),
        ):
            client = aws.client(user=user)
            if may_put:
                client.put_object(Bucket="other", Key=user, Body=BODY)
            else:
                assert refusal(lambda c=client: c.put_object(Bucket="other", Key="k", Body=BODY)) == (
                    "AccessDenied",
                    403,
                )
            if may_delete:
                client.delete_object(Bucket="other", Key=user)
            else:
                assert refusal(lambda c=client: c.delete_object(Bucket="other", Key="k")) == ("AccessDenied", 403)
        aws.client().delete_object(Bucket="other", Key="put-only")

    def test_no_call_goes_unauthenticated(self, aws: Aws) -> None:
        """The number of calls that set it up was counted exactly."""
        nobody = Aws(aws.url, aws.direct, {"admin": ("AKIANOBODYKNOWSTHIS0", "x")})
        assert refusal(lambda: nobody.client().list_buckets()) == ("InvalidAccessKeyId", 403)
        wrong = Aws(aws.url, aws.direct, {"admin": (aws.keys["admin"][0], "x")})
        assert refusal(lambda: wrong.client().list_buckets()) == ("SignatureDoesNotMatch", 403)


class TestAzurite:
    def refusal(self, address: str, account: str, key: str, name: str) -> tuple[str | None, int | None]:
        credential: Any = {"account_name": account, "account_key": key}
        client = ContainerClient(f"{address}/{account}", name, credential=credential, retry_total=0)
        with client, pytest.raises(HttpResponseError) as caught:
            client.upload_blob("file", BODY)
        code = getattr(caught.value, "error_code", None)
        return code and str(getattr(code, "value", code)), caught.value.status_code

    def test_what_it_refuses(self, azure: Azure) -> None:
        """Azure itself says AuthenticationFailed of a wrong key, and has no host for an account that is not there."""
        other = base64.b64encode(b"x" * 64).decode()
        assert self.refusal(azure.direct, ACCOUNT, other, "results") == ("AuthorizationFailure", 403)
        assert self.refusal(azure.direct, ACCOUNT, KEY, "there-is-none") == ("ContainerNotFound", 404)
        assert self.refusal(azure.direct, "nobody", KEY, "results") == ("ResourceNotFound", 404)
