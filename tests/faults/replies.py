"""What each provider answers when it refuses, and the fault that a customer is told for it; one row a signal.

The bodies are made of the elements that the providers document, with their own codes and short texts.
`python -m tests.faults.replies` counts what of the vocabulary is reached.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from app.domain.errors import Fault
from app.domain.verification import Step
from tests.faults import test_compatible, test_hosts, test_tasks
from tests.servers.odd import STORED
from tests.unit import test_specs
from workers.providers import azure, gcs, oss, s3
from workers.providers.base import FaultTable, Reply

REQUEST_ID = "4442587FB7D0A2F9"
DENIED = "Access Denied"
USER = "User: arn:aws:iam::123456789012:user/dropoff is not authorized to perform: "
PUT = f'{USER}s3:PutObject on resource: "arn:aws:s3:::my-bucket/in/x" '
DELETE = f'{USER}s3:DeleteObject on resource: "arn:aws:s3:::my-bucket/in/x" '
AUTHENTICATION = "Server failed to authenticate the request."


@dataclass(frozen=True)
class Row:
    """One refusal of one provider. `on` is a name of BODIES, `finer` and `region` what some send beside the code.

    `told` is the detail that the customer reads. `by_status` says that the status alone would be the same fault, and
    `at` which of two hosts answers, where Google's issuer of tokens may be meant.
    """

    on: str
    fault: Fault
    status: int
    code: str
    message: str = ""
    step: Step = Step.UPLOAD
    finer: str = ""
    region: str = ""
    told: str = ""
    by_status: bool = False
    at: str = ""

    def __str__(self) -> str:
        return f"{self.on}-{self.step}-{self.status}-{self.code}-{self.fault}"

    @property
    def table(self) -> FaultTable:
        """The table that has this signal."""
        return gcs.TOKEN_FAULTS if self.at == "token" else TABLES[self.on]

    @property
    def reply(self) -> Reply:
        """What the provider's file is to make of it."""
        return Reply(self.status, self.code, self.message, finer=self.finer)

    @property
    def answer(self) -> bytes:
        """The whole HTTP answer."""
        kind, headers, body = FORMS["token" if self.at == "token" else self.on](self)
        lines = [f"HTTP/1.1 {self.status} Refused", f"Content-Type: {kind}", f"Content-Length: {len(body.encode())}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


Form = tuple[str, dict[str, str], str]
"""A body's type, the headers that come with it, the body."""


def _xml(**elements: str) -> str:
    inner = "".join(f"<{name}>{escape(text, quote=False)}</{name}>" for name, text in elements.items() if text)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'


def _amazon(row: Row) -> Form:
    headers = {"x-amz-request-id": REQUEST_ID, "x-amz-bucket-region": row.region}
    body = _xml(Code=row.code, Message=row.message, Region=row.region, RequestId=REQUEST_ID, HostId="Uuag1LuByRx9e6")
    return "application/xml", headers, body


def _google_xml(row: Row) -> Form:
    body = _xml(Code=row.code, Message="Refused.", Details=row.message)
    return "application/xml; charset=UTF-8", {"X-GUploader-UploadID": REQUEST_ID}, body


def _google_json(row: Row) -> Form:
    error: dict[str, object] = {"code": row.status, "message": row.message}
    if row.code.isupper():
        error["status"] = row.code
    else:
        error["errors"] = [{"message": row.message, "domain": "global", "reason": row.code}]
    headers = {"X-GUploader-UploadID": REQUEST_ID}
    return "application/json; charset=UTF-8", headers, json.dumps({"error": error})


def _google_token(row: Row) -> Form:
    return "application/json; charset=utf-8", {}, json.dumps({"error": row.code, "error_description": row.message})


def _microsoft(row: Row) -> Form:
    headers = {"x-ms-request-id": REQUEST_ID, "x-ms-error-code": row.code, "x-ms-version": "2025-11-05"}
    text = f"{AUTHENTICATION}\nRequestId:{REQUEST_ID}\nTime:2026-11-25T12:00:00.0000000Z"
    return "application/xml", headers, _xml(Code=row.code, Message=text, AuthenticationErrorDetail=row.message)


def _alibaba(row: Row) -> Form:
    headers = {"x-oss-request-id": REQUEST_ID, "Date": "Wed, 25 Nov 2026 12:00:00 GMT", "x-oss-ec": row.finer}
    host = "my-bucket.oss-cn-hangzhou.aliyuncs.com"
    return "application/xml", headers, _xml(
        Code=row.code, Message=row.message, RequestId=REQUEST_ID, HostId=host, EC=row.finer
    )  # fmt: skip


FORMS: dict[str, Callable[[Row], Form]] = {
    "s3": _amazon,
    "s3compatible": _amazon,
    "gcs": _google_xml,
    "gcs by service account": _google_json,
    "token": _google_token,
    "azure": _microsoft,
    "oss": _alibaba,
}
TABLES = {
    "s3": s3.FAULTS,
    "s3compatible": s3.FAULTS,
    "gcs": s3.FAULTS,
    "gcs by service account": gcs.FAULTS,
    "azure": azure.FAULTS,
    "oss": oss.FAULTS,
}
EVERY_TABLE = {"S3": s3.FAULTS, "GCS": gcs.FAULTS, "token": gcs.TOKEN_FAULTS, "Azure": azure.FAULTS, "OSS": oss.FAULTS}

_HEAD = "HTTP/1.1 {} Done\r\n{}Content-Length: {}\r\n\r\n{}"
_TAKEN = json.dumps({"etag": "CJ=", "generation": "17", "name": "x"})
TOKEN = _HEAD.format(
    200,
    "Content-Type: application/json\r\n",
    71,
    '{"access_token":"ya29.token","expires_in":3600,"token_type":"Bearer"}  ',
).encode()
STORED_BY = {
    "s3": STORED,
    "s3compatible": STORED,
    "gcs": STORED,
    "gcs by service account": _HEAD.format(200, "Content-Type: application/json\r\n", len(_TAKEN), _TAKEN).encode(),
    "azure": b'HTTP/1.1 201 Created\r\nETag: "0x8D"\r\nContent-Length: 0\r\n\r\n',
    "oss": STORED,
}
"""How each says that it has taken the test file."""
LOCATED = b"HTTP/1.1 403 Forbidden\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n"
DELETED = b"HTTP/1.1 204 No Content\r\n\r\n"
DELETED_BY = dict.fromkeys(STORED_BY, DELETED) | {"azure": b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"}
"""How each says that it has deleted it."""

F = Fault
ROWS: tuple[Row, ...] = (
    # Amazon S3. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    Row("s3", F.ACCESS_KEY_UNKNOWN, 403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist."),
    Row("s3", F.SECRET_MISMATCH, 403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
    Row("s3", F.CREDENTIALS_EXPIRED, 400, "ExpiredToken", "The provided token has expired."),
    Row("s3", F.CREDENTIALS_EXPIRED, 400, "InvalidToken", "The provided token is malformed or otherwise not valid."),
    Row("s3", F.CREDENTIALS_EXPIRED, 400, "TokenRefreshRequired", "The provided token must be refreshed."),
    Row("s3", F.ACCOUNT_SUSPENDED, 403, "AccountProblem", "There is a problem with your AWS account."),
    Row("s3", F.ACCOUNT_SUSPENDED, 403, "AllAccessDisabled", "All access to this resource has been disabled."),
    Row("s3", F.ACCOUNT_SUSPENDED, 403, "NotSignedUp", "Your account is not signed up for the Amazon S3 service."),
    Row("s3", F.ACCOUNT_SUSPENDED, 403, "InvalidPayer", "All access to this object has been disabled."),
    Row("s3", F.CLOCK_SKEW, 403, "RequestTimeTooSkewed", "The difference between the times is too large."),
    Row("s3", F.BUCKET_NOT_FOUND, 404, "NoSuchBucket", "The specified bucket does not exist", by_status=True),
    Row("s3", F.BUCKET_WRONG_REGION, 301, "PermanentRedirect", region="eu-central-1", told="eu-central-1"),
    Row("s3", F.BUCKET_WRONG_REGION, 307, "TemporaryRedirect", region="eu-central-1", told="eu-central-1"),
    Row("s3", F.BUCKET_WRONG_REGION, 307, "Redirect", region="eu-central-1", told="eu-central-1"),
    Row("s3", F.BUCKET_WRONG_REGION, 400, "AuthorizationHeaderMalformed", region="eu-west-2", told="eu-west-2"),
    Row("s3", F.BUCKET_WRONG_REGION, 400, "IllegalLocationConstraintException", "The af-south-1 location constraint …"),
    Row("s3", F.WRITE_DENIED, 403, "AccessDenied", DENIED, by_status=True),
    Row("s3", F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}because no identity-based policy allows the s3:PutObject "
        "action", told="no policy of the key's user allows it", by_status=True),
    Row("s3", F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}because no resource-based policy allows the s3:PutObject "
        "action", told="the bucket's policy does not allow it", by_status=True),
    Row("s3", F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}with an explicit deny in a resource-based policy",
        told="the bucket's policy denies it, perhaps by address or header", by_status=True),
    Row("s3", F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}with an explicit deny in an identity-based policy",
        told="a policy of the key's user denies it", by_status=True),
    Row("s3", F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}with an explicit deny in a service control policy",
        told="a service control policy of the organization denies it", by_status=True),
    Row("s3", F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}with an explicit deny in a resource control policy",
        told="a resource control policy of the organization denies it", by_status=True),
    Row("s3", F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}because no permissions boundary allows the s3:PutObject "
        "action", told="the permissions boundary of the key's user does not allow it", by_status=True),
    Row("s3", F.DELETE_DENIED, 403, "AccessDenied", f"{DELETE}because no identity-based policy allows the "
        "s3:DeleteObject action", Step.DELETE, told="no policy of the key's user allows it", by_status=True),
    Row("s3", F.ENCRYPTION_REQUIRED, 403, "AccessDenied", "The header x-amz-server-side-encryption is demanded."),
    Row("s3", F.ENCRYPTION_KEY_UNAVAILABLE, 403, "AccessDenied", f"{USER}kms:GenerateDataKey on resource: arn:aws:kms:"
        "eu-west-1:123456789012:key/1 because no identity-based policy allows the kms:GenerateDataKey action"),
    Row("s3", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "KMS.DisabledException", "arn:aws:kms:eu-west-1:1:key/1 is disabled."),
    Row("s3", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "KMS.NotFoundException", "Key does not exist"),
    Row("s3", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "KMS.KMSInvalidStateException", "The key is pending deletion."),
    Row("s3", F.REQUEST_CONDITION_DENIED, 400, "AccessControlListNotSupported", "The bucket does not allow ACLs"),
    Row("s3", F.REQUEST_CONDITION_DENIED, 400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is "
        "required for Put Object requests with Object Lock parameters"),
    Row("s3", F.DELETE_BLOCKED_BY_RETENTION, 403, "AccessDenied", f"{DENIED} because object protected by object lock.",
        Step.DELETE),
    Row("s3", F.DELETE_DENIED, 403, "AccessDenied", "Mfa Authentication must be used for this request", Step.DELETE,
        by_status=True),
    Row("s3", F.REQUESTER_PAYS, 403, "AccessDenied", "The bucket is requester pays."),
    Row("s3", F.THROTTLED, 503, "SlowDown", "Please reduce your request rate.", by_status=True),
    Row("s3", F.THROTTLED, 503, "ServiceUnavailable", "Service is unable to handle request.", by_status=True),
    Row("s3", F.PROVIDER_UNAVAILABLE, 500, "InternalError", "We encountered an internal error.", by_status=True),
    Row("s3", F.PROVIDER_UNAVAILABLE, 400, "RequestTimeout", "Your socket connection to the server was not read."),
    Row("s3", F.PROTOCOL_UNSUPPORTED, 400, "InvalidRequest", "The authorization mechanism you have provided is not "
        "supported. Please use AWS4-HMAC-SHA256."),
    Row("s3", F.PROTOCOL_UNSUPPORTED, 501, "NotImplemented", "A header you provided implies functionality that is not "
        "implemented."),
    Row("s3", F.PROTOCOL_UNSUPPORTED, 411, "MissingContentLength", "You must provide the Content-Length HTTP header."),
    Row("s3", F.PROVIDER_ERROR, 400, "MalformedXML", "The XML you provided was not well-formed", by_status=True),
    # S3-compatible services, by what each says otherwise than Amazon.
    Row("s3compatible", F.ACCESS_KEY_UNKNOWN, 401, "Unauthorized", "Unauthorized", by_status=True),  # Cloudflare R2
    Row("s3compatible", F.ACCESS_KEY_UNKNOWN, 403, "Unauthorized", "Unauthorized"),
    Row("s3compatible", F.ACCESS_KEY_UNKNOWN, 403, "InvalidAccessKeyId", "Malformed Access Key Id"),  # Backblaze B2
    Row("s3compatible", F.ACCESS_KEY_UNKNOWN, 403, "InvalidClientTokenId", "The security token is invalid."),
    Row("s3compatible", F.SECRET_MISMATCH, 403, "SignatureDoesNotMatch", "Signature validation failed"),
    Row("s3compatible", F.CREDENTIALS_EXPIRED, 400, "ExpiredRequest", "Request has expired"),  # Cloudflare R2
    Row("s3compatible", F.CLOCK_SKEW, 403, "RequestTimeTooSkewed", "The difference is too large."),
    Row("s3compatible", F.BUCKET_NOT_FOUND, 404, "NoSuchBucket", "No such bucket.", by_status=True),
    # The region would be a stranger's word.
    Row("s3compatible", F.BUCKET_WRONG_REGION, 400, "AuthorizationHeaderMalformed", region="eu-west-2"),
    Row("s3compatible", F.BUCKET_WRONG_REGION, 301, "PermanentRedirect", region="eu-west-2"),
    Row("s3compatible", F.CUSTOM_DOMAIN_REQUIRED, 400, "PublicEndpointForbidden", "Not allowed using the OSS public "
        "endpoint, please use CNAME instead."),  # Alibaba Cloud
    Row("s3compatible", F.WRITE_DENIED, 403, "AccessDenied", f"{PUT}because no identity-based policy allows it",
        by_status=True),
    Row("s3compatible", F.DELETE_DENIED, 403, "AccessDenied", "not entitled", Step.DELETE, by_status=True),
    Row("s3compatible", F.DELETE_BLOCKED_BY_RETENTION, 400, "InvalidRequest", "Object is WORM protected and cannot be "
        "overwritten", Step.DELETE),  # MinIO
    Row("s3compatible", F.REQUEST_CONDITION_DENIED, 400, "InvalidRequest", "Object is WORM protected"),
    Row("s3compatible", F.QUOTA_EXCEEDED, 403, "QuotaExceeded"),  # Ceph
    Row("s3compatible", F.QUOTA_EXCEEDED, 507, "XMinioStorageFull", "Storage backend has reached its minimum free "
        "drive threshold."),
    Row("s3compatible", F.QUOTA_EXCEEDED, 403, "AccessDenied", "Transaction cap exceeded, see the Caps & Alerts page"),
    Row("s3compatible", F.THROTTLED, 429, "TooManyRequests", by_status=True),
    Row("s3compatible", F.THROTTLED, 503, "SlowDown", "Resource requested is unreadable", by_status=True),
    Row("s3compatible", F.PROVIDER_UNAVAILABLE, 500, "InternalError", by_status=True),
    Row("s3compatible", F.PROTOCOL_UNSUPPORTED, 400, "XAmzContentSHA256Mismatch"),  # Ceph
    # Alibaba Cloud and Tencent Cloud, where the style is not for us to choose; else the other one is tried.
    Row("s3", F.PROTOCOL_UNSUPPORTED, 403, "SecondLevelDomainForbidden", "The bucket you are attempting to access must "
        "be addressed using OSS third level domain."),
    Row("s3", F.PROTOCOL_UNSUPPORTED, 403, "PathStyleDomainForbidden", "The bucket must be addressed using COS "
        "virtual-styled domain."),
    Row("s3compatible", F.BUCKET_WRONG_REGION, 400, "InvalidRegion", "Region does not match."),  # MinIO
    Row("s3compatible", F.BUCKET_WRONG_REGION, 400, "InvalidRegionName", "The region name is not valid."),  # Cloudflare
    Row("s3compatible", F.PROTOCOL_UNSUPPORTED, 400, "InvalidArgument", "aws-chunked encoding is not supported with "
        "the specified x-amz-content-sha256 value."),  # Alibaba Cloud
    Row("s3compatible", F.PROTOCOL_UNSUPPORTED, 400, "InvalidArgument", "Unsupported header "
        "'x-amz-sdk-checksum-algorithm' received for this API call."),  # Backblaze B2
    Row("s3compatible", F.PROTOCOL_UNSUPPORTED, 400, "BadRequest", "trailing checksum is not supported"),  # Scality
    Row("s3compatible", F.PROTOCOL_UNSUPPORTED, 411, "MissingContentLength"),  # Storj
    Row("s3compatible", F.NOT_A_STORAGE_ENDPOINT, 405, "", by_status=True),
    Row("s3compatible", F.NOT_A_STORAGE_ENDPOINT, 501, "", by_status=True),
    Row("s3compatible", F.PROVIDER_ERROR, 400, "XMinioInvalidObjectName", by_status=True),
    # Google Cloud Storage by HMAC keys. https://cloud.google.com/storage/docs/xml-api/reference-status
    Row("gcs", F.ACCESS_KEY_UNKNOWN, 403, "InvalidSecurity", "Incorrect Authorization header"),
    Row("gcs", F.ACCESS_KEY_UNKNOWN, 403, "InvalidAccessKeyId", "The User Id you provided does not exist."),
    Row("gcs", F.SECRET_MISMATCH, 403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
    Row("gcs", F.AUTH_METHOD_DISABLED, 403, "AccessDenied", "Request violates constraint "
        "'constraints/storage.restrictAuthTypes'"),
    Row("gcs", F.ACCOUNT_SUSPENDED, 403, "UserProjectAccountProblem", "The billing account for the owning project is "
        "disabled in state closed"),
    Row("gcs", F.ACCOUNT_SUSPENDED, 403, "AccountProblem"),
    Row("gcs", F.CLOCK_SKEW, 403, "RequestTimeTooSkewed"),
    Row("gcs", F.BUCKET_NOT_FOUND, 404, "NoSuchBucket", by_status=True),
    Row("gcs", F.WRITE_DENIED, 403, "AccessDenied", "a@p.iam.gserviceaccount.com does not have storage.objects.create "
        "access to the Google Cloud Storage object.", by_status=True),
    Row("gcs", F.DELETE_DENIED, 403, "AccessDenied", "a@p.iam.gserviceaccount.com does not have storage.objects.delete "
        "access to the Google Cloud Storage object.", Step.DELETE, by_status=True),
    Row("gcs", F.NETWORK_DENIED, 403, "AccessDenied", "Request is prohibited by organization's policy. "
        "vpcServiceControlsUniqueIdentifier: 1"),
    Row("gcs", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "CloudKmsBadKey"),
    Row("gcs", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "CloudKmsDisabledKey"),
    Row("gcs", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "CloudKmsEncryptionKeyNotFound"),
    Row("gcs", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "CloudKmsKeyLocationNotAllowed"),
    Row("gcs", F.DELETE_BLOCKED_BY_RETENTION, 403, "RetentionPolicyNotMet", step=Step.DELETE),
    Row("gcs", F.DELETE_BLOCKED_BY_RETENTION, 403, "ObjectUnderActiveHold", step=Step.DELETE),
    Row("gcs", F.REQUESTER_PAYS, 400, "UserProjectMissing", "Bucket is Requester Pays bucket but no user project."),
    Row("gcs", F.THROTTLED, 429, "SlowDown", by_status=True),
    Row("gcs", F.PROVIDER_UNAVAILABLE, 500, "InternalError", by_status=True),
    Row("gcs", F.PROVIDER_ERROR, 400, "InvalidDigest", by_status=True),
    # Google Cloud Storage by a service account. https://cloud.google.com/storage/docs/json_api/v1/status-codes
    Row("gcs by service account", F.CREDENTIALS_EXPIRED, 401, "authError", "Invalid Credentials"),
    Row("gcs by service account", F.AUTH_METHOD_DISABLED, 403, "accessNotConfigured", "The API has not been used."),
    Row("gcs by service account", F.AUTH_METHOD_DISABLED, 412, "orgPolicyConstraintFailed", "Request violates "
        "constraint 'constraints/storage.restrictAuthTypes'"),
    Row("gcs by service account", F.ACCOUNT_SUSPENDED, 403, "accountDisabled", "The account has been disabled."),
    Row("gcs by service account", F.ACCOUNT_SUSPENDED, 403, "UserProjectAccountProblem", "Not in good standing."),
    Row("gcs by service account", F.ACCOUNT_SUSPENDED, 403, "forbidden", "The billing account for the owning project "
        "is disabled in state absent"),
    Row("gcs by service account", F.BUCKET_NOT_FOUND, 404, "notFound", "The specified bucket does not exist.",
        by_status=True),
    Row("gcs by service account", F.WRITE_DENIED, 403, "forbidden", "a@p.iam.gserviceaccount.com does not have "
        "storage.objects.create access to the Google Cloud Storage object.", by_status=True),
    Row("gcs by service account", F.WRITE_DENIED, 403, "insufficientPermissions", by_status=True),
    Row("gcs by service account", F.WRITE_DENIED, 403, "PERMISSION_DENIED", "Denied.", by_status=True),
    Row("gcs by service account", F.DELETE_DENIED, 403, "forbidden", "a@p.iam.gserviceaccount.com does not have "
        "storage.objects.delete access to the Google Cloud Storage object.", Step.DELETE, by_status=True),
    Row("gcs by service account", F.NETWORK_DENIED, 403, "PERMISSION_DENIED", "Request is prohibited by "
        "organization's policy. vpcServiceControlsUniqueIdentifier: 1"),
    Row("gcs by service account", F.ENCRYPTION_REQUIRED, 412, "orgPolicyConstraintFailed", "Request violates "
        "constraint 'constraints/gcp.restrictNonCmekServices'"),
    Row("gcs by service account", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "cloudKmsBadKey"),
    Row("gcs by service account", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "cloudKmsDisabledKey"),
    Row("gcs by service account", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "cloudKmsEncryptionKeyNotFound"),
    Row("gcs by service account", F.ENCRYPTION_KEY_UNAVAILABLE, 400, "cloudKmsKeyLocationNotAllowed"),
    Row("gcs by service account", F.ENCRYPTION_KEY_UNAVAILABLE, 403, "forbidden", "Permission denied on Cloud KMS key. "
        "Please ensure that your Cloud Storage service account has been authorized to use this key."),
    Row("gcs by service account", F.REQUEST_CONDITION_DENIED, 403, "sslRequired", "SSL is required."),
    Row("gcs by service account", F.REQUEST_CONDITION_DENIED, 412, "orgPolicyConstraintFailed", "Request violates "
        "constraint 'constraints/gcp.restrictTLSVersion'"),
    Row("gcs by service account", F.DELETE_BLOCKED_BY_RETENTION, 403, "retentionPolicyNotMet", "Object 'my-bucket/x' "
        "is subject to bucket's retention policy", Step.DELETE),
    Row("gcs by service account", F.DELETE_BLOCKED_BY_RETENTION, 403, "objectUnderActiveHold", step=Step.DELETE),
    Row("gcs by service account", F.DELETE_BLOCKED_BY_RETENTION, 403, "forbidden", "Object 'my-bucket/x' is under "
        "active Temporary hold and cannot be deleted, overwritten or archived until hold is removed.", Step.DELETE),
    Row("gcs by service account", F.REQUESTER_PAYS, 400, "userProjectMissing"),
    Row("gcs by service account", F.REQUESTER_PAYS, 400, "UserProjectMissing"),
    Row("gcs by service account", F.REQUESTER_PAYS, 401, "AuthenticationRequiredRequesterPays"),
    Row("gcs by service account", F.REQUESTER_PAYS, 400, "required", "Bucket is a requester pays bucket but no user "
        "project provided."),
    Row("gcs by service account", F.QUOTA_EXCEEDED, 403, "quotaExceeded"),
    Row("gcs by service account", F.QUOTA_EXCEEDED, 403, "dailyLimitExceeded"),
    Row("gcs by service account", F.THROTTLED, 429, "rateLimitExceeded", by_status=True),
    Row("gcs by service account", F.THROTTLED, 403, "userRateLimitExceeded"),
    Row("gcs by service account", F.PROVIDER_UNAVAILABLE, 408, "uploadBrokenConnection"),
    Row("gcs by service account", F.PROVIDER_UNAVAILABLE, 503, "backendError"),
    Row("gcs by service account", F.PROVIDER_UNAVAILABLE, 500, "internalError", by_status=True),
    Row("gcs by service account", F.PROTOCOL_UNSUPPORTED, 501, "notImplemented"),
    Row("gcs by service account", F.PROTOCOL_UNSUPPORTED, 400, "turnedDown"),
    Row("gcs by service account", F.PROVIDER_ERROR, 400, "invalidArgument", by_status=True),
    # Google's tokens. https://developers.google.com/identity/protocols/oauth2/service-account#error-codes
    Row("gcs by service account", F.SECRET_MISMATCH, 400, "invalid_grant", "Invalid JWT Signature.", at="token"),
    Row("gcs by service account", F.ACCESS_KEY_UNKNOWN, 400, "invalid_grant", "Invalid grant: account not found",
        at="token"),
    Row("gcs by service account", F.ACCESS_KEY_DISABLED, 400, "invalid_grant", "The account is disabled.", at="token"),
    Row("gcs by service account", F.CLOCK_SKEW, 400, "invalid_grant", "Invalid JWT: Token must be a short-lived token "
        "(60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.", at="token"),
    Row("gcs by service account", F.ACCESS_KEY_UNKNOWN, 401, "invalid_client", by_status=True, at="token"),
    Row("gcs by service account", F.ACCESS_KEY_UNKNOWN, 400, "deleted_client", at="token"),
    Row("gcs by service account", F.ACCESS_KEY_DISABLED, 401, "unauthorized_client", at="token"),
    Row("gcs by service account", F.ACCESS_KEY_DISABLED, 403, "access_denied", at="token"),
    Row("gcs by service account", F.ACCESS_KEY_DISABLED, 401, "disabled_client", at="token"),
    Row("gcs by service account", F.AUTH_METHOD_DISABLED, 400, "admin_policy_enforced", at="token"),
    Row("gcs by service account", F.AUTH_METHOD_DISABLED, 403, "org_internal", at="token"),
    # Azure Blob Storage. https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
    Row("azure", F.SECRET_MISMATCH, 403, "AuthenticationFailed", "The MAC signature found in the HTTP request 'x' is "
        "not the same as any computed signature."),
    Row("azure", F.SECRET_MISMATCH, 400, "InvalidAuthenticationInfo"),
    Row("azure", F.AUTH_METHOD_DISABLED, 403, "KeyBasedAuthenticationNotPermitted"),
    Row("azure", F.ACCOUNT_SUSPENDED, 403, "AccountIsDisabled"),
    Row("azure", F.CLOCK_SKEW, 403, "AuthenticationFailed", "Request date header too old: 'Wed, 25 Nov 2026 00:00:00 "
        "GMT'"),
    Row("azure", F.BUCKET_NOT_FOUND, 404, "ContainerNotFound", by_status=True),
    Row("azure", F.BUCKET_NOT_FOUND, 409, "ContainerBeingDeleted"),
    Row("azure", F.BUCKET_NOT_FOUND, 409, "ContainerDisabled"),
    Row("azure", F.BUCKET_NOT_FOUND, 404, "ResourceNotFound", by_status=True),
    Row("azure", F.WRITE_DENIED, 403, "AuthorizationPermissionMismatch", by_status=True),
    Row("azure", F.WRITE_DENIED, 403, "InsufficientAccountPermissions", by_status=True),
    Row("azure", F.WRITE_DENIED, 403, "AuthorizationResourceTypeMismatch", by_status=True),
    Row("azure", F.WRITE_DENIED, 403, "AuthorizationServiceMismatch", by_status=True),
    Row("azure", F.DELETE_DENIED, 403, "AuthorizationPermissionMismatch", step=Step.DELETE, by_status=True),
    Row("azure", F.NETWORK_DENIED, 403, "AuthorizationFailure"),
    Row("azure", F.NETWORK_DENIED, 403, "AuthorizationSourceIPMismatch"),
    Row("azure", F.REQUEST_CONDITION_DENIED, 403, "AuthorizationProtocolMismatch"),
    Row("azure", F.REQUEST_CONDITION_DENIED, 400, "AccountRequiresHttps"),
    Row("azure", F.REQUEST_CONDITION_DENIED, 400, "TlsVersionNotPermitted"),
    Row("azure", F.ENCRYPTION_REQUIRED, 409, "BlobUsesCustomerSpecifiedEncryption"),
    Row("azure", F.ENCRYPTION_KEY_UNAVAILABLE, 403, "KeyVaultEncryptionKeyNotFound"),
    Row("azure", F.ENCRYPTION_KEY_UNAVAILABLE, 403, "KeyVaultVaultNotFound"),
    Row("azure", F.ENCRYPTION_KEY_UNAVAILABLE, 403, "KeyVaultAccessTokenCannotBeAcquired"),
    Row("azure", F.DELETE_BLOCKED_BY_RETENTION, 409, "BlobImmutableDueToPolicy", step=Step.DELETE),
    Row("azure", F.DELETE_BLOCKED_BY_RETENTION, 409, "BlobImmutableDueToLegalHold", step=Step.DELETE),
    Row("azure", F.DELETE_BLOCKED_BY_RETENTION, 412, "LeaseIdMissing", step=Step.DELETE),
    Row("azure", F.THROTTLED, 503, "ServerBusy", by_status=True),
    Row("azure", F.THROTTLED, 500, "OperationTimedOut"),
    Row("azure", F.PROVIDER_UNAVAILABLE, 500, "InternalError", by_status=True),
    Row("azure", F.PROTOCOL_UNSUPPORTED, 400, "UnsupportedHeader"),
    Row("azure", F.PROTOCOL_UNSUPPORTED, 409, "FeatureVersionMismatch"),
    Row("azure", F.PROTOCOL_UNSUPPORTED, 400, "InvalidHeaderValue", "x-ms-version"),
    Row("azure", F.PROVIDER_ERROR, 409, "BlobOverwritten", by_status=True),
    # Alibaba Cloud OSS. https://www.alibabacloud.com/help/en/oss/support/http-status-code-403
    Row("oss", F.ACCESS_KEY_UNKNOWN, 403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in "
        "our records.", finer="0002-00000902"),
    Row("oss", F.ACCESS_KEY_DISABLED, 403, "InvalidAccessKeyId", "The OSS Access Key Id is disabled.",
        finer="0002-00000903"),
    Row("oss", F.ACCESS_KEY_DISABLED, 403, "InvalidAccessKeyId", "The OSS Access Key Id is disabled.",
        finer="0002-00000904"),
    Row("oss", F.SECRET_MISMATCH, 403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
    Row("oss", F.CREDENTIALS_EXPIRED, 403, "SecurityTokenExpired", "The security token you provided has expired."),
    Row("oss", F.CREDENTIALS_EXPIRED, 403, "InvalidSecurityToken", "The security token you provided is invalid."),
    Row("oss", F.ACCOUNT_SUSPENDED, 403, "UserDisable", "UserDisable", finer="0003-00000801"),
    Row("oss", F.ACCOUNT_SUSPENDED, 403, "InDebt", "Current user is indebted"),
    Row("oss", F.ACCOUNT_SUSPENDED, 403, "InDebtOverdue", "Current user is indebted Overdue"),
    Row("oss", F.ACCOUNT_SUSPENDED, 403, "BucketDisable", "BucketDisable"),
    Row("oss", F.ACCOUNT_SUSPENDED, 403, "AbnormalBucketOwnerStatus", "The status of the bucket owner is abnormal"),
    Row("oss", F.ACCOUNT_SUSPENDED, 403, "UbsmsInvalidBid", "The account is not active."),
    Row("oss", F.CLOCK_SKEW, 403, "RequestTimeTooSkewed", "The difference is too large."),
    Row("oss", F.BUCKET_NOT_FOUND, 404, "NoSuchBucket", "The specified bucket does not exist.", by_status=True),
    Row("oss", F.BUCKET_WRONG_REGION, 403, "AccessDenied", "The bucket you are attempting to access must be addressed "
        "using the specified endpoint. Please send all future requests to this endpoint."),
    Row("oss", F.BUCKET_WRONG_REGION, 403, "AccessDenied", "Elsewhere.", finer="0003-00001403"),
    Row("oss", F.BUCKET_WRONG_REGION, 400, "InvalidArgument", "The signing region in credential is invalid."),
    Row("oss", F.BUCKET_WRONG_REGION, 400, "InvalidArgument", "Invalid.", finer="0002-00000226"),
    Row("oss", F.BUCKET_WRONG_REGION, 400, "InvalidArgument", "Invalid.", finer="0002-00000228"),
    Row("oss", F.CUSTOM_DOMAIN_REQUIRED, 400, "PublicEndpointForbidden", "Not allowed using the OSS public endpoint, "
        "please use CNAME instead.", finer="0048-00000401"),
    Row("oss", F.WRITE_DENIED, 403, "AccessDenied", "You have no right to access this object because of bucket acl.",
        finer="0003-00000001", by_status=True),
    Row("oss", F.WRITE_DENIED, 403, "AccessDenied", "Access denied by bucket policy.", finer="0003-00000201",
        by_status=True),
    Row("oss", F.DELETE_DENIED, 403, "AccessDenied", "You have no right to access this object.", Step.DELETE,
        by_status=True),
    Row("oss", F.ENCRYPTION_REQUIRED, 403, "AccessDenied", "x-oss-server-side-encryption is demanded by policy."),
    Row("oss", F.ENCRYPTION_KEY_UNAVAILABLE, 403, "AccessDenied", "This request is forbidden by kms."),
    # Of these and of the retention's, the finer code is documented and the coarse one is not.
    Row("oss", F.ENCRYPTION_KEY_UNAVAILABLE, 409, "KmsKeyDisabled", finer="0005-00000214"),
    Row("oss", F.ENCRYPTION_KEY_UNAVAILABLE, 409, "KmsKeyPendingDeletion", finer="0005-00000215"),
    Row("oss", F.ENCRYPTION_KEY_UNAVAILABLE, 403, "KmsNotActivated", finer="0005-00000218"),
    Row("oss", F.DELETE_BLOCKED_BY_RETENTION, 409, "FileImmutable", "The object is immutable.", Step.DELETE),
    Row("oss", F.DELETE_BLOCKED_BY_RETENTION, 409, "Immutable", step=Step.DELETE, finer="0026-00000005"),
    Row("oss", F.DELETE_BLOCKED_BY_RETENTION, 409, "Immutable", step=Step.DELETE, finer="0026-00000202"),
    Row("oss", F.REQUESTER_PAYS, 403, "AccessDenied", "The bucket is paid by the requester."),
    Row("oss", F.THROTTLED, 503, "QpsLimitExceeded", by_status=True),
    Row("oss", F.THROTTLED, 503, "TotalQpsLimitExceeded", by_status=True),
    Row("oss", F.THROTTLED, 503, "DownloadTrafficRateLimitExceeded", by_status=True),
    Row("oss", F.THROTTLED, 503, "UploadTrafficRateLimitExceeded", by_status=True),
    Row("oss", F.PROVIDER_UNAVAILABLE, 500, "InternalError", "Please contact the server administrator", by_status=True),
    Row("oss", F.PROVIDER_UNAVAILABLE, 400, "RequestTimeout", "Request has timed out."),
    Row("oss", F.PROTOCOL_UNSUPPORTED, 400, "SignatureVersionNotSupported"),
    Row("oss", F.PROTOCOL_UNSUPPORTED, 501, "NotImplemented", "A header you provided implies a function that is not."),
    Row("oss", F.PROVIDER_ERROR, 400, "InvalidDigest", "The Content-MD5 you specified is not valid.", by_status=True),
)  # fmt: skip

HOSTS: dict[Fault, Callable[..., object]] = {
    Fault.ENDPOINT_NOT_ALLOWED: test_hosts.test_what_may_not_be_called_is_not_called,
    Fault.HOST_NOT_FOUND: test_hosts.test_a_name_that_nobody_has_is_not_found,
    Fault.CONNECTION_REFUSED: test_hosts.test_a_port_on_which_nobody_listens_refuses,
    Fault.CONNECTION_FAILED: test_hosts.test_an_answer_without_an_explanation_goes_by_its_status,
    Fault.TIMEOUT: test_hosts.test_a_host_that_does_not_end_its_answer_is_left_at_the_bound,
    Fault.TLS_FAILURE: test_hosts.test_a_certificate_that_nobody_trusts_is_refused,
    Fault.REDIRECT_REFUSED: test_hosts.test_a_redirect_is_not_followed,
    Fault.NOT_A_STORAGE_ENDPOINT: test_hosts.test_an_answer_without_an_explanation_goes_by_its_status,
}
"""The faults that a host causes which does not answer as storage, and the test that has every type meet one."""

LOCAL: dict[Fault, Callable[..., object]] = {
    Fault.INVALID_PARAMETER: test_specs.test_a_malformed_value_is_refused_by_name,
    Fault.TEMPORARY_CREDENTIALS_UNSUPPORTED: test_specs.test_a_malformed_value_is_refused_by_name,
    Fault.UNSUPPORTED_BUCKET_TYPE: test_specs.test_a_malformed_value_is_refused_by_name,
    Fault.BUCKET_NAME_NOT_A_HOST: test_compatible.test_a_bucket_that_no_host_can_be_named_for_is_told_so,
    Fault.INTERNAL_ERROR: test_tasks.test_a_mistake_of_ours_is_answered_as_one_and_shows_nothing,
}
"""The faults that no reply by itself causes, and the test of each."""


def reached(name: str) -> set[Fault]:
    """The faults that the way to store called `name` is brought to over a socket."""
    return {row.fault for row in ROWS if row.on == name} | set(HOSTS)


if __name__ == "__main__":
    for way in STORED_BY:
        rows = [row for row in ROWS if row.on == way]
        print(f"{way:24}{len(reached(way)):3} faults over a socket, {len(rows):3} recorded replies")
    everywhere = set().union(*map(reached, STORED_BY))
    print(f"{len(everywhere)} of {len(Fault)} faults over a socket; without one: {', '.join(sorted(LOCAL))}")
