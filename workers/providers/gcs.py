"""Google Cloud Storage with a service account's key, by gcloud-aio-storage.

With HMAC keys Google's XML API speaks the S3 dialect, and `s3.py` serves it.
"""

import asyncio
import io
import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from gcloud.aio.auth import Token
from gcloud.aio.storage import SCOPES, Storage
from tenacity import stop_after_attempt

from app.domain.errors import Fault
from app.domain.specs.base import Spec
from app.domain.specs.gcs import GcsSpec
from app.domain.verification import NOTHING_FOUND, Found, Step
from app.settings import Settings
from workers.egress import RedirectRefused, watch_anew
from workers.providers.base import (
    CONTENT_TYPE,
    STUMBLES,
    FaultTable,
    Refused,
    Reply,
    Uploaded,
    content_md5,
    stumbled,
    transport_refusal,
    unanswered,
)

# https://cloud.google.com/storage/docs/json_api/v1/status-codes
FAULTS = FaultTable(
    codes={
        "authError": Fault.CREDENTIALS_EXPIRED,
        "accessNotConfigured": Fault.AUTH_METHOD_DISABLED,
        "accountDisabled": Fault.ACCOUNT_SUSPENDED,
        "UserProjectAccountProblem": Fault.ACCOUNT_SUSPENDED,
        "notFound": Fault.BUCKET_NOT_FOUND,
        "forbidden": Fault.WRITE_DENIED,
        "insufficientPermissions": Fault.WRITE_DENIED,
        "PERMISSION_DENIED": Fault.WRITE_DENIED,
        "cloudKmsBadKey": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "cloudKmsDisabledKey": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "cloudKmsEncryptionKeyNotFound": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "cloudKmsKeyLocationNotAllowed": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "sslRequired": Fault.REQUEST_CONDITION_DENIED,
        "orgPolicyConstraintFailed": Fault.REQUEST_CONDITION_DENIED,
        "retentionPolicyNotMet": Fault.DELETE_BLOCKED_BY_RETENTION,
        "objectUnderActiveHold": Fault.DELETE_BLOCKED_BY_RETENTION,
        "userProjectMissing": Fault.REQUESTER_PAYS,
        "UserProjectMissing": Fault.REQUESTER_PAYS,
        "AuthenticationRequiredRequesterPays": Fault.REQUESTER_PAYS,
        "quotaExceeded": Fault.QUOTA_EXCEEDED,
        "dailyLimitExceeded": Fault.QUOTA_EXCEEDED,
        "rateLimitExceeded": Fault.THROTTLED,
        "userRateLimitExceeded": Fault.THROTTLED,
        "uploadBrokenConnection": Fault.PROVIDER_UNAVAILABLE,
        "backendError": Fault.PROVIDER_UNAVAILABLE,
        "internalError": Fault.PROVIDER_UNAVAILABLE,
        "notImplemented": Fault.PROTOCOL_UNSUPPORTED,
        "turnedDown": Fault.PROTOCOL_UNSUPPORTED,
    },
    vague=frozenset({"forbidden", "PERMISSION_DENIED", "invalid", "required", "orgPolicyConstraintFailed"}),
    messages=(
        # A hold is documented as objectUnderActiveHold and answered as forbidden.
        (re.compile(r"under active .*hold", re.I), Fault.DELETE_BLOCKED_BY_RETENTION),
        (re.compile(r"restrictAuthTypes", re.I), Fault.AUTH_METHOD_DISABLED),
        (re.compile(r"CmekServices|CmekCryptoKey", re.I), Fault.ENCRYPTION_REQUIRED),
        (re.compile(r"prohibited by organization's policy", re.I), Fault.NETWORK_DENIED),
        (re.compile(r"cloud ?kms", re.I), Fault.ENCRYPTION_KEY_UNAVAILABLE),
        (re.compile(r"requester.?pays|user project", re.I), Fault.REQUESTER_PAYS),
        (re.compile(r"billing account", re.I), Fault.ACCOUNT_SUSPENDED),
    ),
    absent=re.compile(r"notFound No such object", re.I),
)

# What the token endpoint says of a signed assertion. It has one code, and the description tells the reasons apart.
# https://developers.google.com/identity/protocols/oauth2/service-account#error-codes
TOKEN_FAULTS = FaultTable(
    codes={
        "invalid_grant": Fault.SECRET_MISMATCH,
        "invalid_client": Fault.ACCESS_KEY_UNKNOWN,
        "unauthorized_client": Fault.ACCESS_KEY_DISABLED,
        "access_denied": Fault.ACCESS_KEY_DISABLED,
        "disabled_client": Fault.ACCESS_KEY_DISABLED,
        "deleted_client": Fault.ACCESS_KEY_UNKNOWN,
        "admin_policy_enforced": Fault.AUTH_METHOD_DISABLED,
        "org_internal": Fault.AUTH_METHOD_DISABLED,
    },
    vague=frozenset({"invalid_grant"}),
    messages=(
        (re.compile(r"not found|deleted", re.I), Fault.ACCESS_KEY_UNKNOWN),
        (re.compile(r"disabled", re.I), Fault.ACCESS_KEY_DISABLED),
        (re.compile(r"timeframe", re.I), Fault.CLOCK_SKEW),
    ),
)


