"""Google Cloud Storage in the tests, by HMAC keys and by a service account's key."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.domain.faults import Fault
from app.domain.types import key_guide
from app.domain.verification import Step
from demo.seaweedfs import MISSING, SeaweedFS
from tests.servers import gcs as google
from tests.servers.gcs import CREATE, EVERYTHING, LIST, Account, Bucket, GcsServer
from tests.types.base import REQUEST_ID, Backend, Body, Fixtures, Form, Row, Storage, Traffic, error_xml
from tests.types.s3compatible import everything, secrets
from workers.storage.gcs import FAULTS, TOKEN_FAULTS
from workers.storage.s3 import faults as s3

PEM = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
DEAD = {"dead": (Fault.EGRESS_UNAVAILABLE, "connect")}
SERVICE_ACCOUNT = {
    "type": "service_account",
    "project_id": "p",
    "private_key_id": "1",
    "private_key": PEM,
    "client_email": "writer@p.iam.gserviceaccount.com",
    "client_id": "2",
    "token_uri": "http://169.254.169.254/token",
}


LIMITED = {"limited-plain": "in/%DATE%", "limited-token": "run-%COLLECTION_ID%/x", "limited-odd": 'a") || ("*?ä'}
"""Accounts that have the service's own policy alone, each for a prefix."""


def policy(prefix: str) -> dict[str, Any]:
    """The policy for a bucket called results."""
    return key_guide({"type": "gcs", "gcs_bucket_name": "results", "gcs_path_prefix": prefix}).policy or {}


@pytest.fixture(scope="session")
def gcs(seaweedfs: SeaweedFS) -> Iterator[GcsServer]:
    """Google Cloud Storage: the JSON API, and an XML API that SeaweedFS answers."""
    buckets = {"results": Bucket(), "versioned": Bucket(versioning=True), "kept": Bucket(retention=True)}
    accounts = {
        **{name: Account(granted={"results": policy(prefix)}) for name, prefix in LIMITED.items()},
        "owner": Account(dict.fromkeys(buckets, EVERYTHING)),
        "writer": Account(dict.fromkeys(buckets, (CREATE,))),
        "reader": Account(dict.fromkeys(buckets, (LIST,))),
        "gone": Account(dict.fromkeys(buckets, EVERYTHING), disabled=True),
    }
    with google.GcsServer(buckets, accounts, xml_upstream=seaweedfs.url) as running:
        yield running


def by_hmac(seaweedfs: SeaweedFS) -> Backend:
    def hmac(key: tuple[str, str]) -> Body:
        return {"gcs_access_key": key[0], "gcs_secret_key": key[1]}

    return Backend(
        right={"type": "gcs", "gcs_bucket_name": "results", **hmac(seaweedfs.customer)},
        changes={
            "wrong_secret": {"gcs_secret_key": seaweedfs.admin.secret},
            "unknown_key": {"gcs_access_key": "GOOG" + "A" * 20},
            "missing_bucket": {"gcs_bucket_name": MISSING},
            "write_refused": hmac(seaweedfs.reader),
            "delete_refused": hmac(seaweedfs.put_only),
        },
        blames={
            "wrong_secret": "gcs_secret_key",
            "unknown_key": "gcs_access_key",
            "missing_bucket": "gcs_bucket_name",
            "write_refused": "gcs_path_prefix",
            "delete_refused": "gcs_access_key",
        },
        objects=lambda: everything(seaweedfs),
        content=lambda key: seaweedfs.content("results", key),
        unfinished=lambda: seaweedfs.unfinished("results"),
        secrets=secrets(seaweedfs),
        verdicts=DEAD,
    )


def by_service_account(gcs: GcsServer) -> Backend:
    def account(name: str, **changes: str) -> Body:
        return {"gcs_service_account_key": json.dumps({**gcs.service_account_key(name), **changes})}

    key = "gcs_service_account_key"
    return Backend(
        right={"type": "gcs", "gcs_bucket_name": "results", "gcs_path_prefix": "sub folder", **account("owner")},
        changes={
            "wrong_secret": account("owner", private_key=gcs.service_account_key("writer")["private_key"]),
            "unknown_key": account("owner", client_email="nobody@nowhere.iam.gserviceaccount.com"),
            "missing_bucket": {"gcs_bucket_name": "there-is-none"},
            "write_refused": account("reader"),
            "delete_refused": account("writer"),
            "versioned": {"gcs_bucket_name": "versioned"},
            "retained": {"gcs_bucket_name": "kept"},
        },
        blames={
            "wrong_secret": key,
            "unknown_key": key,
            "missing_bucket": "gcs_bucket_name",
            "write_refused": "gcs_path_prefix",
            "delete_refused": key,
        },
        objects=lambda: [name for bucket in ("results", "versioned", "kept") for name in gcs.generations(bucket)],
        content=lambda key: gcs.content("results", key),
        unfinished=gcs.open_uploads,
        secrets=tuple(gcs.service_account_key(name)["private_key"].split("\n")[5] for name in ("owner", "writer")),
        verdicts=DEAD,
    )


