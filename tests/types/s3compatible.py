"""S3-compatible storage in the tests."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.domain.faults import Fault
from app.domain.verification import Step
from demo.seaweedfs import MISSING, SeaweedFS
from tests.servers import compatible
from tests.stack import s3compatible
from tests.types.base import Backend, Row, Storage, Traffic
from tests.types.s3 import PUT, form, keys
from workers.storage.s3.faults import FAULTS


@pytest.fixture(scope="session")
def seaweedfs(certificate: tuple[Path, Path]) -> Iterator[SeaweedFS]:
    """An S3-compatible store, over http and over TLS."""
    buckets = ("results",), ("versioned",)
    with SeaweedFS(*buckets, certificate=certificate, domains=compatible.HOSTS, locked=("kept",)) as running:
        yield running


@pytest.fixture(scope="session")
def good(seaweedfs: SeaweedFS) -> dict[str, Any]:
    """A body that is accepted."""
    return s3compatible(seaweedfs.url, *seaweedfs.customer)


def everything(seaweedfs: SeaweedFS) -> list[str]:
    """All that is in its buckets."""
    return [name for bucket in seaweedfs.buckets for name in seaweedfs.objects(bucket)]


def secrets(seaweedfs: SeaweedFS) -> tuple[str, ...]:
    """All its keys and secrets."""
    pairs = (seaweedfs.admin, seaweedfs.customer, seaweedfs.put_only, seaweedfs.reader)
    return tuple(text for pair in pairs for text in pair)


def backend(seaweedfs: SeaweedFS, url: str) -> Backend:
    return Backend(
        right={
            "type": "s3compatible",
            "s3_endpoint": url,
            "s3_bucket_name": "results",
            "s3_path_prefix": "deep/%DATE%/in",
            **keys(seaweedfs.customer),
        },
        changes={
            "wrong_secret": {"s3_secret_access_key": seaweedfs.admin.secret},
            "unknown_key": {"s3_access_key_id": "AKIANOBODYKNOWSTHIS0"},
            "missing_bucket": {"s3_bucket_name": MISSING},
            "write_refused": keys(seaweedfs.reader),
            "delete_refused": keys(seaweedfs.put_only),
            "versioned": {"s3_bucket_name": "versioned"},
            "retained": {"s3_bucket_name": "kept"},
        },
        blames={
            "wrong_secret": "s3_secret_access_key",
            "unknown_key": "s3_access_key_id",
            "missing_bucket": "s3_bucket_name",
            "write_refused": "s3_path_prefix",
            "delete_refused": "s3_access_key_id",
        },
        objects=lambda: everything(seaweedfs),
        content=lambda key: seaweedfs.content("results", key),
        unfinished=lambda: seaweedfs.unfinished("results"),
        secrets=secrets(seaweedfs),
        endpoint="s3_endpoint",
    )


F = Fault
_row = partial(Row, on="s3compatible", form=form, table=FAULTS)

ROWS = (
    # S3-compatible services, by what each says otherwise than Amazon.
    _row(F.ACCESS_KEY_UNKNOWN, 401, "Unauthorized", "Unauthorized", by_status=True),  # Cloudflare R2
    _row(F.ACCESS_KEY_UNKNOWN, 403, "Unauthorized", "Unauthorized"),
    _row(F.ACCESS_KEY_UNKNOWN, 403, "InvalidAccessKeyId", "Malformed Access Key Id"),  # Backblaze B2
    _row(F.ACCESS_KEY_UNKNOWN, 403, "InvalidClientTokenId", "The security token is invalid."),
    _row(F.SECRET_MISMATCH, 403, "SignatureDoesNotMatch", "Signature validation failed"),
    _row(F.CREDENTIALS_EXPIRED, 400, "ExpiredRequest", "Request has expired"),  # Cloudflare R2
    _row(F.CLOCK_SKEW, 403, "RequestTimeTooSkewed", "The difference is too large."),
    _row(F.BUCKET_NOT_FOUND, 404, "NoSuchBucket", "No such bucket.", by_status=True),
    # The region would be the word of a service that is not trusted.
    _row(F.BUCKET_WRONG_REGION, 400, "AuthorizationHeaderMalformed", region="eu-west-2"),
    _row(F.BUCKET_WRONG_REGION, 301, "PermanentRedirect", region="eu-west-2"),
    _row(F.BUCKET_WRONG_REGION, 403, "SignatureDoesNotMatch", "The secret key required to complete authentication "
        "could not be found. The region must be specified if this is not the home region for the tenancy."),  # Oracle
    _row(F.CUSTOM_DOMAIN_REQUIRED, 400, "PublicEndpointForbidden", "Not allowed using the OSS public "
        "endpoint, please use CNAME instead."),  # Alibaba Cloud
    _row(F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}because no identity-based policy allows it",
        by_status=True),
    _row(F.DELETE_DENIED, 403, "AccessDenied", "not entitled", Step.DELETE, by_status=True),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 400, "InvalidRequest", "Object is WORM protected and cannot be "
        "overwritten", Step.DELETE),  # MinIO
    _row(F.REQUEST_CONDITION_DENIED, 400, "InvalidRequest", "Object is WORM protected"),
    _row(F.QUOTA_EXCEEDED, 403, "QuotaExceeded"),  # Ceph
    _row(F.QUOTA_EXCEEDED, 507, "XMinioStorageFull", "Storage backend has reached its minimum free "
        "drive threshold."),
    _row(F.QUOTA_EXCEEDED, 403, "AccessDenied", "Transaction cap exceeded, see the Caps & Alerts page"),
    _row(F.ACCOUNT_SUSPENDED, 400, "BucketAccountInactive", "The account of the bucket is inactive."),  # Wasabi
    _row(F.QUOTA_EXCEEDED, 400, "XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded"),
    _row(F.QUOTA_EXCEEDED, 400, "EntityTooLarge", "Upload exceeds quota."),  # Swift
    _row(F.DELETE_BLOCKED_BY_RETENTION, 409, "ObjectLockedByBucketPolicy", step=Step.DELETE),  # Cloudflare R2
    _row(F.DELETE_BLOCKED_BY_RETENTION, 403, "ObjectLockedByBucketPolicy", step=Step.DELETE),
    _row(F.ACCESS_KEY_UNKNOWN, 400, "InvalidArgument", "Credential access key has length 20, should be 32"),  # R2
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 501, "NotImplemented", "Server side encryption specified but KMS is not "
        "configured"),  # MinIO
    _row(F.NOT_A_STORAGE_ENDPOINT, 403, "AccessDenied", "S3 API Request made to Console port. S3 Requests should be "
        "sent to API port."),  # MinIO
    _row(F.DELETE_DENIED, 405, "MethodNotAllowed", "Not allowed.", Step.DELETE, by_status=True),
    _row(F.ACCOUNT_SUSPENDED, 403, "DeregisterUserId", "The user has been deregistered."),  # Huawei
    _row(F.ACCOUNT_SUSPENDED, 403, "FrozenUserId", "The user has been frozen."),
    _row(F.ACCOUNT_SUSPENDED, 403, "InArrearOrInsufficientBalance", "The balance is not enough."),
    _row(F.WRITE_DENIED, 403, "AccessForbidden", "Insufficient permission.", by_status=True),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 403, "AccessDenied", "The object you specified is immutable.", Step.DELETE),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 403, "XComplianceConflict", step=Step.DELETE),  # StorageGRID
    _row(F.PROTOCOL_UNSUPPORTED, 501, "XNotImplemented"),
    _row(F.NOT_A_STORAGE_ENDPOINT, 404, "TenantNotFound", "The specified tenant does not exist."),  # Supabase
    _row(F.THROTTLED, 429, "TooManyRequests", by_status=True),
    _row(F.THROTTLED, 503, "SlowDown", "Resource requested is unreadable", by_status=True),
    _row(F.PROVIDER_UNAVAILABLE, 500, "InternalError", by_status=True),
    _row(F.PROTOCOL_UNSUPPORTED, 400, "XAmzContentSHA256Mismatch"),  # Ceph
    _row(F.BUCKET_WRONG_REGION, 400, "InvalidRegion", "Region does not match."),  # MinIO
    _row(F.BUCKET_WRONG_REGION, 400, "InvalidRegionName", "The region name is not valid."),  # Cloudflare
    _row(F.PROTOCOL_UNSUPPORTED, 400, "InvalidArgument", "aws-chunked encoding is not supported with "
        "the specified x-amz-content-sha256 value."),  # Alibaba Cloud
    _row(F.PROTOCOL_UNSUPPORTED, 400, "InvalidArgument", "Unsupported header "
        "'x-amz-sdk-checksum-algorithm' received for this API call."),  # Backblaze B2
    _row(F.PROTOCOL_UNSUPPORTED, 400, "BadRequest", "trailing checksum is not supported"),  # Scality
    _row(F.PROTOCOL_UNSUPPORTED, 411, "MissingContentLength"),  # Storj
    _row(F.NOT_A_STORAGE_ENDPOINT, 405, "", by_status=True),
    _row(F.NOT_A_STORAGE_ENDPOINT, 501, "", by_status=True),
    _row(F.PROVIDER_ERROR, 400, "XMinioInvalidObjectName", by_status=True),
)  # fmt: skip

HOSTILE = {
    "s3_bucket_name": [
        "..",
        "../..",
        "a/b",
        "a@b",
        "a?b",
        "a#b",
        "a\x00b",
        "a%2e%2e",
        "b\r\nHost: x",
        "‥bc",
        "a..b",
    ],
    "s3_region": ["evil.com/#", "us-east-1.evil.com", "us east 1", "../x", "eu\r\nX: y", "zh_CN"],
}  # fmt: skip

STORAGES = (
    Storage(
        name="s3compatible",
        provider="s3",
        good={
            "type": "s3compatible",
            "s3_access_key_id": "minio",
            "s3_secret_access_key": "minio123",
            "s3_bucket_name": "My_Bucket",
            "s3_endpoint": "https://ams3.digitaloceanspaces.com",
        },
        malformed=(
            ("s3_bucket_name", "..", "invalid_parameter"),
            ("s3_bucket_name", "a/b", "invalid_parameter"),
            ("s3_access_key_id", "a/b", "invalid_parameter"),
            ("s3_region", "evil.com/#", "invalid_parameter"),
            ("s3_region", "123", "invalid_parameter"),
            ("s3_region", "eu-", "invalid_parameter"),
            ("s3_region", "fips-us-east-1", "invalid_parameter"),
            ("s3_region", "us-gov-west-1-fips", "invalid_parameter"),
            ("s3_region", "aws-global", "invalid_parameter"),
            ("s3_bucket_name", "data--usw2-az1--x-s3", "unsupported_bucket_type"),
            ("s3_bucket_name", "data--usw2-az1--xa-s3", "unsupported_bucket_type"),
            ("s3_bucket_name", "data-o01a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f9a0b1--op-s3", "unsupported_bucket_type"),
        ),
        hostile=HOSTILE,
        planted={
            "type": "s3compatible",
            "s3_bucket_name": "my-bucket",
            "s3_endpoint": "https://s3.example.com",
            **keys(("SENTINELKEYID000", "SENTINEL-s3")),
        },
        brands=frozenset(),
        traffic=Traffic(hosts=("s3.eu-central-2.wasabisys.com", "minio.northwind.example"), weight=5, usual_ms=90),
        backends={
            "s3compatible": lambda get: backend(get("seaweedfs"), get("seaweedfs").url),
            "s3compatible over TLS": lambda get: backend(get("seaweedfs"), get("seaweedfs").https_url),
        },
        particulars=("versioned", "retained"),
        endpoint="s3_endpoint",
        row=_row,
        rows=ROWS,
        absent=(404, "NoSuchVersion", ""),
        repeats_nothing=True,
    ),
)
