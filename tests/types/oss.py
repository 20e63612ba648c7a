"""Alibaba Cloud OSS in the tests."""

from collections.abc import Iterator
from functools import partial

import pytest

from app.domain.faults import Fault
from app.domain.verification import Step
from tests.servers import oss as alibaba
from tests.servers.oss import DELETE, GET, LIST, PUT, Identity, Oss, OssBucket
from tests.types.base import REQUEST_ID, Backend, Form, Row, Storage, Traffic, error_xml
from workers.storage.oss import FAULTS

OSS_SECRET = "the-secret-of-all-the-keys-here"
"""Of each key of the OSS double."""


@pytest.fixture(scope="session")
def oss() -> Iterator[Oss]:
    """Alibaba Cloud OSS."""
    with alibaba.oss() as running:
        running.identities = {
            "LTAI5tOwner000000000": Identity(OSS_SECRET),
            "LTAI5tDisabled000000": Identity(OSS_SECRET, enabled=False),
            "LTAI5tPutOnly0000000": Identity(OSS_SECRET, (PUT,)),
            "LTAI5tReadOnly000000": Identity(OSS_SECRET, (GET, LIST)),
            "LTAI5tNoVersions0000": Identity(OSS_SECRET, (PUT, DELETE)),
        }
        running.buckets = {
            "results": OssBucket(),
            "versioned": OssBucket(versioned=True),
            "worm": OssBucket(worm=True),
            "elsewhere": OssBucket(region="eu-central-1"),
        }
        yield running


def backend(oss: Oss) -> Backend:
    return Backend(
        right={
            "type": "oss",
            "oss_access_key": "LTAI5tOwner000000000",
            "oss_secret_key": OSS_SECRET,
            "oss_bucket_name": "results",
            "oss_region_id": "oss-cn-hangzhou",
            "oss_path_prefix": "%COLLECTION_NAME%/x",
        },
        changes={
            "wrong_secret": {"oss_secret_key": "another-secret"},
            "unknown_key": {"oss_access_key": "LTAI5tNobody00000000"},
            "missing_bucket": {"oss_bucket_name": "there-is-none"},
            "write_refused": {"oss_access_key": "LTAI5tReadOnly000000"},
            "delete_refused": {"oss_access_key": "LTAI5tPutOnly0000000"},
            "versioned": {"oss_bucket_name": "versioned"},
            "no_versions": {"oss_bucket_name": "versioned", "oss_access_key": "LTAI5tNoVersions0000"},
            "retained": {"oss_bucket_name": "worm"},
        },
        blames={
            "wrong_secret": "oss_secret_key",
            "unknown_key": "oss_access_key",
            "missing_bucket": "oss_bucket_name",
            "write_refused": "oss_path_prefix",
            "delete_refused": "oss_access_key",
        },
        unfinished=lambda: len(oss.buckets["results"].uploads),
        content=lambda key: oss.buckets["results"].objects[key][-1][1] or b"",
        objects=lambda: [name for bucket in oss.buckets for name in oss.objects(bucket)],
        secrets=(OSS_SECRET, *oss.identities),
        verdicts={"dead": ("egress_unavailable", "connect")},
    )


def form(row: Row) -> Form:
    headers = {"x-oss-request-id": REQUEST_ID, "Date": "Wed, 25 Nov 2026 12:00:00 GMT", "x-oss-ec": row.finer}
    host = "my-bucket.oss-cn-hangzhou.aliyuncs.com"
    return "application/xml", headers, error_xml(
        Code=row.code, Message=row.message, RequestId=REQUEST_ID, HostId=host, EC=row.finer
    )  # fmt: skip


F = Fault
_row = partial(Row, on="oss", form=form, table=FAULTS)

