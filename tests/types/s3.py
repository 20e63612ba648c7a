"""Amazon S3 in the tests."""

from collections.abc import Iterator
from functools import partial

import pytest

from app.domain.faults import Fault
from app.domain.verification import Step
from tests.servers import aws as moto
from tests.types.base import REQUEST_ID, Backend, Body, Form, Row, Storage, Traffic, error_xml
from workers.storage.s3.faults import FAULTS

LOCATED = b"HTTP/1.1 403 Forbidden\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n"
"""How it says where a bucket is."""
DENIED = "Access Denied"
USER = "User: arn:aws:iam::123456789012:user/dropoff is not authorized to perform: "
PUT = f'{USER}s3:PutObject on resource: "arn:aws:s3:::my-bucket/in/x" '
DELETE = f'{USER}s3:DeleteObject on resource: "arn:aws:s3:::my-bucket/in/x" '


@pytest.fixture(scope="session")
def aws() -> Iterator[moto.Aws]:
    """Amazon S3."""
    with moto.aws() as running:
        yield running


def keys(pair: tuple[str, str]) -> Body:
    """The parameters for a key id and its secret."""
    return {"s3_access_key_id": pair[0], "s3_secret_access_key": pair[1]}


def backend(aws: moto.Aws) -> Backend:
    return Backend(
        right={"type": "s3", "s3_bucket_name": "results", **keys(aws.keys["full"])},
        changes={
            "wrong_secret": {"s3_secret_access_key": aws.keys["admin"][1]},
            "unknown_key": {"s3_access_key_id": "AKIANOBODYKNOWSTHIS0"},
            "missing_bucket": {"s3_bucket_name": "there-is-none"},
            "write_refused": keys(aws.keys["read-only"]),
            "delete_refused": keys(aws.keys["put-only"]),
            "versioned": {"s3_bucket_name": "versioned"},
            "retained": {"s3_bucket_name": "kept", **keys(aws.keys["admin"])},
            "no_versions": {"s3_bucket_name": "versioned", **keys(aws.keys["no-versions"])},
        },
        blames={
            "wrong_secret": "s3_secret_access_key",
            "unknown_key": "s3_access_key_id",
            "missing_bucket": "s3_bucket_name",
            "write_refused": "s3_path_prefix",
            "delete_refused": "s3_access_key_id",
        },
        objects=lambda: [name for bucket in moto.BUCKETS for name in aws.objects(bucket)],
        unfinished=lambda: len(aws.client().list_multipart_uploads(Bucket="results").get("Uploads", ())),
        content=lambda key: aws.client().get_object(Bucket="results", Key=key)["Body"].read(),
        secrets=tuple(text for key in aws.keys.values() for text in key),
        # The bucket's region is looked for first.
        verdicts={
            "missing_bucket": ("bucket_not_found", "locate"),
            "dead": ("egress_unavailable", "locate"),
            "silent": ("timeout", "locate"),
        },
    )


def form(row: Row) -> Form:
    headers = {"x-amz-request-id": REQUEST_ID, "x-amz-bucket-region": row.region}
    body = error_xml(
        Code=row.code, Message=row.message, Region=row.region, RequestId=REQUEST_ID, HostId="Uuag1LuByRx9e6"
    )
    return "application/xml", headers, body


F = Fault
_row = partial(Row, on="s3", form=form, table=FAULTS)

