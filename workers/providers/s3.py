"""The S3 dialect, for Amazon S3, S3-compatible services and Google Cloud Storage with HMAC keys.

A client is made once for each endpoint and shared by everybody's credentials: it signs each request with those
of the task that makes it, and with nothing else.
"""

import base64
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentialResolver, AioCredentials
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from app.domain.errors import Fault
from app.domain.specs.base import S3Access, Spec
from app.domain.verification import Step
from app.settings import Settings
from workers.egress import CONNECT_SECONDS, RedirectRefused
from workers.providers.base import (
    CONTENT_TYPE,
    STUMBLES,
    FaultTable,
    Refused,
    Reply,
    Uploaded,
    stumbled,
    transport_refusal,
)

# From S3's list of error codes and the services named in the comments.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
FAULTS = FaultTable(
    codes={
        "InvalidAccessKeyId": Fault.ACCESS_KEY_UNKNOWN,
        "InvalidClientTokenId": Fault.ACCESS_KEY_UNKNOWN,
        "InvalidSecurity": Fault.ACCESS_KEY_UNKNOWN,  # Google Cloud Storage
        "Unauthorized": Fault.ACCESS_KEY_UNKNOWN,  # Cloudflare R2
        "SignatureDoesNotMatch": Fault.SECRET_MISMATCH,
        "ExpiredToken": Fault.CREDENTIALS_EXPIRED,
        "InvalidToken": Fault.CREDENTIALS_EXPIRED,
        "TokenRefreshRequired": Fault.CREDENTIALS_EXPIRED,
        "ExpiredRequest": Fault.CREDENTIALS_EXPIRED,  # Cloudflare R2
        "AccountProblem": Fault.ACCOUNT_SUSPENDED,
        "AllAccessDisabled": Fault.ACCOUNT_SUSPENDED,
        "NotSignedUp": Fault.ACCOUNT_SUSPENDED,
        "InvalidPayer": Fault.ACCOUNT_SUSPENDED,
        "RequestTimeTooSkewed": Fault.CLOCK_SKEW,
        "NoSuchBucket": Fault.BUCKET_NOT_FOUND,
        "PermanentRedirect": Fault.BUCKET_WRONG_REGION,
        "TemporaryRedirect": Fault.BUCKET_WRONG_REGION,
        "Redirect": Fault.BUCKET_WRONG_REGION,
        "AuthorizationHeaderMalformed": Fault.BUCKET_WRONG_REGION,
        "IllegalLocationConstraintException": Fault.BUCKET_WRONG_REGION,
        "AccessDenied": Fault.WRITE_DENIED,
        "AllAccessDenied": Fault.WRITE_DENIED,
        "KMS.DisabledException": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "KMS.NotFoundException": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "KMS.KMSInvalidStateException": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "AccessControlListNotSupported": Fault.REQUEST_CONDITION_DENIED,
        "RetentionPolicyNotMet": Fault.DELETE_BLOCKED_BY_RETENTION,  # Google Cloud Storage
        "ObjectUnderActiveHold": Fault.DELETE_BLOCKED_BY_RETENTION,  # Google Cloud Storage
        "UserProjectMissing": Fault.REQUESTER_PAYS,  # Google Cloud Storage
        "QuotaExceeded": Fault.QUOTA_EXCEEDED,  # Ceph, MinIO
        "XMinioStorageFull": Fault.QUOTA_EXCEEDED,
        "SlowDown": Fault.THROTTLED,
        "ServiceUnavailable": Fault.THROTTLED,
        "TooManyRequests": Fault.THROTTLED,
        "InternalError": Fault.PROVIDER_UNAVAILABLE,
        "RequestTimeout": Fault.PROVIDER_UNAVAILABLE,
        "NotImplemented": Fault.PROTOCOL_UNSUPPORTED,
        "MissingContentLength": Fault.PROTOCOL_UNSUPPORTED,
        "XAmzContentSHA256Mismatch": Fault.PROTOCOL_UNSUPPORTED,
        "SecondLevelDomainForbidden": Fault.PROTOCOL_UNSUPPORTED,  # Alibaba Cloud
    },
    vague=frozenset({"AccessDenied", "InvalidRequest", "403"}),
    messages=(
        (re.compile(r"object lock|retention|legal hold", re.I), Fault.DELETE_BLOCKED_BY_RETENTION),
        (re.compile(r"kms:", re.I), Fault.ENCRYPTION_KEY_UNAVAILABLE),
        (re.compile(r"prohibited by organization's policy", re.I), Fault.NETWORK_DENIED),
        (re.compile(r"use AWS4-HMAC-SHA256", re.I), Fault.PROTOCOL_UNSUPPORTED),
    ),
)

