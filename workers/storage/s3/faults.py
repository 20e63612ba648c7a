"""What a service of the S3 dialect says when it refuses, and what that means."""

import re
from dataclasses import replace

from botocore.exceptions import ClientError

from app.domain.faults import Fault
from app.domain.types.s3compatible import REGION
from app.domain.verification import Step
from workers.egress.guard import RedirectRefused
from workers.storage.refusals import FaultTable, Refused, Reply, cause

# From S3's list of error codes, Google's for its XML API, and the services named in the comments.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
# https://cloud.google.com/storage/docs/xml-api/reference-status
FAULTS = FaultTable(
    codes={
        "InvalidAccessKeyId": Fault.ACCESS_KEY_UNKNOWN,
        "InvalidClientTokenId": Fault.ACCESS_KEY_UNKNOWN,
        "InvalidSecurity": Fault.ACCESS_KEY_UNKNOWN,  # Google
        "Unauthorized": Fault.ACCESS_KEY_UNKNOWN,  # Cloudflare R2
        "SignatureDoesNotMatch": Fault.SECRET_MISMATCH,
        "ExpiredToken": Fault.CREDENTIALS_EXPIRED,
        "InvalidToken": Fault.CREDENTIALS_EXPIRED,
        "TokenRefreshRequired": Fault.CREDENTIALS_EXPIRED,
        "ExpiredRequest": Fault.CREDENTIALS_EXPIRED,  # Cloudflare R2
        "AccountProblem": Fault.ACCOUNT_SUSPENDED,
        "AllAccessDisabled": Fault.ACCOUNT_SUSPENDED,
        "NotSignedUp": Fault.ACCOUNT_SUSPENDED,
        "BucketAccountInactive": Fault.ACCOUNT_SUSPENDED,  # Wasabi
        # Huawei: https://support.huaweicloud.com/intl/en-us/api-obs/obs_04_0115.html
        "DeregisterUserId": Fault.ACCOUNT_SUSPENDED,
        "FrozenUserId": Fault.ACCOUNT_SUSPENDED,
        "InArrearOrInsufficientBalance": Fault.ACCOUNT_SUSPENDED,
        "InvalidPayer": Fault.ACCOUNT_SUSPENDED,
        "UserProjectAccountProblem": Fault.ACCOUNT_SUSPENDED,  # Google
        "RequestTimeTooSkewed": Fault.CLOCK_SKEW,
        "NoSuchBucket": Fault.BUCKET_NOT_FOUND,
        "PermanentRedirect": Fault.BUCKET_WRONG_REGION,
        "TemporaryRedirect": Fault.BUCKET_WRONG_REGION,
        "Redirect": Fault.BUCKET_WRONG_REGION,
        "AuthorizationHeaderMalformed": Fault.BUCKET_WRONG_REGION,
        "InvalidRegion": Fault.BUCKET_WRONG_REGION,  # MinIO
        "InvalidRegionName": Fault.BUCKET_WRONG_REGION,  # Cloudflare R2
        "IllegalLocationConstraintException": Fault.BUCKET_WRONG_REGION,
        "PublicEndpointForbidden": Fault.CUSTOM_DOMAIN_REQUIRED,  # Alibaba Cloud
        "AccessDenied": Fault.WRITE_DENIED,
        "KMS.DisabledException": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "KMS.NotFoundException": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "KMS.KMSInvalidStateException": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "CloudKmsBadKey": Fault.ENCRYPTION_KEY_UNAVAILABLE,  # Google
        "CloudKmsDisabledKey": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "CloudKmsEncryptionKeyNotFound": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "CloudKmsKeyLocationNotAllowed": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "AccessControlListNotSupported": Fault.REQUEST_CONDITION_DENIED,
        "RetentionPolicyNotMet": Fault.DELETE_BLOCKED_BY_RETENTION,  # Google
        "ObjectUnderActiveHold": Fault.DELETE_BLOCKED_BY_RETENTION,
        "ObjectLockedByBucketPolicy": Fault.DELETE_BLOCKED_BY_RETENTION,  # Cloudflare R2
        # StorageGRID: https://docs.netapp.com/us-en/storagegrid/s3/error-responses.html
        "XComplianceConflict": Fault.DELETE_BLOCKED_BY_RETENTION,
        "XNotImplemented": Fault.PROTOCOL_UNSUPPORTED,
        # Supabase: https://supabase.com/docs/guides/storage/debugging/error-codes
        "TenantNotFound": Fault.NOT_A_STORAGE_ENDPOINT,
        "UserProjectMissing": Fault.REQUESTER_PAYS,
        "QuotaExceeded": Fault.QUOTA_EXCEEDED,  # Ceph, MinIO
        "XMinioStorageFull": Fault.QUOTA_EXCEEDED,
        "XMinioAdminBucketQuotaExceeded": Fault.QUOTA_EXCEEDED,
        "SlowDown": Fault.THROTTLED,
        "ServiceUnavailable": Fault.THROTTLED,
        "TooManyRequests": Fault.THROTTLED,
        "InternalError": Fault.PROVIDER_UNAVAILABLE,
        "RequestTimeout": Fault.PROVIDER_UNAVAILABLE,
        "NotImplemented": Fault.PROTOCOL_UNSUPPORTED,
        "MissingContentLength": Fault.PROTOCOL_UNSUPPORTED,
        "XAmzContentSHA256Mismatch": Fault.PROTOCOL_UNSUPPORTED,
        "SecondLevelDomainForbidden": Fault.PROTOCOL_UNSUPPORTED,  # Alibaba Cloud
        "PathStyleDomainForbidden": Fault.PROTOCOL_UNSUPPORTED,  # Tencent Cloud
        "InvalidPathAccess": Fault.PROTOCOL_UNSUPPORTED,  # Volcengine
    },
    # A bucket policy's explicit deny is one text, whether it is by address, by header or for everybody.
    vague=frozenset(
        {"AccessDenied", "InvalidRequest", "InvalidArgument", "BadRequest", "NotImplemented", "EntityTooLarge"}
    ),
    messages=(
        # The last two are MinIO's and Huawei's. Of an upload, the first says that the bucket demands a checksum.
        (
            re.compile(r"object lock|retention|legal hold|WORM protected|is immutable", re.I),
            Fault.DELETE_BLOCKED_BY_RETENTION,
        ),
        (re.compile(r"kms:|KMS is not configured", re.I), Fault.ENCRYPTION_KEY_UNAVAILABLE),  # Amazon, MinIO
        (re.compile(r"access key has length", re.I), Fault.ACCESS_KEY_UNKNOWN),  # Cloudflare R2
        (re.compile(r"console port", re.I), Fault.NOT_A_STORAGE_ENDPOINT),  # MinIO
        (re.compile(r"exceeds quota", re.I), Fault.QUOTA_EXCEEDED),  # Swift
        (re.compile(r"x-amz-server-side-encryption", re.I), Fault.ENCRYPTION_REQUIRED),
        (re.compile(r"restrictAuthTypes", re.I), Fault.AUTH_METHOD_DISABLED),  # Google, by organization policy
        (re.compile(r"prohibited by organization's policy", re.I), Fault.NETWORK_DENIED),  # Google
        (re.compile(r"requester.?pays", re.I), Fault.REQUESTER_PAYS),
        (re.compile(r"cap exceeded", re.I), Fault.QUOTA_EXCEEDED),  # Backblaze B2
        # Alibaba Cloud, Scality, Backblaze B2.
        (re.compile(r"use AWS4-HMAC-SHA256|aws-chunked", re.I), Fault.PROTOCOL_UNSUPPORTED),
        (re.compile(r"trailing checksum|unsupported header", re.I), Fault.PROTOCOL_UNSUPPORTED),
    ),
    absent=re.compile(r"NoSuchKey|NoSuchVersion"),
)