class _Token(Token):
    """An access token that is asked for once: the library's own would try five times, whatever the answer."""

    acquire_access_token = Token.acquire_access_token.retry_with(stop=stop_after_attempt(1))


class GcsBucket:
    """One bucket, with the key of one service account."""

    found = NOTHING_FOUND

    def __init__(self, token: _Token, storage: Storage, bucket: str, host: str, seconds: int) -> None:
        self.host = urlsplit(token.token_uri).netloc
        self._token = token
        self._storage = storage
        self._storage_host = host
        self._bucket = bucket
        self._seconds = seconds

    async def upload(self, key: str, body: bytes) -> Uploaded:
        """A token, and then one simple upload with Content-MD5.

        Until there is a token, `host` is the one that issues it.
        """
        try:
            await self._call(self._token.ensure_token, TOKEN_FAULTS, Step.UPLOAD)
        except Refused as refused:
            # Whatever became of the token, nothing was uploaded.
            refused.unknown_outcome = False
            raise
        self.host = self._storage_host
        watch_anew()
        put = partial(
            self._storage.upload, self._bucket, key, body,
            content_type=CONTENT_TYPE, headers={"Content-MD5": content_md5(body)}, timeout=self._seconds,
        )  # fmt: skip
        answer = await self._call(put, FAULTS, Step.UPLOAD)
        if not isinstance(answer, dict) or not (answer.get("etag") and answer.get("generation")):
            raise Refused(Fault.NOT_A_STORAGE_ENDPOINT)
        return Uploaded(key, str(answer["etag"]), str(answer["generation"]))

    async def delete(self, uploaded: Uploaded) -> None:
        """Delete the generation that was written, which leaves no former version behind."""
        which = {"generation": uploaded.version} if uploaded.version else {}
        remove = partial(self._storage.delete, self._bucket, uploaded.key, params=which, timeout=self._seconds)
        await self._call(remove, FAULTS, Step.DELETE)

    async def _call(self, call: Callable[[], Awaitable[Any]], faults: FaultTable, step: Step) -> Any:
        try:
            return await call()
        except aiohttp.ContentTypeError as error:
            raise Refused(Fault.NOT_A_STORAGE_ENDPOINT, Reply(error.status)) from None
        except aiohttp.ClientResponseError as error:
            # An answer that is no HTTP is an error of the same class, and has its cause attached.
            raise transport_refusal(error) or faults.refused(_reply(error), step) from None
        except (RedirectRefused, aiohttp.ClientError, OSError) as error:
            raise unanswered(error) from None
        except STUMBLES as error:
            # The library reads JSON, and fields of it, from whatever has answered.
            raise stumbled(error) from None


def _reply(error: aiohttp.ClientResponseError) -> Reply:
    """The library puts the body behind the status's phrase: a JSON API error, or an OAuth one."""
    code = message = ""
    _, _, body = error.message.partition(": ")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    match said:
        case {"error": {"message": str(message), "errors": [{"reason": str(code)}, *_]}}:
            pass
        case {"error": {"message": str(message), "status": str(code)}}:
            pass
        case {"error": str(code), **rest}:
            message = str(rest.get("error_description", ""))
    request_id = error.headers.get("X-GUploader-UploadID", "") if error.headers else ""
    return Reply(error.status, code, message, request_id)


class GcsProvider:
    """Opens buckets; each with a token of its own, so that a key which was withdrawn is noticed."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        # The library is generated for `requests` too, and by its types would take only that one's sessions.
        self._session: Any = session
        self._endpoint = settings.gcs_endpoint
        self._token_endpoint = settings.gcs_token_endpoint
        self._seconds = max(1, round(settings.verify_seconds))

    def needs_locating(self, spec: Spec, found: Found) -> bool:
        """There is one endpoint for all buckets."""
        return False

    def host(self, spec: Spec) -> str:
        return urlsplit(self._endpoint).netloc

    async def open(self, spec: Spec, found: Found) -> GcsBucket:
        """Raises Refused where the private key cannot be read: nothing was asked of Google then."""
        assert isinstance(spec, GcsSpec) and spec.gcs_service_account_key
        # The token's address is ours and not the customer's, whose word would send the assertion anywhere. Only a
        # file object is read by the library; a string would be the path of a file of ours.
        account = {**json.loads(spec.gcs_service_account_key.get_secret_value()), "token_uri": self._token_endpoint}
        token = _Token(io.StringIO(json.dumps(account)), session=self._session, scopes=SCOPES)
        token.service_data["private_key"] = await asyncio.to_thread(_private_key, account["private_key"])
        storage = Storage(token=token, session=self._session, api_root=self._endpoint, api_is_dev=False)
        return GcsBucket(token, storage, spec.gcs_bucket_name, self.host(spec), self._seconds)


def _private_key(pem: str) -> RSAPrivateKey:
    """The key as the signer takes it; read in a thread, since the checks of an RSA key take their time."""
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Refused(Fault.SECRET_MISMATCH) from None
    if not isinstance(key, RSAPrivateKey):
        raise Refused(Fault.SECRET_MISMATCH)
    return key
