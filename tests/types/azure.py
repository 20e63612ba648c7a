"""Azure Blob Storage in the tests."""

import base64
from collections.abc import Iterator
from functools import partial

import pytest

from app.domain.faults import Fault
from app.domain.verification import Step
from tests.servers import azure as azurite
from tests.servers.azure import ACCOUNT, CONTAINERS, KEY, Azure
from tests.types.base import REQUEST_ID, Backend, Form, Row, Storage, Traffic, error_xml
from workers.storage.azure import FAULTS

AUTHENTICATION = "Server failed to authenticate the request."
PLANTED_KEY = base64.b64encode(b"SENTINEL-azure".ljust(64, b"!"))


@pytest.fixture(scope="session")
def azure() -> Iterator[Azure]:
    """Azure Blob Storage."""
    with azurite.azure() as running:
        yield running


def backend(azure: Azure) -> Backend:
    return Backend(
        right={
            "type": "azure",
            "azure_account_name": ACCOUNT,
            "azure_account_key": KEY,
            "azure_container_name": "results",
            "azure_path_prefix": "sub/ordner ä",
        },
        changes={
            "wrong_secret": {"azure_account_key": base64.b64encode(b"another" * 9 + b"!").decode()},
            "unknown_key": {"azure_account_name": "nobody"},
            "missing_bucket": {"azure_container_name": "there-is-none"},
            "write_refused": {"azure_container_name": "write-refused"},
            "delete_refused": {"azure_container_name": "delete-refused"},
            "retained": {"azure_container_name": "delete-kept"},
        },
        blames={
            "wrong_secret": "azure_account_key",
            "unknown_key": "azure_account_key",
            "missing_bucket": "azure_container_name",
            "write_refused": "azure_path_prefix",
            "delete_refused": "azure_account_key",
        },
        content=lambda key: azure.content("results", key),
        unfinished=lambda: 0,
        objects=lambda: [name for container in CONTAINERS for name in azure.objects(container)],
        secrets=(KEY,),
        verdicts={"dead": ("egress_unavailable", "connect")},
    )


def form(row: Row) -> Form:
    headers = {"x-ms-request-id": REQUEST_ID, "x-ms-error-code": row.code, "x-ms-version": "2025-11-05"}
    text = f"{AUTHENTICATION}\nRequestId:{REQUEST_ID}\nTime:2026-11-25T12:00:00.0000000Z"
    return "application/xml", headers, error_xml(Code=row.code, Message=text, AuthenticationErrorDetail=row.message)


F = Fault
_row = partial(Row, on="azure", form=form, table=FAULTS)

ROWS = (
    # Azure Blob Storage. https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
    _row(F.SECRET_MISMATCH, 403, "AuthenticationFailed", "The MAC signature found in the HTTP request 'x' is "
        "not the same as any computed signature."),
    _row(F.SECRET_MISMATCH, 400, "InvalidAuthenticationInfo"),
    _row(F.AUTH_METHOD_DISABLED, 403, "KeyBasedAuthenticationNotPermitted"),
    _row(F.ACCOUNT_SUSPENDED, 403, "AccountIsDisabled"),
    _row(F.CLOCK_SKEW, 403, "AuthenticationFailed", "Request date header too old: 'Wed, 25 Nov 2026 00:00:00 "
        "GMT'"),
    _row(F.BUCKET_NOT_FOUND, 404, "ContainerNotFound", by_status=True),
    _row(F.BUCKET_NOT_FOUND, 409, "ContainerBeingDeleted"),
    _row(F.BUCKET_NOT_FOUND, 409, "ContainerDisabled"),
    _row(F.BUCKET_NOT_FOUND, 404, "ResourceNotFound", by_status=True),
    _row(F.WRITE_DENIED, 403, "AuthorizationPermissionMismatch", by_status=True),
    _row(F.WRITE_DENIED, 403, "InsufficientAccountPermissions", by_status=True),
    _row(F.WRITE_DENIED, 403, "AuthorizationResourceTypeMismatch", by_status=True),
    _row(F.WRITE_DENIED, 403, "AuthorizationServiceMismatch", by_status=True),
    _row(F.DELETE_DENIED, 403, "AuthorizationPermissionMismatch", step=Step.DELETE, by_status=True),
    _row(F.NETWORK_DENIED, 403, "AuthorizationFailure"),
    _row(F.NETWORK_DENIED, 403, "AuthorizationSourceIPMismatch"),
    _row(F.REQUEST_CONDITION_DENIED, 403, "AuthorizationProtocolMismatch"),
    _row(F.REQUEST_CONDITION_DENIED, 400, "AccountRequiresHttps"),
    _row(F.REQUEST_CONDITION_DENIED, 400, "TlsVersionNotPermitted"),
    _row(F.ENCRYPTION_REQUIRED, 409, "BlobUsesCustomerSpecifiedEncryption"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 403, "KeyVaultEncryptionKeyNotFound"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 403, "KeyVaultVaultNotFound"),
    _row(F.ENCRYPTION_KEY_UNAVAILABLE, 403, "KeyVaultAccessTokenCannotBeAcquired"),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 409, "BlobImmutableDueToPolicy", step=Step.DELETE),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 409, "BlobImmutableDueToLegalHold", step=Step.DELETE),
    _row(F.DELETE_BLOCKED_BY_RETENTION, 412, "LeaseIdMissing", step=Step.DELETE),
    _row(F.THROTTLED, 503, "ServerBusy", by_status=True),
    _row(F.THROTTLED, 500, "OperationTimedOut"),
    _row(F.PROVIDER_UNAVAILABLE, 500, "InternalError", by_status=True),
    _row(F.PROTOCOL_UNSUPPORTED, 400, "UnsupportedHeader"),
    _row(F.PROTOCOL_UNSUPPORTED, 409, "FeatureVersionMismatch"),
    _row(F.PROTOCOL_UNSUPPORTED, 400, "InvalidHeaderValue", "x-ms-version"),
    _row(F.PROVIDER_ERROR, 409, "BlobOverwritten", by_status=True),
)  # fmt: skip

