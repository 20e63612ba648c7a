"""Microsoft Azure Blob Storage, `type=azure`: its parameters and their rules, its advice, and the guide to its keys."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from app.domain.faults import Fault, Role
from app.domain.types.base import Credential, HostTyped, KeyGuide, PathPrefix, PlainName, Spec, refuse

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]|\$root|\$web")
_KEY_BYTES = 64


def _account(name: str) -> str:
    if not _ACCOUNT.fullmatch(name):
        refuse("must be a storage account's name: 3 to 24 lower-case letters and digits, without .blob.core…")
    return name


def _container(name: str) -> str:
    if not _CONTAINER.fullmatch(name):
        refuse("must be a container's name: 3 to 63 lower-case letters, digits and single hyphens")
    return name


def _key(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if "AccountKey=" in text or text.startswith("DefaultEndpointsProtocol="):
        refuse("is a connection string: send only what stands after AccountKey=, up to the next semicolon")
    if "sig=" in text and "sv=" in text:
        refuse("is a shared access signature: send the account's key (Security + networking, Access keys)")
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != _KEY_BYTES:
        refuse("must be an account key of 88 characters ending in ==: this one looks truncated or mistyped")
    return key


class AzureSpec(Spec):
    """A container in a storage account, with one of the account's two keys."""

    display_name: ClassVar[str] = "Azure Blob Storage"
    host_typed: ClassVar[HostTyped] = HostTyped.PART
    noun: ClassVar[str] = "container"
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "azure_account_key",
        Role.SECRET: "azure_account_key",
        Role.BUCKET: "azure_container_name",
        Role.PREFIX: "azure_path_prefix",
        Role.ENDPOINT: "azure_account_name",
        Role.REGION: "azure_account_name",
    }
    advice: ClassVar[dict[Fault, str]] = {
        Fault.HOST_NOT_FOUND: "{host} does not resolve to a public address: check {parameter} for a typing error. "
        "Accounts with a DNS-zone endpoint, in a sovereign cloud or with private endpoints only are not reachable "
        "under this name.",
        Fault.SECRET_MISMATCH: "The key does not belong to this account: copy {parameter} again, whole, and check "
        "azure_account_name.",
        Fault.AUTH_METHOD_DISABLED: "Access with account keys is switched off: allow storage account key access on the "
        "account, since {parameter} is the only kind of credential that can be given here.",
    }

    type: Literal["azure"]
    azure_account_name: Annotated[
        PlainName, AfterValidator(_account), Field(description="The storage account's name.", examples=["myresults"])
    ]
    azure_account_key: Annotated[
        Credential,
        AfterValidator(_key),
        Field(
            description="One of the account's two access keys.",
            examples=[base64.b64encode(b"example!" * (_KEY_BYTES // 8)).decode()],
        ),
    ]
    azure_container_name: Annotated[
        PlainName, AfterValidator(_container), Field(description="The container's name.", examples=["my-results"])
    ]
    azure_path_prefix: PathPrefix | None = None

    @classmethod
    def key_guide(cls, bucket: str, folder: str, parameters: Mapping[str, str]) -> KeyGuide:
        return KeyGuide(
            None,
            (
                "Create a storage account for Dropoff alone: its keys open everything in it, and no policy narrows "
                "them.",
                f"Create the container {bucket} in it.",
                "Send the account's name as azure_account_name, without .blob.core.windows.net, and one of its two "
                "keys as azure_account_key (Security + networking, Access keys). The account must allow access with "
                "keys.",
            ),
        )