ROWS = (
    # Amazon S3. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    _row(F.ACCESS_KEY_UNKNOWN, 403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist."),
    _row(F.SECRET_MISMATCH, 403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
    _row(F.CREDENTIALS_EXPIRED, 400, "ExpiredToken", "The provided token has expired."),
    _row(F.CREDENTIALS_EXPIRED, 400, "InvalidToken", "The provided token is malformed or otherwise not valid."),
    _row(F.CREDENTIALS_EXPIRED, 400, "TokenRefreshRequired", "The provided token must be refreshed."),
    _row(F.ACCOUNT_SUSPENDED, 403, "AccountProblem", "There is a problem with your AWS account."),
    _row(F.ACCOUNT_SUSPENDED, 403, "AllAccessDisabled", "All access to this resource has been disabled."),
    _row(F.ACCOUNT_SUSPENDED, 403, "NotSignedUp", "Your account is not signed up for the Amazon S3 service."),
    _row(F.ACCOUNT_SUSPENDED, 403, "InvalidPayer", "All access to this object has been disabled."),
    _row(F.CLOCK_SKEW, 403, "RequestTimeTooSkewed", "The difference between the times is too large."),
    _row(F.BUCKET_NOT_FOUND, 404, "NoSuchBucket", "The specified bucket does not exist", by_status=True),
    _row(F.BUCKET_WRONG_REGION, 301, "PermanentRedirect", region="eu-central-1", told="eu-central-1"),
    _row(F.BUCKET_WRONG_REGION, 307, "TemporaryRedirect", region="eu-central-1", told="eu-central-1"),
    _row(F.BUCKET_WRONG_REGION, 307, "Redirect", region="eu-central-1", told="eu-central-1"),
    _row(F.BUCKET_WRONG_REGION, 400, "AuthorizationHeaderMalformed", region="eu-west-2", told="eu-west-2"),
    _row(F.BUCKET_WRONG_REGION, 400, "IllegalLocationConstraintException", "The af-south-1 location constraint …"),
    _row(F.WRITE_DENIED, 403, "AccessDenied", DENIED, by_status=True),
    _row(F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}because no identity-based policy allows the s3:PutObject "
        "action", told="no policy of the key's user allows it", by_status=True),
    _row(F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}because no resource-based policy allows the s3:PutObject "
        "action", told="the bucket's policy does not allow it", by_status=True),
    _row(F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}with an explicit deny in a resource-based policy",
        told="the bucket's policy denies it, perhaps by address or header", by_status=True),
    _row(F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}with an explicit deny in an identity-based policy",
        told="a policy of the key's user denies it", by_status=True),
    _row(F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}with an explicit deny in a service control policy",
        told="a service control policy of the organization denies it", by_status=True),
    _row(F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}with an explicit deny in a resource control policy",
        told="a resource control policy of the organization denies it", by_status=True),
    _row(F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}because no permissions boundary allows the s3:PutObject "
        "action", told="the permissions boundary of the key's user does not allow it", by_status=True),
    _row(F.DELETE_DENIED, 403, "AccessDenied", f"{DELETE}because no identity-based policy allows the "
        "s3:DeleteObject action", Step.DELETE, told="no policy of the key's user allows it", by_status=True),
    _row(F.ENCRYPTION_REQUIRED, 403, "AccessDenied", "The header x-amz-server-side-encryption is demanded."),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 403, "AccessDenied", f"{USER}kms:GenerateDataKey on resource: arn:aws:kms:"
        "eu-west-1:123456789012:key/1 because no identity-based policy allows the kms:GenerateDataKey action"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "KMS.DisabledException", "arn:aws:kms:eu-west-1:1:key/1 is disabled."),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "KMS.NotFoundException", "Key does not exist"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "KMS.KMSInvalidStateException", "The key is pending deletion."),
    _row(F.REQUEST_CONDITION_DENIED, 400, "AccessControlListNotSupported", "The bucket does not allow ACLs"),
    _row(F.REQUEST_CONDITION_DENIED, 400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is "
        "required for Put Object requests with Object Lock parameters"),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 403, "AccessDenied", f"{DENIED} because object protected by object lock.",
        Step.DELETE),
    _row(F.DELETE_DENIED, 403, "AccessDenied", "Mfa Authentication must be used for this request", Step.DELETE,
        by_status=True),
    _row(F.REQUESTER_PAYS, 403, "AccessDenied", "The bucket is requester pays."),
    _row(F.THROTTLED, 503, "SlowDown", "Please reduce your request rate.", by_status=True),
    _row(F.THROTTLED, 503, "ServiceUnavailable", "Service is unable to handle request.", by_status=True),
    _row(F.PROVIDER_UNAVAILABLE, 500, "InternalError", "We encountered an internal error.", by_status=True),
    _row(F.PROVIDER_UNAVAILABLE, 400, "RequestTimeout", "Your socket connection to the server was not read."),
    _row(F.PROTOCOL_UNSUPPORTED, 400, "InvalidRequest", "The authorization mechanism you have provided is not "
        "supported. Please use AWS4-HMAC-SHA256."),
    _row(F.PROTOCOL_UNSUPPORTED, 501, "NotImplemented", "A header you provided implies functionality that is not "
        "implemented."),
    _row(F.PROTOCOL_UNSUPPORTED, 411, "MissingContentLength", "You must provide the Content-Length HTTP header."),
    _row(F.PROVIDER_ERROR, 400, "MalformedXML", "The XML you provided was not well-formed", by_status=True),
    # Alibaba Cloud, Tencent Cloud and Volcengine, where the style is not for us to choose; else the other one is tried.
    _row(F.PROTOCOL_UNSUPPORTED, 403, "SecondLevelDomainForbidden", "The bucket you are attempting to access must "
        "be addressed using OSS third level domain."),
    _row(F.PROTOCOL_UNSUPPORTED, 403, "PathStyleDomainForbidden", "The bucket must be addressed using COS "
        "virtual-styled domain."),
    _row(F.PROTOCOL_UNSUPPORTED, 403, "InvalidPathAccess", "Forbidden path to access server."),  # Volcengine
)  # fmt: skip