CLIENTS_KEPT = 64
REGIONS_KEPT = 10_000
_REGION = re.compile(r"[a-z0-9-]{1,63}")
_AWS_LOCATOR = "https://s3.us-east-1.amazonaws.com"

_credentials: ContextVar[ReadOnlyCredentials] = ContextVar("s3_credentials")


class _TaskCredentials(AioCredentials):
    """The credentials of the task that signs: read from its context each time, never kept."""

    def __init__(self) -> None:
        super().__init__("of-the-task", "of-the-task", method="explicit")

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return _credentials.get()


class _OnlyTaskCredentials:
    """The one credential provider there is: neither environment nor files nor instance metadata are asked."""

    METHOD = "task"

    async def load(self) -> AioCredentials:
        return _TaskCredentials()


class _GuardedHTTP(AIOHTTPSession):
    """aiobotocore's transport on the guarded session that all providers share; it has nothing of its own to close."""

    def __init__(self, shared: aiohttp.ClientSession, **options: Any) -> None:
        super().__init__(**options)
        self._shared = shared

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        return self._shared

    async def send(self, request: Any) -> Any:
        """Refuses a web page here, since botocore would turn its 200 into a 500, as if a store had failed."""
        answer = await super().send(request)
        if request.method != "GET" and answer.status_code == 200 and _is_page(answer.headers, await answer.content):
            raise Refused(Fault.NOT_A_STORAGE_ENDPOINT, Reply(200))
        return answer


