"""Google Cloud Storage with a service account's key, by gcloud-aio-storage.

With HMAC keys Google's XML API speaks the S3 dialect, and `s3` serves it.
"""

import asyncio
import base64
import hashlib
import io
import json
import re
from collections import OrderedDict
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from gcloud.aio.auth import Token
from gcloud.aio.storage import SCOPES, Storage
from tenacity import stop_after_attempt

from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.types.gcs import GcsSpec
from app.domain.verification import UNKNOWN_LOCATION, Location, Step
from workers.egress.guard import RedirectRefused
from workers.egress.wire import restart
from workers.storage.port import CONTENT_TYPE, SLOWEST, Uploaded, UploadGone, content_md5, file_like
from workers.storage.refusals import FaultTable, Refused, Reply, is_page, not_a_store, refusals, transport_refusal

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


_RESUME = 308
# What a session answers that was cancelled, is not there, or has ended.
_ENDED = frozenset({404, 410, 499})
KEYS_KEPT = 10_000


class _Token(Token):
    """An access token that is asked for once: the library's own would try five times, whatever the answer."""

    acquire_access_token = Token.acquire_access_token.retry_with(stop=stop_after_attempt(1))


class GcsBucket:
    """One bucket, with the key of one service account."""

    location = UNKNOWN_LOCATION
    located = False
    parts_expire = False

    def __init__(self, token: _Token, storage: Storage, bucket: str, endpoint: str, seconds: int) -> None:
        self.host = urlsplit(token.token_uri).netloc
        self._endpoint = endpoint
        self._token = token
        self._storage = storage
        self._storage_host = urlsplit(endpoint).netloc
        self._bucket = bucket
        self._seconds = seconds

    async def upload(self, key: str, body: bytes, content_type: str = CONTENT_TYPE) -> Uploaded:
        """A token, and then one simple upload with Content-MD5.

        Until there is a token, `host` is the one that issues it.
        """
        await self._ensure_token()
        headers = {"Content-MD5": await content_md5(body)}
        with refusals(Step.UPLOAD, partial(_answered, FAULTS)):
            answer: Any = await self._storage.upload(
                self._bucket, key, body, content_type=content_type, headers=headers,
                force_resumable_upload=False, timeout=self._seconds,
            )  # fmt: skip
        return _uploaded(key, answer)

    async def _ensure_token(self) -> None:
        try:
            with refusals(Step.UPLOAD, partial(_answered, TOKEN_FAULTS)):
                await self._token.ensure_token()
        except Refused as refused:
            # Whatever became of the token, nothing was uploaded.
            refused.unknown_outcome = False
            if refused.fault in (Fault.WRITE_DENIED, Fault.BUCKET_NOT_FOUND):
                # So the status would be read, but who issues tokens knows neither.
                refused.fault = Fault.PROVIDER_ERROR
            raise
        self.host = self._storage_host
        restart()

    async def begin(self, key: str, content_type: str, size: int) -> "GcsUpload":
        """A token, and then a session, whose address is all that is needed to write there."""
        await self._ensure_token()
        headers = {
            "Authorization": f"Bearer {self._token.access_token}",
            "Content-Type": "application/json; charset=UTF-8",
            "X-Upload-Content-Type": content_type,
            "X-Upload-Content-Length": str(size),
        }
        url = f"{self._endpoint}/upload/storage/v1/b/{quote(self._bucket, safe='')}/o"
        with refusals(Step.UPLOAD, partial(_answered, FAULTS)):
            answer = await self._storage.session.post(
                url, headers=headers, params={"uploadType": "resumable"}, data=json.dumps({"name": key}).encode(),
                timeout=self._seconds,
            )  # fmt: skip
        address = str(answer.headers.get("Location", ""))
        if answer.status != 200 or urlsplit(address).netloc != self._storage_host:
            raise not_a_store(Reply(answer.status))
        return GcsUpload(self._storage.session, self._seconds, key, address, size)

    def begun(self, key: str, upload_id: str) -> "GcsUpload":
        return GcsUpload(self._storage.session, self._seconds, key, upload_id, 0)

    async def unfinished(self, key: str) -> "list[GcsUpload]":
        """None: sessions are known to those who began them, and end after a week by themselves."""
        return []

    async def delete(self, uploaded: Uploaded) -> bool:
        """Delete the generation that was written, which leaves no former version behind."""
        which = {"generation": uploaded.version} if uploaded.version else {}
        with refusals(Step.DELETE, partial(_answered, FAULTS)):
            said = await self._storage.delete(self._bucket, uploaded.key, params=which, timeout=self._seconds)
        if is_page("", said.encode()):
            raise not_a_store()
        return False


