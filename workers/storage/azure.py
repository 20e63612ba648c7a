"""Microsoft Azure Blob Storage with an account's key, by azure-storage-blob."""

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.settings import settings
from azure.storage.blob import BlobBlock, ContentSettings
from azure.storage.blob.aio import BlobClient

from app.domain.faults import Fault
from app.domain.types.azure import AzureSpec
from app.domain.types.base import Spec
from app.domain.verification import UNKNOWN_LOCATION, Location, Step
from workers.egress.guard import CONNECT_SECONDS
from workers.storage.port import CONTENT_TYPE, Uploaded, UploadGone, file_like
from workers.storage.refusals import FaultTable, Refused, Reply, is_page, not_a_store, refusals

# https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes and common-rest-api-error-codes
FAULTS = FaultTable(
    codes={
        "AuthenticationFailed": Fault.SECRET_MISMATCH,
        "InvalidAuthenticationInfo": Fault.SECRET_MISMATCH,
        "KeyBasedAuthenticationNotPermitted": Fault.AUTH_METHOD_DISABLED,
        "AccountIsDisabled": Fault.ACCOUNT_SUSPENDED,
        "ContainerNotFound": Fault.BUCKET_NOT_FOUND,
        "ContainerBeingDeleted": Fault.BUCKET_NOT_FOUND,
        "ContainerDisabled": Fault.BUCKET_NOT_FOUND,
        "ResourceNotFound": Fault.BUCKET_NOT_FOUND,
        "AuthorizationPermissionMismatch": Fault.WRITE_DENIED,
        "InsufficientAccountPermissions": Fault.WRITE_DENIED,
        "AuthorizationResourceTypeMismatch": Fault.WRITE_DENIED,
        "AuthorizationServiceMismatch": Fault.WRITE_DENIED,
        "AuthorizationFailure": Fault.NETWORK_DENIED,
        "AuthorizationSourceIPMismatch": Fault.NETWORK_DENIED,
        "AuthorizationProtocolMismatch": Fault.REQUEST_CONDITION_DENIED,
        "AccountRequiresHttps": Fault.REQUEST_CONDITION_DENIED,
        "TlsVersionNotPermitted": Fault.REQUEST_CONDITION_DENIED,
        "BlobUsesCustomerSpecifiedEncryption": Fault.ENCRYPTION_REQUIRED,
        "KeyVaultEncryptionKeyNotFound": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "KeyVaultVaultNotFound": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "KeyVaultAccessTokenCannotBeAcquired": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "BlobImmutableDueToPolicy": Fault.DELETE_BLOCKED_BY_RETENTION,
        "BlobImmutableDueToLegalHold": Fault.DELETE_BLOCKED_BY_RETENTION,
        "LeaseIdMissing": Fault.DELETE_BLOCKED_BY_RETENTION,
        "ServerBusy": Fault.THROTTLED,
        "OperationTimedOut": Fault.THROTTLED,
        "InternalError": Fault.PROVIDER_UNAVAILABLE,
        "UnsupportedHeader": Fault.PROTOCOL_UNSUPPORTED,
        "FeatureVersionMismatch": Fault.PROTOCOL_UNSUPPORTED,
    },
    # A wrong key and a wrong clock have one code; the detail tells them apart.
    vague=frozenset({"AuthenticationFailed", "InvalidHeaderValue"}),
    messages=(
        (re.compile(r"request date header", re.I), Fault.CLOCK_SKEW),
        (re.compile(r"x-ms-version", re.I), Fault.PROTOCOL_UNSUPPORTED),
    ),
    absent=re.compile(r"BlobNotFound"),
)

# Azure says AuthorizationFailure where a network rule refuses. Azurite says it for a wrong key, and has no network
# rules, so at an endpoint that is not Azure's it means the key. An account that is not there has no host name with
# Azure; Azurite says ResourceNotFound.
_EMULATOR_FAULTS = replace(
    FAULTS,
    codes={
        **FAULTS.codes,
        "AuthorizationFailure": Fault.SECRET_MISMATCH,
        "ResourceNotFound": Fault.ACCESS_KEY_UNKNOWN,
    },
)
_BLOCKS_GONE = frozenset({"InvalidBlockList", "InvalidBlobOrBlock", "InvalidBlockId"})
_AZURE_HOSTS = (".core.windows.net", ".storage.azure.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net")


class _Transport(AioHttpTransport):
    """The SDK's own, but for what it does with a large body."""

    def _get_request_data(self, request: Any) -> Any:
        data = super()._get_request_data(request)
        return file_like(data) if isinstance(data, bytes) else data