def _xml(row: Row) -> Form:
    body = error_xml(Code=row.code, Message="Refused.", Details=row.message)
    return "application/xml; charset=UTF-8", {"X-GUploader-UploadID": REQUEST_ID}, body


def _json(row: Row) -> Form:
    error: dict[str, object] = {"code": row.status, "message": row.message}
    if row.code.isupper():
        error["status"] = row.code
    else:
        error["errors"] = [{"message": row.message, "domain": "global", "reason": row.code}]
    headers = {"X-GUploader-UploadID": REQUEST_ID}
    return "application/json; charset=UTF-8", headers, json.dumps({"error": error})


def _token(row: Row) -> Form:
    return "application/json; charset=utf-8", {}, json.dumps({"error": row.code, "error_description": row.message})


_HEAD = "HTTP/1.1 {} Done\r\n{}Content-Length: {}\r\n\r\n{}"
_TAKEN = json.dumps({"etag": "CJ=", "generation": "17", "name": "x"})
TOKEN = _HEAD.format(
    200,
    "Content-Type: application/json\r\n",
    71,
    '{"access_token":"ya29.token","expires_in":3600,"token_type":"Bearer"}  ',
).encode()

BY_SERVICE_ACCOUNT = "gcs by service account"
F = Fault
_hmac = partial(Row, on="gcs", form=_xml, table=s3.FAULTS)
_row = partial(Row, on=BY_SERVICE_ACCOUNT, form=_json, table=FAULTS)
_row_of_token = partial(Row, on=BY_SERVICE_ACCOUNT, form=_token, table=TOKEN_FAULTS, at="token")