class GcsUpload:
    """A resumable upload: chunks in their order, to the address that is its `id`; the last one makes the object.

    https://cloud.google.com/storage/docs/performing-resumable-uploads
    """

    in_turn = True

    def __init__(self, session: Any, seconds: int, key: str, upload_id: str, size: int) -> None:
        self.id = upload_id
        self._session = session
        self._seconds = seconds
        self._key = key
        self._size = size
        self._kept = 0
        self._unsure = False
        self._object: dict[str, Any] | None = None

    async def part(self, number: int, body: bytes, at: int, *, last: bool) -> None:
        """What the service has kept of it already is not sent again."""
        if self._unsure:
            await self._put(b"", f"bytes */{self._size}")
        self._unsure = True
        end = at + len(body)
        while self._object is None and self._kept < end:
            kept = self._kept
            if kept < at:
                raise _anew()
            await self._put(body[kept - at :], f"bytes {kept}-{end - 1}/{self._size}")
            if self._object is None and self._kept <= kept:
                raise Refused(Fault.PROVIDER_UNAVAILABLE)
        if last and self._object is None:
            raise Refused(Fault.PROVIDER_UNAVAILABLE)
        self._unsure = False

    async def complete(self, md5: bytes) -> Uploaded:
        """The last chunk has made the object; its MD5 is compared now, since a chunk carries none that is checked."""
        made = self._object
        if made is None or made.get("md5Hash") not in (None, base64.b64encode(md5).decode()):
            raise _anew()
        return _uploaded(self._key, made)

    async def stored(self, md5: bytes) -> Uploaded | None:
        """`complete` asks nothing of the service whose answer could be lost."""
        return None

    async def abort(self) -> None:
        """Google answers 499 to a session that is ended so; one that is not there any more has ended before."""
        try:
            with refusals(Step.UPLOAD, partial(_answered, FAULTS)):
                await self._session.delete(self.id, headers={"Content-Length": "0"}, timeout=self._seconds)
        except Refused as refused:
            if refused.status not in _ENDED:
                raise

    async def _put(self, body: bytes, content_range: str) -> None:
        """Send what `content_range` says, and note how much the service has kept, or the object."""
        headers = {"Content-Range": content_range, "Content-Length": str(len(body))}
        seconds = self._seconds + len(body) // SLOWEST
        try:
            with refusals(Step.UPLOAD, _chunk_answered):
                answer = await self._session.put(self.id, data=file_like(body), headers=headers, timeout=seconds)
                said = json.loads(await answer.read())
        except _Incomplete as incomplete:
            self._kept = incomplete.kept
            return
        except Refused as refused:
            if refused.status in (404, 410):
                raise UploadGone(refused) from None
            raise
        if not isinstance(said, dict):
            raise not_a_store(Reply(answer.status))
        self._object, self._kept = said, self._size


def _uploaded(key: str, answer: Any) -> Uploaded:
    """Raises Refused for a success that describes no object."""
    if not isinstance(answer, dict) or not (answer.get("etag") and answer.get("generation")):
        raise not_a_store()
    return Uploaded(key, str(answer["etag"]), str(answer["generation"]))


def _anew() -> UploadGone:
    return UploadGone(Refused(Fault.PROVIDER_UNAVAILABLE))


class _Incomplete(Exception):
    """The service has kept `kept` bytes and wants the rest."""

    def __init__(self, kept: int) -> None:
        super().__init__(kept)
        self.kept = kept