# Which policy it was, as Amazon's text tells.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/troubleshoot-403-errors.html
_POLICIES = (
    ("no identity-based policy allows", "no policy of the key's user allows it"),
    ("no resource-based policy allows", "the bucket's policy does not allow it"),
    ("explicit deny in an identity-based policy", "a policy of the key's user denies it"),
    ("explicit deny in a resource-based policy", "the bucket's policy denies it, perhaps by address or header"),
    ("service control policy", "a service control policy of the organization denies it"),
    ("resource control policy", "a resource control policy of the organization denies it"),
    ("permissions boundary", "the permissions boundary of the key's user does not allow it"),
)

# How a bucket shows that it is not, or no longer, where it was called.
MISPLACED = frozenset(
    {
        Fault.BUCKET_WRONG_REGION,
        Fault.REDIRECT_REFUSED,  # S3, to where the bucket is
        Fault.BUCKET_NOT_FOUND,
        Fault.HOST_NOT_FOUND,
        Fault.TLS_FAILURE,
    }
)
# What shows, before a request has left, that a host is nobody's.
NOBODY_THERE = frozenset(
    {
        Fault.HOST_NOT_FOUND,
        Fault.TLS_FAILURE,
        Fault.CONNECTION_REFUSED,
        Fault.CONNECTION_FAILED,
        Fault.ENDPOINT_NOT_ALLOWED,
    }
)
_VIRTUAL_DEMANDED = frozenset({"SecondLevelDomainForbidden", "PathStyleDomainForbidden", "InvalidPathAccess"})
_OF_THE_STYLE = re.compile(r"virtual[- ]?host|path[- ]?style", re.I)
# Some name the region in the text alone: Scaleway (kopia/kopia#168, duplicati/duplicati#4444).
_EXPECTING = re.compile(r"expecting '([^']{1,64})'")
# Oracle's code is that of a wrong secret, and its text tells that it is the region (minio/mc#4329).
_REGION_MISSED = re.compile(r"region must be specified", re.I)
_CODE_IN_XML = re.compile(rb"<Code>(\w{1,64})</Code>")