ROWS_BY_HMAC = (
    # Google Cloud Storage by HMAC keys. https://cloud.google.com/storage/docs/xml-api/reference-status
    _hmac(F.ACCESS_KEY_UNKNOWN, 403, "InvalidSecurity", "Incorrect Authorization header"),
    _hmac(F.ACCESS_KEY_UNKNOWN, 403, "InvalidAccessKeyId", "The User Id you provided does not exist."),
    _hmac(F.SECRET_MISMATCH, 403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
    _hmac(F.AUTH_METHOD_DISABLED, 403, "AccessDenied", "Request violates constraint "
        "'constraints/storage.restrictAuthTypes'"),
    _hmac(F.ACCOUNT_SUSPENDED, 403, "UserProjectAccountProblem", "The billing account for the owning project is "
        "disabled in state closed"),
    _hmac(F.ACCOUNT_SUSPENDED, 403, "AccountProblem"),
    _hmac(F.CLOCK_SKEW, 403, "RequestTimeTooSkewed"),
    _hmac(F.BUCKET_NOT_FOUND, 404, "NoSuchBucket", by_status=True),
    _hmac(F.WRITE_DENIED, 403, "AccessDenied", "a@p.iam.gserviceaccount.com does not have storage.objects.create "
        "access to the Google Cloud Storage object.", by_status=True),
    _hmac(F.DELETE_DENIED, 403, "AccessDenied", "a@p.iam.gserviceaccount.com does not have storage.objects.delete "
        "access to the Google Cloud Storage object.", Step.DELETE, by_status=True),
    _hmac(F.NETWORK_DENIED, 403, "AccessDenied", "Request is prohibited by organization's policy. "
        "vpcServiceControlsUniqueIdentifier: 1"),
    _hmac(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "CloudKmsBadKey"),
    _hmac(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "CloudKmsDisabledKey"),
    _hmac(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "CloudKmsEncryptionKeyNotFound"),
    _hmac(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "CloudKmsKeyLocationNotAllowed"),
    _hmac(F.DELETE_BLOCKED_BY_RETENTION, 403, "RetentionPolicyNotMet", step=Step.DELETE),
    _hmac(F.DELETE_BLOCKED_BY_RETENTION, 403, "ObjectUnderActiveHold", step=Step.DELETE),
    _hmac(F.REQUESTER_PAYS, 400, "UserProjectMissing", "Bucket is Requester Pays bucket but no user project."),
    _hmac(F.THROTTLED, 429, "SlowDown", by_status=True),
    _hmac(F.PROVIDER_UNAVAILABLE, 500, "InternalError", by_status=True),
    _hmac(F.PROVIDER_ERROR, 400, "InvalidDigest", by_status=True),
)  # fmt: skip

ROWS = (
    # Google Cloud Storage by a service account. https://cloud.google.com/storage/docs/json_api/v1/status-codes
    _row(F.CREDENTIALS_EXPIRED, 401, "authError", "Invalid Credentials"),
    _row(F.AUTH_METHOD_DISABLED, 403, "accessNotConfigured", "The API has not been used."),
    _row(F.AUTH_METHOD_DISABLED, 412, "orgPolicyConstraintFailed", "Request violates "
        "constraint 'constraints/storage.restrictAuthTypes'"),
    _row(F.ACCOUNT_SUSPENDED, 403, "accountDisabled", "The account has been disabled."),
    _row(F.ACCOUNT_SUSPENDED, 403, "UserProjectAccountProblem", "Not in good standing."),
    _row(F.ACCOUNT_SUSPENDED, 403, "forbidden", "The billing account for the owning project "
        "is disabled in state absent"),
    _row(F.BUCKET_NOT_FOUND, 404, "notFound", "The specified bucket does not exist.",
        by_status=True),
    _row(F.WRITE_DENIED, 403, "forbidden", "a@p.iam.gserviceaccount.com does not have "
        "storage.objects.create access to the Google Cloud Storage object.", by_status=True),
    _row(F.WRITE_DENIED, 403, "insufficientPermissions", by_status=True),
    _row(F.WRITE_DENIED, 403, "PERMISSION_DENIED", "Denied.", by_status=True),
    _row(F.DELETE_DENIED, 403, "forbidden", "a@p.iam.gserviceaccount.com does not have "
        "storage.objects.delete access to the Google Cloud Storage object.", Step.DELETE, by_status=True),
    _row(F.NETWORK_DENIED, 403, "PERMISSION_DENIED", "Request is prohibited by "
        "organization's policy. vpcServiceControlsUniqueIdentifier: 1"),
    _row(F.ENCRYPTION_REQUIRED, 412, "orgPolicyConstraintFailed", "Request violates "
        "constraint 'constraints/gcp.restrictNonCmekServices'"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "cloudKmsBadKey"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "cloudKmsDisabledKey"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "cloudKmsEncryptionKeyNotFound"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 400, "cloudKmsKeyLocationNotAllowed"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 403, "forbidden", "Permission denied on Cloud KMS key. "
        "Please ensure that your Cloud Storage service account has been authorized to use this key."),
    _row(F.REQUEST_CONDITION_DENIED, 403, "sslRequired", "SSL is required."),
    _row(F.REQUEST_CONDITION_DENIED, 412, "orgPolicyConstraintFailed", "Request violates "
        "constraint 'constraints/gcp.restrictTLSVersion'"),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 403, "retentionPolicyNotMet", "Object 'my-bucket/x' "
        "is subject to bucket's retention policy", Step.DELETE),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 403, "objectUnderActiveHold", step=Step.DELETE),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 403, "forbidden", "Object 'my-bucket/x' is under "
        "active Temporary hold and cannot be deleted, overwritten or archived until hold is removed.", Step.DELETE),
    _row(F.REQUESTER_PAYS, 400, "userProjectMissing"),
    _row(F.REQUESTER_PAYS, 400, "UserProjectMissing"),
    _row(F.REQUESTER_PAYS, 401, "AuthenticationRequiredRequesterPays"),
    _row(F.REQUESTER_PAYS, 400, "required", "Bucket is a requester pays bucket but no user "
        "project provided."),
    _row(F.QUOTA_EXCEEDED, 403, "quotaExceeded"),
    _row(F.QUOTA_EXCEEDED, 403, "dailyLimitExceeded"),
    _row(F.THROTTLED, 429, "rateLimitExceeded", by_status=True),
    _row(F.THROTTLED, 403, "userRateLimitExceeded"),
    _row(F.PROVIDER_UNAVAILABLE, 408, "uploadBrokenConnection"),
    _row(F.PROVIDER_UNAVAILABLE, 503, "backendError"),
    _row(F.PROVIDER_UNAVAILABLE, 500, "internalError", by_status=True),
    _row(F.PROTOCOL_UNSUPPORTED, 501, "notImplemented"),
    _row(F.PROTOCOL_UNSUPPORTED, 400, "turnedDown"),
    _row(F.PROVIDER_ERROR, 400, "invalidArgument", by_status=True),
    # Google's tokens. https://developers.google.com/identity/protocols/oauth2/service-account#error-codes
    _row_of_token(F.SECRET_MISMATCH, 400, "invalid_grant", "Invalid JWT Signature."),
    _row_of_token(F.ACCESS_KEY_UNKNOWN, 400, "invalid_grant", "Invalid grant: account not found"),
    _row_of_token(F.ACCESS_KEY_DISABLED, 400, "invalid_grant", "The account is disabled."),
    _row_of_token(F.CLOCK_SKEW, 400, "invalid_grant", "Invalid JWT: Token must be a short-lived token "
        "(60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."),
    _row_of_token(F.ACCESS_KEY_UNKNOWN, 401, "invalid_client", by_status=True),
    _row_of_token(F.ACCESS_KEY_UNKNOWN, 400, "deleted_client"),
    _row_of_token(F.ACCESS_KEY_DISABLED, 401, "unauthorized_client"),
    _row_of_token(F.ACCESS_KEY_DISABLED, 403, "access_denied"),
    _row_of_token(F.ACCESS_KEY_DISABLED, 401, "disabled_client"),
    _row_of_token(F.AUTH_METHOD_DISABLED, 400, "admin_policy_enforced"),
    _row_of_token(F.AUTH_METHOD_DISABLED, 403, "org_internal"),
)  # fmt: skip


