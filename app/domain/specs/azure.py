"""Microsoft Azure Blob Storage: what a customer gives for `type=azure`."""

import base64
import binascii
import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from app.domain.errors import Role
from app.domain.specs.base import Credential, Name, PathPrefix, Spec, refuse

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

    provider: ClassVar[str] = "Azure Blob Storage"
    noun: ClassVar[str] = "container"
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "azure_account_key",
        Role.SECRET: "azure_account_key",
        Role.BUCKET: "azure_container_name",
        Role.PREFIX: "azure_path_prefix",
        Role.ENDPOINT: "azure_account_name",
        Role.REGION: "azure_account_name",
    }

    type: Literal["azure"]
    azure_account_name: Annotated[
        Name, AfterValidator(_account), Field(description="The storage account's name.", examples=["myresults"])
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
        Name, AfterValidator(_container), Field(description="The container's name.", examples=["my-results"])
    ]
    azure_path_prefix: PathPrefix | None = None