class VirtualDemanded(Refused):
    """The service takes the bucket in the host's name alone, or, where that is not `certain`, it may be so."""

    def __init__(self, refused: Refused, reply: Reply, certain: bool) -> None:
        super().__init__(refused.fault, reply, absent=refused.absent)
        self.certain = certain


class RegionNamed(Refused):
    """The service says in which region the bucket is."""

    def __init__(self, reply: Reply, region: str, detail: str) -> None:
        super().__init__(Fault.BUCKET_WRONG_REGION, reply, detail=detail)
        self.region = region


def answered(untrusted: bool, error: Exception, step: Step) -> Refused | None:
    """The refusal that the service answered with, if `error` carries one. Of an `untrusted` service's answer only a
    well-formed code is repeated."""
    if isinstance(error, ClientError):
        return _answer(error, step, untrusted)
    # botocore reads no answer that is a redirect, and S3 says in it why it redirects.
    redirect = cause(error, RedirectRefused)
    code = _CODE_IN_XML.search(redirect.body) if redirect else None
    if not code or code[1].decode() not in FAULTS.codes:
        return None
    request_id = redirect.headers.get("x-amz-request-id", "")
    reply = Reply(redirect.status, code[1].decode(), request_id=request_id)
    # An untrusted service that redirects to another host would not accept another region at this one.
    region = "" if untrusted else redirect.headers.get("x-amz-bucket-region", "")
    return _described(reply, step, region, untrusted)


def _answer(error: ClientError, step: Step, untrusted: bool) -> Refused:
    said = error.response.get("Error", {})
    meta = error.response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    # An empty element is None. Where the document has a namespace, botocore leaves its elements beside an empty error.
    code = str(said.get("Code") or error.response.get("Code") or "")
    reply = Reply(
        status=status,
        # Without a body botocore puts the status where the code would be.
        code="" if code == str(status) else code,
        # Google tells the reason in the details.
        message=f"{said.get('Message') or error.response.get('Message')} {said.get('Details')}",
        request_id=str(meta.get("RequestId") or meta.get("HTTPHeaders", {}).get("x-guploader-uploadid", "")),
    )
    expected = _EXPECTING.search(reply.message)
    return _described(reply, step, str(said.get("Region") or (expected[1] if expected else "")), untrusted)


def _described(reply: Reply, step: Step, region: str, untrusted: bool) -> Refused:
    """`reply` as a refusal, with the region or the policy that it names."""
    reply = replace(reply, request_id="") if untrusted else reply
    refused = FAULTS.refused(reply, step)
    if refused.fault is Fault.SECRET_MISMATCH and _REGION_MISSED.search(reply.message):
        refused.fault = Fault.BUCKET_WRONG_REGION
    if refused.fault is Fault.BUCKET_WRONG_REGION and REGION.fullmatch(region):
        return RegionNamed(reply, region, "" if untrusted else f" (the service names {region})")
    certain = reply.code in _VIRTUAL_DEMANDED or (reply.status < 500 and bool(_OF_THE_STYLE.search(reply.message)))
    # To an upload, "no such file" is no answer but by who takes the bucket for a file's name (Huawei). And where nobody
    # has a word for a path, the buckets' own hosts may be all that there is.
    bare = not reply.code and reply.status in (403, 404)
    if certain or (step is Step.UPLOAD and (refused.absent or bare)):
        return VirtualDemanded(refused, reply, certain)
    # What a policy denies by name is not a right that is still on its way.
    refused.settled = "explicit deny" in reply.message
    if not untrusted and refused.fault in (Fault.WRITE_DENIED, Fault.DELETE_DENIED):
        refused.detail = next((f" ({meaning})" for marker, meaning in _POLICIES if marker in reply.message), "")
    return refused