def _settings_at(url: str) -> dict[str, str]:
    return {"gcs_endpoint": url, "gcs_token_endpoint": f"{url}/token"}


def _settings(get: Fixtures) -> dict[str, str]:
    return {"gcs_endpoint": get("gcs").url, "gcs_token_endpoint": get("gcs").token_url}


_BRANDS = frozenset({"Google", "GCS"})

HOSTILE = {"gcs_bucket_name": ["..", "a/b", "127.0.0.1", "a@b", "a\nb", "goog-x", "évil"]}

STORAGES = (
    Storage(
        name="gcs",
        provider="s3",
        good={
            "type": "gcs",
            "gcs_access_key": "GOOG" + "1" * 57,
            "gcs_secret_key": "a" * 40,
            "gcs_bucket_name": "my_bucket.example.com",
        },
        malformed=(
            ("gcs_access_key", "AKIAIOSFODNN7EXAMPLE", "invalid_parameter"),
            ("gcs_access_key", "123.apps.googleusercontent.com", "invalid_parameter"),
            ("gcs_secret_key", "short", "invalid_parameter"),
            ("gcs_bucket_name", "goog-bucket", "invalid_parameter"),
            ("gcs_bucket_name", "a" * 64, "invalid_parameter"),
        ),
        hostile=HOSTILE,
        planted={
            "type": "gcs",
            "gcs_bucket_name": "my-bucket",
            "gcs_access_key": "GOOGSENTINEL1" + "A" * 48,
            "gcs_secret_key": "SENTINEL/gcs".ljust(40, "+"),
        },
        brands=_BRANDS,
        traffic=Traffic(hosts=("storage.googleapis.com",), weight=4, usual_ms=210),
        backends={"gcs by HMAC": lambda get: by_hmac(get("seaweedfs"))},
        settings=_settings,
        settings_at=_settings_at,
        row=_hmac,
        rows=ROWS_BY_HMAC,
        retained=("RetentionPolicyNotMet", ""),
    ),
    Storage(
        name=BY_SERVICE_ACCOUNT,
        good={"type": "gcs", "gcs_bucket_name": "my-bucket", "gcs_service_account_key": SERVICE_ACCOUNT},
        planted={
            "type": "gcs",
            "gcs_bucket_name": "my-bucket",
            "gcs_service_account_key": {**SERVICE_ACCOUNT, "private_key_id": "SENTINEL-id"},
        },
        needles=tuple(PEM.encode().splitlines()[1:-1]),
        brands=_BRANDS,
        backends={BY_SERVICE_ACCOUNT: lambda get: by_service_account(get("gcs"))},
        particulars=("versioned", "retained"),
        support=("write_refused", "forbidden", 403),
        settings=_settings,
        settings_at=_settings_at,
        row=_row,
        rows=ROWS,
        stored=_HEAD.format(200, "Content-Type: application/json\r\n", len(_TAKEN), _TAKEN).encode(),
        absent=(404, "notFound", "No such object: my-bucket/in/x"),
        delete_denied=("forbidden", "a@p.iam.gserviceaccount.com does not have storage.objects.delete access"),
        retained=("retentionPolicyNotMet", ""),
        version="generation=17",
        asks_first=True,
    ),
)