class AzureBucket:
    """One container, with the key of its account."""

    location = UNKNOWN_LOCATION
    located = False
    parts_expire = True

    def __init__(self, session: aiohttp.ClientSession, spec: AzureSpec, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.netloc
        self._faults = FAULTS if (parts.hostname or "").endswith(_AZURE_HOSTS) else _EMULATOR_FAULTS
        self._blob = partial(
            BlobClient,
            url,
            spec.azure_container_name,
            credential={
                "account_name": spec.azure_account_name,
                "account_key": spec.azure_account_key.get_secret_value(),
            },
            transport=_Transport(session=session, session_owner=False, use_env_settings=False),
            user_agent_use_env=False,
            retry_total=0,
            permit_redirects=False,
            connection_timeout=CONNECT_SECONDS,
        )

    async def upload(self, key: str, body: bytes, content_type: str = CONTENT_TYPE) -> Uploaded:
        """One Put Blob; the service checks the Content-MD5 that is sent with it."""
        settings = ContentSettings(content_type=content_type)
        with refusals(Step.UPLOAD, self._answered, AzureError):
            answer = await self._blob(key).upload_blob(
                body,
                length=len(body),
                overwrite=True,
                validate_content=True,
                content_settings=settings,
                raw_response_hook=_require_no_page,
            )
        if not answer.get("etag"):
            raise not_a_store()
        return _uploaded(key, answer)

    async def begin(self, key: str, content_type: str, size: int) -> "AzureUpload":
        """Nothing is asked of the service: blocks wait for their list under a name of this upload's own."""
        return self._upload(key, secrets.token_hex(8), content_type)

    def begun(self, key: str, upload_id: str) -> "AzureUpload":
        return self._upload(key, upload_id, CONTENT_TYPE)

    async def unfinished(self, key: str) -> "list[AzureUpload]":
        """None: the service drops blocks that belong to no blob."""
        return []

    def _upload(self, key: str, upload_id: str, content_type: str) -> "AzureUpload":
        return AzureUpload(self._blob(key), self._answered, key, upload_id, content_type)

    async def delete(self, uploaded: Uploaded) -> bool:
        """Delete Blob, which turns the current version into a former one; that is deleted by its id then."""
        blob = self._blob(uploaded.key)
        with refusals(Step.DELETE, self._answered, AzureError):
            await blob.delete_blob(raw_response_hook=_require_no_page)
            if uploaded.version:
                await blob.delete_blob(version_id=uploaded.version, raw_response_hook=_require_no_page)
        return False

    def _answered(self, error: Exception, step: Step) -> Refused | None:
        return self._faults.refused(_reply(error), step) if isinstance(error, HttpResponseError) else None


class AzureUpload:
    """Blocks, and then a list of them. What is in no list Azure drops by itself after a week: there is no call for it.

    https://learn.microsoft.com/rest/api/storageservices/put-block
    """

    in_turn = False

    def __init__(
        self,
        blob: BlobClient,
        answered: Callable[[Exception, Step], Refused | None],
        key: str,
        upload_id: str,
        content_type: str,
    ) -> None:
        self.id = upload_id
        self._blob = blob
        self._answered = answered
        self._key = key
        self._content_type = content_type
        self._blocks: dict[int, str] = {}

    async def part(self, number: int, body: bytes, at: int, *, last: bool) -> None:
        # Of one length, as all of a blob must be, and no other program's.
        block = f"dropoff-{self.id}-{number:06}"
        with refusals(Step.UPLOAD, self._answered, AzureError):
            await self._blob.stage_block(
                block, body, length=len(body), validate_content=True, raw_response_hook=_require_no_page
            )
        self._blocks[number] = block

    async def complete(self, md5: bytes) -> Uploaded:
        """With the blob's MD5 as its property, by which its owner can check it. The same list may be sent twice."""
        settings = ContentSettings(content_type=self._content_type, content_md5=bytearray(md5))
        blocks = [BlobBlock(block_id=each) for _, each in sorted(self._blocks.items())]
        try:
            with refusals(Step.UPLOAD, self._answered, AzureError):
                answer = await self._blob.commit_block_list(
                    blocks, content_settings=settings, validate_content=True, raw_response_hook=_require_no_page
                )
        except Refused as refused:
            if refused.provider_code in _BLOCKS_GONE:
                raise UploadGone(refused) from None
            raise
        if not answer.get("etag"):
            raise not_a_store()
        return _uploaded(self._key, answer)

    async def stored(self, md5: bytes) -> Uploaded | None:
        with refusals(Step.UPLOAD, self._answered, AzureError):
            found = await self._blob.get_blob_properties()
        ours = bytes(found.content_settings.content_md5 or b"") == md5
        return _uploaded(self._key, {"etag": found.etag, "version_id": found.version_id}) if ours else None

    async def abort(self) -> None:
        """Nothing that could be asked for."""


def _uploaded(key: str, answer: Mapping[str, Any]) -> Uploaded:
    """The blob that a success describes by its ETag."""
    return Uploaded(key, str(answer["etag"]).strip('"'), answer.get("version_id"), answer.get("request_id"))


def _require_no_page(answer: Any) -> None:
    """Refuses a success with a body, which the SDK would not look at."""
    response = answer.http_response
    if response.status_code < 300 and is_page(response.headers.get("Content-Type", ""), response.body()):
        raise not_a_store(Reply(response.status_code))


def _reply(error: HttpResponseError) -> Reply:
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    # The SDK takes a code out of any XML or JSON, and Azure numbers each of its answers.
    signed = "x-ms-request-id" in headers
    code = (getattr(error, "error_code", None) or headers.get("x-ms-error-code") or "") if signed else ""
    return Reply(
        status=error.status_code or 0,
        code=str(getattr(code, "value", code)),
        message=str(error.message),
        request_id=str(headers.get("x-ms-request-id", "")),
        signed=signed,
    )


class AzureProvider:
    """Opens containers; a client is made for each, since it costs little and holds no connection of its own.

    `endpoint` has {account} where the account's name goes, from which alone its address follows.
    """

    def __init__(self, session: aiohttp.ClientSession, endpoint: str) -> None:
        # The environment has no say in whether a customer's request carries the trace of ours.
        settings.tracing_enabled = False
        self._session = session
        self._endpoint = endpoint

    def host(self, spec: Spec) -> str:
        return urlsplit(self._url(spec)).netloc

    async def open(self, spec: Spec, location: Location) -> AzureBucket:
        assert isinstance(spec, AzureSpec)
        return AzureBucket(self._session, spec, self._url(spec))

    def _url(self, spec: Spec) -> str:
        assert isinstance(spec, AzureSpec)
        # The name was checked to be letters and digits, so it cannot change the host.
        return self._endpoint.format(account=spec.azure_account_name)
