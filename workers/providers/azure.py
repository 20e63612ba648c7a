"""Microsoft Azure Blob Storage with an account's key, by azure-storage-blob."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobClient

from app.domain.errors import Fault
from app.domain.specs.azure import AzureSpec
from app.domain.specs.base import Spec
from app.domain.verification import NOTHING_FOUND, Found, Step
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
    unanswered,
)

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
_ELSEWHERE = replace(
    FAULTS,
    codes={
        **FAULTS.codes,
        "AuthorizationFailure": Fault.SECRET_MISMATCH,
        "ResourceNotFound": Fault.ACCESS_KEY_UNKNOWN,
    },
)
_AZURE_HOSTS = (".core.windows.net", ".storage.azure.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net")


class AzureBucket:
    """One container, with the key of its account."""

    found = NOTHING_FOUND

    def __init__(self, session: aiohttp.ClientSession, spec: AzureSpec, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.netloc
        self._faults = FAULTS if (parts.hostname or "").endswith(_AZURE_HOSTS) else _ELSEWHERE
        self._blob = partial(
            BlobClient,
            url,
            spec.azure_container_name,
            credential={
                "account_name": spec.azure_account_name,
                "account_key": spec.azure_account_key.get_secret_value(),
            },
            transport=AioHttpTransport(session=session, session_owner=False),
            retry_total=0,
            permit_redirects=False,
            connection_timeout=CONNECT_SECONDS,
        )

    async def upload(self, key: str, body: bytes) -> Uploaded:
        """One Put Blob; the service checks the Content-MD5 that is sent with it."""
        settings = ContentSettings(content_type=CONTENT_TYPE)
        put = partial(self._blob(key).upload_blob, body, overwrite=True, validate_content=True)
        answer = await self._call(partial(put, length=len(body), content_settings=settings), Step.UPLOAD)
        if not answer.get("etag"):
            raise Refused(Fault.NOT_A_STORAGE_ENDPOINT)
        return Uploaded(key, answer["etag"].strip('"'), answer.get("version_id"))

    async def delete(self, uploaded: Uploaded) -> None:
        """Delete Blob, which turns the current version into a former one; that is deleted by its id then."""
        blob = self._blob(uploaded.key)
        await self._call(blob.delete_blob, Step.DELETE)
        if uploaded.version:
            await self._call(partial(blob.delete_blob, version_id=uploaded.version), Step.DELETE)

    async def _call(self, call: Callable[[], Awaitable[Any]], step: Step) -> Any:
        try:
            return await call()
        except HttpResponseError as error:
            raise self._faults.refused(_reply(error), step) from None
        except (AzureError, RedirectRefused, aiohttp.ClientError, OSError) as error:
            raise unanswered(error) from None
        except STUMBLES as error:
            raise stumbled(error) from None


def _reply(error: HttpResponseError) -> Reply:
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    code = getattr(error, "error_code", None) or headers.get("x-ms-error-code") or ""
    return Reply(
        status=error.status_code or 0,
        code=str(getattr(code, "value", code)),
        message=str(error.message),
        request_id=str(headers.get("x-ms-request-id", "")),
    )


class AzureProvider:
    """Opens containers; a client is made for each, since it costs little and holds no connection of its own."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        self._session = session
        self._endpoint = settings.azure_endpoint

    def needs_locating(self, spec: Spec, found: Found) -> bool:
        """An account's address follows from its name."""
        return False

    def host(self, spec: Spec) -> str:
        return urlsplit(self._url(spec)).netloc

    async def open(self, spec: Spec, found: Found) -> AzureBucket:
        assert isinstance(spec, AzureSpec)
        return AzureBucket(self._session, spec, self._url(spec))

    def _url(self, spec: Spec) -> str:
        assert isinstance(spec, AzureSpec)
        # The name was checked to be letters and digits, so it cannot change the host.
        return self._endpoint.format(account=spec.azure_account_name)
