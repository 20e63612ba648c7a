"""The S3-compatible services of the tests, held against boto3 as it comes before anything is believed of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from demo.seaweedfs import SeaweedFS
from tests.servers.compatible import SERVICES, Service, serving


@pytest.fixture
def service(name: str, seaweedfs: SeaweedFS, certificate: tuple[Path, Path]) -> Iterator[Service]:
    service = SERVICES[name]()
    service.keys = (seaweedfs.customer.id,)
    with serving(service, int(seaweedfs.url.rpartition(":")[2]), certificate) as running:
        yield running


def put(service: Service, key: tuple[str, str], authority: Path, region: str, **options: Any) -> None:
    client = boto3.client(
        "s3", endpoint_url=f"https://127.0.0.1:{service.port}", region_name=region, verify=str(authority),
        aws_access_key_id=key[0], aws_secret_access_key=key[1],
        config=Config(retries={"total_max_attempts": 1}, proxies={}, s3={"addressing_style": "path"}, **options),
    )  # fmt: skip
    client.put_object(Bucket="results", Key="by-boto3", Body=b"x")
    client.delete_object(Bucket="results", Key="by-boto3")


PLAIN = {"request_checksum_calculation": "when_required"}


@pytest.mark.parametrize(
    ("name", "code"),
    [("Cloudflare R2", "Unauthorized"), ("Backblaze B2", "InvalidArgument"), ("Ceph", "XAmzContentSHA256Mismatch"),
     ("OSS", "InvalidArgument")],
)  # fmt: skip
def test_an_sdk_of_today_is_refused_for_what_it_adds(
    service: Service, seaweedfs: SeaweedFS, authority: Path, code: str
) -> None:
    region = service.region or "us-east-1"
    with pytest.raises(ClientError) as caught:
        put(service, seaweedfs.customer, authority, region)
    assert caught.value.response["Error"]["Code"] == code
    put(service, seaweedfs.customer, authority, region, **PLAIN)


@pytest.mark.parametrize("name", ["MinIO"])
def test_a_region_is_named_so_that_botocore_finds_it(service: Service, seaweedfs: SeaweedFS, authority: Path) -> None:
    put(service, seaweedfs.customer, authority, "us-east-1", **PLAIN)
    assert [request.region for request in service.requests][:2] == ["us-east-1", "eu-test-1"]


@pytest.mark.parametrize("name", ["DigitalOcean Spaces", "Cloudflare R2", "Backblaze B2", "Tencent COS"])
def test_a_signature_for_another_region_is_refused(service: Service, seaweedfs: SeaweedFS, authority: Path) -> None:
    with pytest.raises(ClientError):
        put(service, seaweedfs.customer, authority, "eu-elsewhere-1", **PLAIN)
    put(service, seaweedfs.customer, authority, service.region or "", **PLAIN)
