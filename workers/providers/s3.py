"""The S3 dialect, for Amazon S3, S3-compatible services and Google Cloud Storage with HMAC keys.

A client is made once for each endpoint and shared by everybody's credentials: it signs each request with those
of the task that makes it, and with nothing else.
"""

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
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
from app.domain.specs.s3compatible import REGION
from app.domain.verification import NOTHING_FOUND, Found, Step
from app.settings import Settings
from workers.egress import CONNECT_SECONDS, RedirectRefused, watch_anew
from workers.providers.base import (
    CONTENT_TYPE,
    STUMBLES,
    FaultTable,
    Refused,
    Reply,
    Uploaded,
    cause,
    content_md5,
    stumbled,
    unanswered,
)

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
        "UserProjectMissing": Fault.REQUESTER_PAYS,
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
        "PathStyleDomainForbidden": Fault.PROTOCOL_UNSUPPORTED,  # Tencent Cloud
    },
    # A bucket policy's explicit deny is one text, whether it is by address, by header or for everybody.
    vague=frozenset({"AccessDenied", "InvalidRequest", "InvalidArgument", "BadRequest"}),
    messages=(
        # The last is MinIO's. Of an upload, the first says that the bucket demands a checksum.
        (re.compile(r"object lock|retention|legal hold|WORM protected", re.I), Fault.DELETE_BLOCKED_BY_RETENTION),
        (re.compile(r"kms:", re.I), Fault.ENCRYPTION_KEY_UNAVAILABLE),
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

CLIENTS_KEPT = 64
REGIONS_KEPT = 10_000
_CODE_IN_XML = re.compile(rb"<Code>(\w{1,64})</Code>")
_AWS_LOCATOR = "https://s3.us-east-1.amazonaws.com"
# How a bucket shows that it is not, or no longer, where it was called.
_MISPLACED = frozenset(
    {
        Fault.BUCKET_WRONG_REGION,
        Fault.REDIRECT_REFUSED,  # S3, to where the bucket is
        Fault.BUCKET_NOT_FOUND,
        Fault.HOST_NOT_FOUND,
        Fault.TLS_FAILURE,
    }
)
_VIRTUAL_DEMANDED = frozenset({"SecondLevelDomainForbidden", "PathStyleDomainForbidden"})
_IN_A_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

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

    def takes(self, bucket: str) -> bool:
        """Whether `bucket` can be a part of the host's name; over TLS, one part only."""
        labels = bucket.split(".")
        secure = not (self.endpoint or "").startswith("http://")
        return all(_IN_A_HOST.fullmatch(label) for label in labels) and not (secure and len(labels) > 1)


class _RegionNamed(Refused):
    """The service says in which region the bucket is."""

    def __init__(self, reply: Reply, region: str, detail: str) -> None:
        super().__init__(Fault.BUCKET_WRONG_REGION, reply, detail=detail)
        self.region = region


class S3Bucket:
    """One customer's bucket, with that customer's credentials. `client_for` has the client for a place; `anew` looks
    for the bucket as if nothing were known of it, where what is known may have become wrong."""

    host: str
    found: Found

    def __init__(
        self,
        access: S3Access,
        bucket: str,
        client_for: Callable[[_Place], Awaitable[Any]],
        anew: Callable[[], Awaitable[_Place]] | None,
    ) -> None:
        self._access = access
        # A host of the customer's choice could have anything repeated to whoever reads the report.
        self._stranger = access.endpoint is not None
        self._bucket = bucket
        self._client_for = client_for
        self._anew = anew
        self._corrected: set[str] = set()
        self._credentials = ReadOnlyCredentials(
            access.access_key.get_secret_value(), access.secret_key.get_secret_value(), None, None
        )
        # botocore would look for others in the environment if these were empty.
        assert self._credentials.access_key and self._credentials.secret_key

    async def go(self, place: _Place) -> None:
        """Call the bucket at `place` from now on."""
        if place.addressing == "virtual" and not place.takes(self._bucket):
            raise Refused(Fault.BUCKET_NAME_NOT_A_HOST)
        self._client = await self._client_for(place)
        self._place, self.host = place, place.host(self._bucket)
        assumed = self._access.assumed
        self.found = Found(
            region=place.region if self._access.region is None or "region" in assumed else None,
            addressing=place.addressing if "addressing" in assumed else None,
        )

    async def upload(self, key: str, body: bytes) -> Uploaded:
        """One PUT; and one more, there, for each thing that a refusal tells about where to call."""
        while True:
            try:
                return await self._put(key, body)
            except Refused as refused:
                place, host = await self._elsewhere(refused), self.host
                if not place:
                    raise
            await self.go(place)
            if self.host != host:
                watch_anew()

    async def _elsewhere(self, refused: Refused) -> _Place | None:
        """Where to call instead, if `refused` tells, and has not told the like before: no service may keep us going."""
        place, assumed = self._place, self._access.assumed - self._corrected
        if "addressing" in assumed and refused.provider_code in _VIRTUAL_DEMANDED:
            self._corrected.add("addressing")
            place = replace(place, addressing="virtual")
        elif "region" in assumed and isinstance(refused, _RegionNamed):
            self._corrected.add("region")
            place = replace(place, region=refused.region)
        elif self._anew and not self._corrected and refused.fault in _MISPLACED:
            self._corrected.add("all")
            place = await self._anew()
        return place if place != self._place else None

    async def _put(self, key: str, body: bytes) -> Uploaded:
        """With Content-MD5, which buckets with object lock demand."""
        put = partial(
            self._client.put_object,
            Bucket=self._bucket, Key=key, Body=body, ContentMD5=content_md5(body), ContentType=CONTENT_TYPE,
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
            raise _refused(error, step, self._stranger) from None
        except ResponseParserError:
            raise Refused(Fault.NOT_A_STORAGE_ENDPOINT, unknown_outcome=True) from None
        except (BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise _transport(error, step, self._stranger) from None
        except STUMBLES as error:
            raise stumbled(error) from None
        finally:
            _credentials.reset(token)


def _refused(error: ClientError, step: Step, stranger: bool) -> Refused:
    said = error.response.get("Error", {})
    meta = error.response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    code = str(said.get("Code") or "")  # an empty element is None
    reply = Reply(
        status=status,
        # Without a body botocore puts the status where the code would be.
        code="" if code == str(status) else code,
        # Google tells the reason in the details.
        message=f"{said.get('Message')} {said.get('Details')}",
        request_id=str(meta.get("RequestId") or meta.get("HTTPHeaders", {}).get("x-guploader-uploadid", "")),
    )
    return _told(reply, step, str(said.get("Region")), stranger)


def _transport(error: BaseException, step: Step, stranger: bool = False) -> Refused:
    """The refusal where botocore had no answer to read, which a redirect is too: S3 says in it why it redirects."""
    redirect = cause(error, RedirectRefused)
    code = _CODE_IN_XML.search(redirect.body) if redirect else None
    if code and code[1].decode() in FAULTS.codes:
        request_id = redirect.headers.get("x-amz-request-id", "")
        reply = Reply(redirect.status, code[1].decode(), request_id=request_id)
        # Where a stranger redirects to another host, it would not be content with another region at this one.
        region = "" if stranger else redirect.headers.get("x-amz-bucket-region", "")
        return _told(reply, step, region, stranger)
    return unanswered(error)


def _told(reply: Reply, step: Step, region: str, stranger: bool) -> Refused:
    """`reply` as a refusal, with what else it tells; of a stranger's words only a well-formed code is repeated."""
    reply = replace(reply, request_id="") if stranger else reply
    refused = FAULTS.refused(reply, step)
    if refused.fault is Fault.BUCKET_WRONG_REGION and REGION.fullmatch(region):
        return _RegionNamed(reply, region, "" if stranger else f" (the service names {region})")
    if not stranger and refused.fault in (Fault.WRITE_DENIED, Fault.DELETE_DENIED):
        refused.detail = next((f" ({meaning})" for sign, meaning in _POLICIES if sign in reply.message), "")
    return refused


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

    def needs_locating(self, spec: Spec, found: Found) -> bool:
        """Amazon S3 is not told the region; it is asked once for each bucket, and again where that proves wrong."""
        return spec.type == "s3" and not found.region and spec.bucket not in self._regions

    def host(self, spec: Spec) -> str:
        """The host that locates an Amazon bucket, or else the bucket's own."""
        access: S3Access = spec.s3_access()  # type: ignore[attr-defined]
        endpoint = access.endpoint or self._endpoint(spec) or _AWS_LOCATOR
        return _Place(endpoint, "", access.addressing if access.endpoint else "path").host(spec.bucket)

    async def open(self, spec: Spec, found: Found) -> S3Bucket:
        access: S3Access = spec.s3_access()  # type: ignore[attr-defined]
        asked = self.needs_locating(spec, found)
        bucket = S3Bucket(access, spec.bucket, self._client, None if asked else partial(self._anew, spec))
        await bucket.go(await self._place(spec, found))
        return bucket

    async def _place(self, spec: Spec, found: Found) -> _Place:
        """Where to call first: what the parameters say, else what was found, else a guess or what S3 says."""
        access: S3Access = spec.s3_access()  # type: ignore[attr-defined]
        own = self._endpoint(spec)
        region = access.region
        if region is None:
            region = self._regions.get(spec.bucket) or found.region or await self._located(spec.bucket)
        elif "region" in access.assumed:
            region = found.region or region
        addressing: str = "path" if own else access.addressing
        if "addressing" in access.assumed:
            addressing = found.addressing or addressing
        return _Place(access.endpoint or own, region, addressing)

    async def _anew(self, spec: Spec) -> _Place:
        """As if nothing were known: a bucket that was deleted may have been made again in another region."""
        self._regions.pop(spec.bucket, None)
        return await self._place(spec, NOTHING_FOUND)

    async def warm_up(self) -> None:
        """Load the service model, which blocks for a tenth of a second, before the first job needs it."""
        await self._client(_Place(None, "us-east-1", "auto"))

    def _endpoint(self, spec: Spec) -> str | None:
        return {"s3": self._settings.s3_endpoint or None, "gcs": self._settings.gcs_endpoint}.get(spec.type)

    async def _located(self, bucket: str) -> str:
        """The bucket's region, from one unsigned HEAD: S3 names it in a header whatever the status is.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html
        """
        url = f"{self._settings.s3_endpoint or _AWS_LOCATOR}/{bucket}"
        try:
            async with self._session.head(url) as answer:
                status, headers = answer.status, {n.lower(): v for n, v in answer.headers.items()}
        except RedirectRefused as redirect:
            status, headers = redirect.status, redirect.headers
        except (aiohttp.ClientError, OSError) as error:
            raise _transport(error, Step.LOCATE) from None
        region = headers.get("x-amz-bucket-region", "")
        if status == 404:
            reply = Reply(404, "NoSuchBucket", request_id=headers.get("x-amz-request-id", ""))
            raise Refused(Fault.BUCKET_NOT_FOUND, reply)
        if status >= 500:
            raise FAULTS.refused(Reply(status), Step.LOCATE)
        if not REGION.fullmatch(region):
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