HOSTILE = {
    "s3_bucket_name": [
        "..",
        "a/../b",
        "169.254.169.254",
        "a.b@127.0.0.1",
        "a#b",
        "a?b=c",
        "a%2fb",
        "a\r\nb",
        "arn:aws:s3:::b",
        "evil.com/x",
        "a:9000",
        "bücket",
        "xn--b",
        "a..b",
    ],
}  # fmt: skip

STORAGES = (
    Storage(
        name="s3",
        good={
            "type": "s3",
            "s3_access_key_id": "AKIAIOSFODNN7EXAMPLE",
            "s3_secret_access_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "s3_bucket_name": "my-bucket",
        },
        malformed=(
            ("s3_bucket_name", "arn:aws:s3:::my-bucket", "unsupported_bucket_type"),
            ("s3_bucket_name", "my-bucket--use1-az4--x-s3", "unsupported_bucket_type"),
            ("s3_bucket_name", "data--usw2-az1--xa-s3", "unsupported_bucket_type"),
            ("s3_bucket_name", "access-point-abc-s3alias", "unsupported_bucket_type"),
            ("s3_bucket_name", "My Bucket", "invalid_parameter"),
            ("s3_bucket_name", "_My_Bucket", "invalid_parameter"),
            ("s3_bucket_name", "192.168.0.1", "invalid_parameter"),
            ("s3_bucket_name", "a..b", "invalid_parameter"),
            ("s3_bucket_name", "xn--bucket", "invalid_parameter"),
            ("s3_bucket_name", "ab", "invalid_parameter"),
            ("s3_bucket_name", "a/b/c", "invalid_parameter"),
            ("s3_access_key_id", "ASIAIOSFODNN7EXAMPLE", "temporary_credentials_unsupported"),
            ("s3_access_key_id", "short", "invalid_parameter"),
            ("s3_secret_access_key", "", "invalid_parameter"),
            ("s3_secret_access_key", "x" * 1025, "invalid_parameter"),
        ),
        hostile=HOSTILE,
        planted={"type": "s3", "s3_bucket_name": "my-bucket", **keys(("SENTINELKEYID000", "SENTINEL-s3"))},
        brands=frozenset({"Amazon", "AWS"}),
        traffic=Traffic(
            hosts=("invoices-prod.s3.eu-west-1.amazonaws.com", "acme-results.s3.us-east-2.amazonaws.com"),
            weight=10,
            usual_ms=160,
        ),
        backends={"s3": lambda get: backend(get("aws"))},
        particulars=("versioned", "no_versions", "retained"),
        support=("wrong_secret", "SignatureDoesNotMatch", 403),
        settings=lambda get: {"s3_endpoint": get("aws").url},
        settings_at=lambda url: {"s3_endpoint": url},
        row=_row,
        rows=ROWS,
        locates=True,
        asks_first=True,
    ),
)