HOSTILE = {
    "azure_account_name": [
        "evil.com/",
        "a@127.0.0.1",
        "a.b",
        "account.blob.core.windows.net",
        "127.0.0.1:9000/",
        "a#",
        "a?b",
        "{account}",
        "a\r\nb",
        "Ａccount",
    ],
    "azure_container_name": ["..", "a/../b", "a?comp=acl", "a--b", "A", "a#b", "$logs"],
}  # fmt: skip

STORAGES = (
    Storage(
        name="azure",
        good={
            "type": "azure",
            "azure_account_name": "account1",
            "azure_account_key": base64.b64encode(b"k" * 64).decode(),
            "azure_container_name": "my-container",
        },
        malformed=(
            ("azure_account_name", "evil.com/", "invalid_parameter"),
            ("azure_account_name", "Account", "invalid_parameter"),
            (
                "azure_account_key",
                "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=b==",
                "invalid_parameter",
            ),
            ("azure_account_key", "sv=2020-01-01&sig=abc", "invalid_parameter"),
            ("azure_account_key", base64.b64encode(b"k" * 64).decode()[:-6] + "==", "invalid_parameter"),
            ("azure_container_name", "a--b", "invalid_parameter"),
        ),
        hostile=HOSTILE,
        planted={
            "type": "azure",
            "azure_account_name": "account",
            "azure_container_name": "box",
            "azure_account_key": PLANTED_KEY.decode(),
        },
        # In which base64 hides the sentinel.
        needles=(PLANTED_KEY[:16],),
        brands=frozenset({"Azure", "Microsoft"}),
        traffic=Traffic(hosts=("contosodata.blob.core.windows.net",), weight=3, usual_ms=130),
        backends={"azure": lambda get: backend(get("azure"))},
        particulars=("retained",),
        support=("wrong_secret", "AuthorizationFailure", 403),
        settings=lambda get: {"azure_endpoint": get("azure").url},
        settings_at=lambda url: {"azure_endpoint": url + "/{account}"},
        row=_row,
        rows=ROWS,
        stored=b'HTTP/1.1 201 Created\r\nETag: "0x8D"\r\nContent-Length: 0\r\n\r\n',
        deleted=b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
        absent=(404, "BlobNotFound", ""),
        delete_denied=("AuthorizationPermissionMismatch", ""),
        retained=("BlobImmutableDueToPolicy", ""),
        version="versionid=v1",
        # The first DELETE makes a version of the blob.
        deletes=(False, True),
        # An account that Azure does not know has no host.
        unreachable=frozenset({F.ACCESS_KEY_UNKNOWN}),
    ),
)