def _is_page(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a success says something that is not XML, as no store does."""
    return bool(body) and ("html" in headers.get("Content-Type", "") or not body.lstrip().startswith(b"<"))


@dataclass(frozen=True)
class _Place:
    """Where a bucket is reached: None as `endpoint` means AWS's own for the region."""

    endpoint: str | None
    region: str
    addressing: str

    def host(self, bucket: str) -> str:
        """The host that requests for `bucket` go to."""
        host = urlsplit(self.endpoint).netloc if self.endpoint else f"s3.{self.region}.amazonaws.com"
        virtual = self.addressing == "virtual" or (self.addressing == "auto" and "." not in bucket)
        return f"{bucket}.{host}" if virtual else host


class S3Bucket:
    """One customer's bucket at one place, with that customer's credentials."""

    def __init__(self, client: Any, access: S3Access, bucket: str, place: _Place, found: str | None) -> None:
        self.host = place.host(bucket)
        self.region = found
        self._client = client
        self._bucket = bucket
        self._credentials = ReadOnlyCredentials(
            access.access_key.get_secret_value(), access.secret_key.get_secret_value(), None, None
        )
        # botocore would look for others in the environment if these were empty.
        assert self._credentials.access_key and self._credentials.secret_key

    async def upload(self, key: str, body: bytes) -> Uploaded:
        """One PUT with Content-MD5, which buckets with object lock demand."""
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        put = partial(
            self._client.put_object,
            Bucket=self._bucket, Key=key, Body=body, ContentMD5=digest, ContentType=CONTENT_TYPE,
        )  # fmt: skip
        answer = await self._call(put, Step.UPLOAD)
        if not answer.get("ETag"):
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            raise Refused(Fault.NOT_A_STORAGE_ENDPOINT, Reply(status))
        version = answer.get("VersionId")
        return Uploaded(key, answer["ETag"].strip('"'), version if version != "null" else None)

    async def delete(self, uploaded: Uploaded) -> None:
        which = {"VersionId": uploaded.version} if uploaded.version else {}
        remove = partial(self._client.delete_object, Bucket=self._bucket, Key=uploaded.key, **which)
        await self._call(remove, Step.DELETE)

    async def _call(self, call: Callable[[], Awaitable[dict[str, Any]]], step: Step) -> dict[str, Any]:
        token = _credentials.set(self._credentials)
        try:
            return await call()
        except ClientError as error:
            raise _refused(error, step) from None
        except ResponseParserError:
            raise Refused(Fault.NOT_A_STORAGE_ENDPOINT, unknown_outcome=True) from None
        except (BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise _transport(error) from None
        except STUMBLES as error:
            raise stumbled(error) from None
        finally:
            _credentials.reset(token)


def _refused(error: ClientError, step: Step) -> Refused:
    said = error.response.get("Error", {})
    meta = error.response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    code = str(said.get("Code", ""))
    reply = Reply(
        status=status,
        # Without a body botocore puts the status where the code would be.
        code="" if code == str(status) else code,
        message=str(said.get("Message", "")),
        request_id=str(meta.get("RequestId") or meta.get("HTTPHeaders", {}).get("x-guploader-uploadid", "")),
    )
    refused = FAULTS.refused(reply, step)
    hint = str(said.get("Region", ""))
    if refused.fault is Fault.BUCKET_WRONG_REGION and _REGION.fullmatch(hint):
        refused.detail = f" (the service names {hint})"
    return refused


def _transport(error: BaseException) -> Refused:
    refused = transport_refusal(error)
    return refused or Refused(Fault.NOT_A_STORAGE_ENDPOINT, unknown_outcome=True)


class S3Provider:
    """Opens buckets of the three types that speak this dialect."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._clients: OrderedDict[_Place, Any] = OrderedDict()
        self._regions: OrderedDict[str, str] = OrderedDict()
        botocore_session = get_session()
        botocore_session.register_component("credential_provider", AioCredentialResolver([_OnlyTaskCredentials()]))
        self._aioboto3 = aioboto3.Session(botocore_session=botocore_session)

    def needs_locating(self, spec: Spec) -> bool:
        """Amazon S3 is not told the region; it is asked once for each bucket and remembered."""
        return spec.type == "s3" and spec.bucket not in self._regions

    def host(self, spec: Spec) -> str:
        """The host that locates an Amazon bucket, or else the bucket's own."""
        access: S3Access = spec.s3_access()  # type: ignore[attr-defined]
        endpoint = access.endpoint or self._endpoint(spec) or _AWS_LOCATOR
        return _Place(endpoint, "", access.addressing if access.endpoint else "path").host(spec.bucket)

    async def open(self, spec: Spec) -> S3Bucket:
        access: S3Access = spec.s3_access()  # type: ignore[attr-defined]
        own = self._endpoint(spec)
        found = None if access.region else await self._region(spec.bucket)
        place = _Place(
            endpoint=access.endpoint or own,
            region=access.region or found or "",
            addressing="path" if own else access.addressing,
        )
        return S3Bucket(await self._client(place), access, spec.bucket, place, found)

    def forget(self, spec: Spec) -> None:
        """Look the bucket's region up again next time: what was remembered proved wrong."""
        self._regions.pop(spec.bucket, None)

    async def warm_up(self) -> None:
        """Load the service model, which blocks for a tenth of a second, before the first job needs it."""
        await self._client(_Place(None, "us-east-1", "auto"))

    def _endpoint(self, spec: Spec) -> str | None:
        return {"s3": self._settings.s3_endpoint or None, "gcs": self._settings.gcs_endpoint}.get(spec.type)

    async def _region(self, bucket: str) -> str:
        """The bucket's region, from one unsigned HEAD: S3 names it in a header whatever the status is.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html
        """
        if region := self._regions.get(bucket):
            return region
        url = f"{self._settings.s3_endpoint or _AWS_LOCATOR}/{bucket}"
        try:
            async with self._session.head(url) as answer:
                status, headers = answer.status, {n.lower(): v for n, v in answer.headers.items()}
        except RedirectRefused as redirect:
            status, headers = redirect.status, redirect.headers
        except (aiohttp.ClientError, OSError) as error:
            raise _transport(error) from None
        region = headers.get("x-amz-bucket-region", "")
        if status == 404:
            reply = Reply(404, "NoSuchBucket", request_id=headers.get("x-amz-request-id", ""))
            raise Refused(Fault.BUCKET_NOT_FOUND, reply)
        if status >= 500:
            raise FAULTS.refused(Reply(status), Step.LOCATE)
        if not _REGION.fullmatch(region):
            region = "us-east-1"
        self._regions[bucket] = region
        if len(self._regions) > REGIONS_KEPT:
            self._regions.popitem(last=False)
        return region

    async def _client(self, place: _Place) -> Any:
        """The client for `place`, the least recently used one making room: it holds no connection of its own."""
        if place in self._clients:
            self._clients.move_to_end(place)
            return self._clients[place]
        config = AioConfig(
            http_session_cls=partial(_GuardedHTTP, self._session),
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_SECONDS,
            signature_version="s3v4",
            proxies={},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": place.addressing, "us_east_1_regional_endpoint": "regional"},
        )
        options: dict[str, Any] = {"region_name": place.region, "endpoint_url": place.endpoint, "config": config}
        client = await self._aioboto3.client("s3", **options).__aenter__()
        client.meta.events.register("before-sign.s3", _without_expect)
        client.meta.events.register("before-call.s3", _without_redirects)
        self._clients[place] = client
        if len(self._clients) > CLIENTS_KEPT:
            self._clients.popitem(last=False)
        return client


def _without_expect(request: Any, **_: object) -> None:
    """aiohttp waits for the interim answer without any bound, and a small body has no use for one."""
    if "Expect" in request.headers:
        del request.headers["Expect"]


def _without_redirects(context: dict[str, Any], **_: object) -> None:
    """botocore asks HEAD again and again of a host that redirects without naming a region; one call is one request."""
    context.setdefault("s3_redirect", {})["redirected"] = True
