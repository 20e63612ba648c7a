"""Google Cloud Storage: what a customer gives for `type=gcs`, by HMAC keys or by a service account's key."""

import base64
import binascii
import json
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SecretStr, WithJsonSchema, model_validator

from app.domain.errors import Role
from app.domain.specs.base import Credential, Name, PathPrefix, S3Access, Spec, matching, refuse

_LABEL = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_IPV4 = re.compile(r"\d+\.\d+\.\d+\.\d+")
_EMAIL = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+")
_PEM = re.compile(r"\s*-----BEGIN (?:RSA )?PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END (?:RSA )?PRIVATE KEY-----\s*")
_KEPT = ("type", "project_id", "private_key_id", "private_key", "client_email", "client_id")
SERVICE_ACCOUNT_KEY_LIMIT = 16 * 1024


def _bucket(name: str) -> str:
    longest = 222 if "." in name else 63
    labels = name.split(".")
    if not 3 <= len(name) <= longest or not all(_LABEL.fullmatch(label) for label in labels) or _IPV4.fullmatch(name):
        refuse(
            "must be a bucket's name: 3 to 63 lower-case letters, digits, hyphens and underscores (222 with dots), "
            "beginning and ending with a letter or digit"
        )
    if name.startswith("goog") or "google" in name:
        refuse("must not begin with goog or contain google, which Google does not allow in a bucket's name")
    return name


def _access_id(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if text.startswith(("AKIA", "ASIA")):
        refuse("is an Amazon key: create an HMAC key in the Google Cloud console (Cloud Storage, Settings)")
    if text.startswith("{") or text.endswith(".apps.googleusercontent.com"):
        refuse("must be an HMAC access id (GOOG…): send a service account's JSON key as gcs_service_account_key")
    if not re.fullmatch(r"GOOG[A-Z0-9]{20}|GOOG[A-Z0-9]{57}", text):
        refuse("must be an HMAC access id: GOOG and capital letters and digits, 61 or 24 in all")
    return key


def _service_account_key(value: object) -> object:
    """The JSON key reduced to the fields that signing needs, as one canonical string."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        if len(value) > SERVICE_ACCOUNT_KEY_LIMIT:
            refuse("is too long to be a service account's JSON key")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            refuse("must be the JSON key file of a service account, whole: this is not valid JSON")
    if not isinstance(value, dict) or value.get("type") != "service_account":
        refuse('must be the JSON key file of a service account: its "type" must be service_account')
    kept = {name: value[name] for name in _KEPT if name in value}
    for name in ("private_key", "client_email"):
        if not isinstance(kept.get(name), str) or not kept[name]:
            refuse(f'lacks "{name}": send the JSON key file as it was downloaded')
    if not all(isinstance(part, str) for part in kept.values()):
        refuse("has a field that is not text: send the JSON key file as it was downloaded")
    if not _EMAIL.fullmatch(kept["client_email"]):
        refuse('has a "client_email" that is no service account\'s address')
    if not _is_whole(kept["private_key"]):
        refuse('has a "private_key" that cannot be read: send the JSON key file as it was downloaded')
    return SecretStr(json.dumps(kept, sort_keys=True))


def _is_whole(pem: str) -> bool:
    """Whether nothing is missing: a DER sequence, as the PEM holds one, says itself how long it is."""
    match = _PEM.fullmatch(pem)
    try:
        der = base64.b64decode("".join(match[1].split()), validate=True) if match else b""
    except binascii.Error:
        return False
    # 0x30 0x82 and two bytes of length: what every RSA key of 1024 bits and more begins with.
    return der[:2] == b"\x30\x82" and len(der) == 4 + int.from_bytes(der[2:4])


ServiceAccountKey = Annotated[
    SecretStr,
    BeforeValidator(_service_account_key),
    WithJsonSchema(
        {
            "type": ["string", "object"],
            "format": "password",
            "writeOnly": True,
            "description": "In place of the two HMAC keys: a service account's JSON key, as text or as an object.",
        }
    ),
]


class GcsSpec(Spec):
    """A bucket on Google Cloud Storage, with exactly one of the two kinds of credentials."""

    # What `_one_way` demands, for who reads the schema.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["gcs_access_key", "gcs_secret_key"]}, {"required": ["gcs_service_account_key"]}]
        }
    )

    provider: ClassVar[str] = "Google Cloud Storage"
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "gcs_access_key",
        Role.SECRET: "gcs_secret_key",
        Role.BUCKET: "gcs_bucket_name",
        Role.PREFIX: "gcs_path_prefix",
        Role.ENDPOINT: "gcs_bucket_name",
        Role.REGION: "gcs_bucket_name",
    }

    displaces: ClassVar[dict[str, tuple[str, ...]]] = {
        "gcs_service_account_key": ("gcs_access_key", "gcs_secret_key"),
        "gcs_access_key": ("gcs_service_account_key",),
        "gcs_secret_key": ("gcs_service_account_key",),
    }

    type: Literal["gcs"]
    gcs_access_key: (
        Annotated[
            Credential,
            AfterValidator(_access_id),
            Field(description="The access id of an HMAC key.", examples=["GOOGTS7C7FUP3AIRVJTE2BCD"]),
        ]
        | None
    ) = None
    gcs_secret_key: (
        Annotated[
            Credential,
            AfterValidator(matching(r"[A-Za-z0-9/+=]{40}", "must be an HMAC secret: 40 letters, digits, / and +")),
            Field(description="The secret of that HMAC key.", examples=["bGoa+V7g/yqDXvKRqq+JTFn4uQZbPiQJo4pf9RzJ"]),
        ]
        | None
    ) = None
    gcs_service_account_key: ServiceAccountKey | None = None
    gcs_bucket_name: Annotated[
        Name, AfterValidator(_bucket), Field(description="The bucket's name.", examples=["my-results"])
    ]
    gcs_path_prefix: PathPrefix | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.gcs_service_account_key and (self.gcs_access_key or self.gcs_secret_key):
            refuse("gcs_service_account_key cannot be sent together with gcs_access_key and gcs_secret_key")
        if not self.gcs_service_account_key and not (self.gcs_access_key and self.gcs_secret_key):
            missing = "gcs_secret_key" if self.gcs_access_key else "gcs_access_key"
            refuse(f"{missing} is required when type=gcs, unless gcs_service_account_key is sent", "missing_parameter")
        return self

    def parameter(self, role: Role | None) -> str | None:
        """A service account's key plays both the key and the secret."""
        if self.gcs_service_account_key and role in (Role.KEY, Role.SECRET):
            return "gcs_service_account_key"
        return super().parameter(role)

    def s3_access(self) -> S3Access:
        """The XML API understands the S3 dialect for HMAC keys: one global endpoint, path style, region `auto`."""
        assert self.gcs_access_key and self.gcs_secret_key, "a service account does not speak the S3 dialect"
        return S3Access(
            access_key=self.gcs_access_key,
            secret_key=self.gcs_secret_key,
            endpoint=None,
            region="auto",
            addressing="path",
        )