def _chunk_answered(error: Exception, step: Step) -> Refused | None:
    """308, which is a redirect elsewhere, says how much was kept."""
    if isinstance(error, RedirectRefused) and error.status == _RESUME:
        found = re.fullmatch(r"bytes=0-(\d{1,15})", error.headers.get("range", ""))
        raise _Incomplete(int(found[1]) + 1 if found else 0) from None
    return _answered(FAULTS, error, step)


def _answered(faults: FaultTable, error: Exception, step: Step) -> Refused | None:
    if isinstance(error, aiohttp.ContentTypeError):
        return not_a_store(Reply(error.status))
    if isinstance(error, aiohttp.ClientResponseError):
        # An answer that is no HTTP is an error of the same class, and has its cause attached.
        return transport_refusal(error) or faults.refused(_reply(error, faults is TOKEN_FAULTS), step)
    return None


def _reply(error: aiohttp.ClientResponseError, oauth: bool) -> Reply:
    """The library puts the body behind the status's phrase: a JSON API error, or from the issuer of tokens an OAuth
    one."""
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
        case {"error": str(short), **rest} if oauth:
            code, message = short, str(rest.get("error_description", ""))
    # What takes uploads says of a bucket that is not there "Not Found", without a document (googleCloudStorageR#140).
    upload_id = error.headers.get("X-GUploader-UploadID", "") if error.headers else ""
    return Reply(error.status, code, message, upload_id, signed=bool(upload_id))


class GcsProvider:
    """Opens buckets; each with a token of its own, so that a key which was withdrawn is noticed. No request takes
    longer than `seconds`, in whole ones."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, token_endpoint: str, seconds: float) -> None:
        # The library is generated for `requests` too, and by its types would take only that one's sessions.
        self._session: Any = session
        self._endpoint = endpoint
        self._token_endpoint = token_endpoint
        self._seconds = max(1, round(seconds))
        # The hashes of keys that passed the checks: what has the same hash is the same key, and passes them again.
        self._passed: OrderedDict[bytes, None] = OrderedDict()

    def host(self, spec: Spec) -> str:
        return urlsplit(self._endpoint).netloc

    async def open(self, spec: Spec, location: Location) -> GcsBucket:
        """Raises Refused where the private key cannot be read: nothing was asked of Google then."""
        assert isinstance(spec, GcsSpec) and spec.gcs_service_account_key
        # The token's address is ours, since the one in a customer's key could send the assertion anywhere. The library
        # is given a file object, since it would take a string for the path of a file on this machine.
        account = {**json.loads(spec.gcs_service_account_key.get_secret_value()), "token_uri": self._token_endpoint}
        token = _Token(io.StringIO(json.dumps(account)), session=self._session, scopes=SCOPES)
        token.service_data["private_key"] = await self._private_key(account["private_key"])
        storage = Storage(token=token, session=self._session, api_root=self._endpoint, api_is_dev=False)
        return GcsBucket(token, storage, spec.gcs_bucket_name, self._endpoint, self._seconds)

    async def _private_key(self, pem: str) -> RSAPrivateKey:
        """Raises Refused. A key that is seen first is read in a thread, since its checks take their time."""
        hashed = hashlib.sha256(pem.encode()).digest()
        if hashed in self._passed:
            self._passed.move_to_end(hashed)
            return _read(pem, passed=True)
        key = await asyncio.to_thread(_read, pem, passed=False)
        self._passed[hashed] = None
        if len(self._passed) > KEYS_KEPT:
            self._passed.popitem(last=False)
        return key


def _read(pem: str, *, passed: bool) -> RSAPrivateKey:
    """The key as the signer takes it; without the checks of an RSA key, most of its cost, where it has `passed`."""
    try:
        key = load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=passed)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Refused(Fault.SECRET_MISMATCH) from None
    if not isinstance(key, RSAPrivateKey):
        raise Refused(Fault.SECRET_MISMATCH)
    return key