ROWS = (
    # Alibaba Cloud OSS. https://www.alibabacloud.com/help/en/oss/support/http-status-code-403
    _row(F.ACCESS_KEY_UNKNOWN, 403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in "
        "our records.", finer="0002-00000902"),
    _row(F.ACCESS_KEY_DISABLED, 403, "InvalidAccessKeyId", "The OSS Access Key Id is disabled.",
        finer="0002-00000903"),
    _row(F.ACCESS_KEY_DISABLED, 403, "InvalidAccessKeyId", "The OSS Access Key Id is disabled.",
        finer="0002-00000904"),
    _row(F.SECRET_MISMATCH, 403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
    _row(F.CREDENTIALS_EXPIRED, 403, "SecurityTokenExpired", "The security token you provided has expired."),
    _row(F.CREDENTIALS_EXPIRED, 403, "InvalidSecurityToken", "The security token you provided is invalid."),
    _row(F.ACCOUNT_SUSPENDED, 403, "UserDisable", "UserDisable", finer="0003-00000801"),
    _row(F.ACCOUNT_SUSPENDED, 403, "InDebt", "Current user is indebted"),
    _row(F.ACCOUNT_SUSPENDED, 403, "InDebtOverdue", "Current user is indebted Overdue"),
    _row(F.ACCOUNT_SUSPENDED, 403, "BucketDisable", "BucketDisable"),
    _row(F.ACCOUNT_SUSPENDED, 403, "AbnormalBucketOwnerStatus", "The status of the bucket owner is abnormal"),
    _row(F.ACCOUNT_SUSPENDED, 403, "UbsmsInvalidBid", "The account is not active."),
    _row(F.CLOCK_SKEW, 403, "RequestTimeTooSkewed", "The difference is too large."),
    _row(F.BUCKET_NOT_FOUND, 404, "NoSuchBucket", "The specified bucket does not exist.", by_status=True),
    _row(F.BUCKET_WRONG_REGION, 403, "AccessDenied", "The bucket you are attempting to access must be addressed "
        "using the specified endpoint. Please send all future requests to this endpoint."),
    _row(F.BUCKET_WRONG_REGION, 403, "AccessDenied", "Elsewhere.", finer="0003-00001403"),
    _row(F.BUCKET_WRONG_REGION, 400, "InvalidArgument", "The signing region in credential is invalid."),
    _row(F.BUCKET_WRONG_REGION, 400, "InvalidArgument", "Invalid.", finer="0002-00000226"),
    _row(F.BUCKET_WRONG_REGION, 400, "InvalidArgument", "Invalid.", finer="0002-00000228"),
    _row(F.CUSTOM_DOMAIN_REQUIRED, 400, "PublicEndpointForbidden", "Not allowed using the OSS public endpoint, "
        "please use CNAME instead.", finer="0048-00000401"),
    _row(F.WRITE_DENIED, 403, "AccessDenied", "You have no right to access this object because of bucket acl.",
        finer="0003-00000001", by_status=True),
    _row(F.WRITE_DENIED, 403, "AccessDenied", "Access denied by bucket policy.", finer="0003-00000201",
        by_status=True),
    _row(F.DELETE_DENIED, 403, "AccessDenied", "You have no right to access this object.", Step.DELETE,
        by_status=True),
    _row(F.ENCRYPTION_REQUIRED, 403, "AccessDenied", "x-oss-server-side-encryption is demanded by policy."),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 403, "AccessDenied", "This request is forbidden by kms."),
    # Of these and of the retention's, the finer code is documented and the coarse one is not.
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 409, "KmsKeyDisabled", finer="0005-00000214"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 409, "KmsKeyPendingDeletion", finer="0005-00000215"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 403, "KmsNotActivated", finer="0005-00000218"),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 409, "FileImmutable", "The object is immutable.", Step.DELETE),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 409, "Immutable", step=Step.DELETE, finer="0026-00000005"),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 409, "Immutable", step=Step.DELETE, finer="0026-00000202"),
    _row(F.REQUESTER_PAYS, 403, "AccessDenied", "The bucket is paid by the requester."),
    _row(F.THROTTLED, 503, "QpsLimitExceeded", by_status=True),
    _row(F.THROTTLED, 503, "TotalQpsLimitExceeded", by_status=True),
    _row(F.THROTTLED, 503, "DownloadTrafficRateLimitExceeded", by_status=True),
    _row(F.THROTTLED, 503, "UploadTrafficRateLimitExceeded", by_status=True),
    _row(F.PROVIDER_UNAVAILABLE, 500, "InternalError", "Please contact the server administrator", by_status=True),
    _row(F.PROVIDER_UNAVAILABLE, 400, "RequestTimeout", "Request has timed out."),
    _row(F.PROTOCOL_UNSUPPORTED, 400, "SignatureVersionNotSupported"),
    _row(F.PROTOCOL_UNSUPPORTED, 501, "NotImplemented", "A header you provided implies a function that is not."),
    _row(F.PROVIDER_ERROR, 400, "InvalidDigest", "The Content-MD5 you specified is not valid.", by_status=True),
)  # fmt: skip

HOSTILE = {
    "oss_region_id": [
        "oss-cn-hangzhou.evil.com",
        "oss-cn-hangzhou@127.0.0.1",
        "oss-cn-hangzhou:9000",
        "oss-cn-hangzhou/",
        "oss-cn-hangzhou-internal",
        "oss-accelerate",
        "../oss-cn-a",
        "oss-cn-{x}",
        "127.0.0.1",
        "oss-cn-hangzhou#",
    ],
    "oss_bucket_name": ["..", "a.b", "a/b", "a@b", "127.0.0.1", "b:9000", "évil"],
}  # fmt: skip

STORAGES = (
    Storage(
        name="oss",
        good={
            "type": "oss",
            "oss_access_key": "LTAI5tExampleExample1234",
            "oss_secret_key": "wJalrXUtnFEMI",
            "oss_bucket_name": "my-bucket",
            "oss_region_id": "oss-cn-hangzhou",
        },
        malformed=(
            ("oss_access_key", "STS.NTexample1234567890", "temporary_credentials_unsupported"),
            ("oss_bucket_name", "a.b", "invalid_parameter"),
            ("oss_region_id", "oss-cn-hangzhou-internal", "invalid_parameter"),
            ("oss_region_id", "oss-accelerate", "invalid_parameter"),
            ("oss_region_id", "oss-cn-hangzhou.evil.com", "invalid_parameter"),
        ),
        hostile=HOSTILE,
        planted={
            "type": "oss",
            "oss_bucket_name": "my-bucket",
            "oss_region_id": "oss-cn-hangzhou",
            "oss_access_key": "LTAISENTINELoss1",
            "oss_secret_key": "SENTINEL-oss",
        },
        brands=frozenset({"Alibaba", "Aliyun", "OSS"}),
        traffic=Traffic(hosts=("exports.oss-cn-hangzhou.aliyuncs.com",), weight=1, usual_ms=420),
        backends={"oss": lambda get: backend(get("oss"))},
        particulars=("versioned", "no_versions", "retained"),
        support=("wrong_secret", "SignatureDoesNotMatch", 403),
        settings=lambda get: {"oss_endpoint": get("oss").url},
        settings_at=lambda url: {"oss_endpoint": url},
        row=_row,
        rows=ROWS,
        retained=("FileImmutable", ""),
    ),
)
