"""Google Cloud Storage, `type=gcs`: its parameters and their rules, for HMAC keys or a service account's key, and the
guide to both kinds of keys."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SecretStr, WithJsonSchema, model_validator

from app.domain.faults import Fault, Role
from app.domain.types.base import (
    Credential,
    HostTyped,
    KeyGuide,
    PathPrefix,
    PlainName,
    S3Access,
    Spec,
    matching,
    refuse,
)

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
    """The JSON key, reduced to the fields that signing needs, as JSON in one spelling."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        if len(value) > SERVICE_ACCOUNT_KEY_LIMIT:
            refuse("is too long to be a service account's JSON key")
        try:
            value = json.loads(value)
            # As some tools keep it: as JSON in a string of JSON.
            value = json.loads(value) if isinstance(value, str) else value
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
    # Environment files and the like escape the line breaks once more.
    kept["private_key"] = re.sub(r"(\\+r)?\\+n", "\n", kept["private_key"])
    if not _is_whole(kept["private_key"]):
        refuse(
            'has a "private_key" that cannot be read: send the JSON key file as it was downloaded, and in a form '
            "each + as %2B"
        )
    return SecretStr(json.dumps(kept, sort_keys=True))


def _is_whole(pem: str) -> bool:
    """Whether the key is complete: the PEM holds a DER sequence, which begins with its own length."""
    match = _PEM.fullmatch(pem)
    try:
        der = base64.b64decode("".join(match[1].split()), validate=True) if match else b""
    except binascii.Error:
        return False
    # Every RSA key of 1024 bits or more begins with 0x30 0x82 and a length of two bytes.
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

    # The same rule as in `_one_kind_of_key`, for readers of the schema.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["gcs_access_key", "gcs_secret_key"]}, {"required": ["gcs_service_account_key"]}]
        }
    )

    display_name: ClassVar[str] = "Google Cloud Storage"
    host_typed: ClassVar[HostTyped] = HostTyped.NOTHING
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "gcs_access_key",
        Role.SECRET: "gcs_secret_key",
        Role.BUCKET: "gcs_bucket_name",
        Role.PREFIX: "gcs_path_prefix",
        Role.ENDPOINT: "gcs_bucket_name",
        Role.REGION: "gcs_bucket_name",
    }
    advice: ClassVar[dict[Fault, str]] = {
        Fault.WRITE_DENIED: "The key may not write to {prefix} in {bucket}{detail}: allow it to put objects there, "
        "correct {parameter}, or check gcs_bucket_name, since {provider} may say the same of a bucket that does not "
        "exist or is somebody else's.",
    }

    documents: ClassVar[frozenset[str]] = frozenset({"gcs_service_account_key"})
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
        PlainName, AfterValidator(_bucket), Field(description="The bucket's name.", examples=["my-results"])
    ]
    gcs_path_prefix: PathPrefix | None = None

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> Self:
        if self.gcs_service_account_key and (self.gcs_access_key or self.gcs_secret_key):
            refuse("gcs_service_account_key cannot be sent together with gcs_access_key and gcs_secret_key")
        if not self.gcs_service_account_key and not (self.gcs_access_key and self.gcs_secret_key):
            missing = "gcs_secret_key" if self.gcs_access_key else "gcs_access_key"
            refuse(f"{missing} is required when type=gcs, unless gcs_service_account_key is sent", "missing_parameter")
        return self

    def parameter(self, role: Role | None) -> str | None:
        """The parameter that plays `role`; a service account's key is both the key and the secret."""
        if self.gcs_service_account_key and role in (Role.KEY, Role.SECRET):
            return "gcs_service_account_key"
        return super().parameter(role)

    def s3_access(self) -> S3Access:
        """At Google's XML API, which understands the S3 dialect with HMAC keys: one global endpoint, region `auto`."""
        assert self.gcs_access_key and self.gcs_secret_key, "a service account does not speak the S3 dialect"
        return S3Access(
            access_key=self.gcs_access_key,
            secret_key=self.gcs_secret_key,
            endpoint=None,
            region="auto",
            addressing="path",
        )

    def has_slow_keys(self) -> bool:
        """https://cloud.google.com/iam/docs/access-change-propagation"""
        return True

    @classmethod
    def key_guide(cls, bucket: str, folder: str, parameters: Mapping[str, str]) -> KeyGuide:
        account = "dropoff@PROJECT.iam.gserviceaccount.com"
        # The language of conditions writes strings as JSON does.
        objects = json.dumps(f"projects/_/buckets/{bucket}/objects/{folder}", ensure_ascii=False)
        return KeyGuide(
            {
                "role": {
                    "title": "Dropoff",
                    "stage": "GA",
                    "includedPermissions": [
                        "storage.objects.create",
                        "storage.objects.delete",
                        "storage.multipartUploads.create",
                        "storage.multipartUploads.abort",
                        "storage.multipartUploads.listParts",
                    ],
                },
                "condition": {"title": "dropoff", "expression": f"resource.name.startsWith({objects})"},
            },
            (
                "Create a service account for Dropoff alone: gcloud iam service-accounts create dropoff "
                "--project=PROJECT",
                "Save what stands under role as role.json and create the role. Google asks for the right to delete "
                "also where a file is written over another, so it is not limited to the test files: gcloud iam roles "
                "create dropoff --project=PROJECT --file=role.json",
                "Save what stands under condition as condition.json and give the role to the account, on a bucket "
                f"with uniform bucket-level access: gcloud storage buckets add-iam-policy-binding gs://{bucket} "
                f"--member=serviceAccount:{account} --role=projects/PROJECT/roles/dropoff "
                "--condition-from-file=condition.json",
                f"Create an HMAC key (gcloud storage hmac create {account}) and send it as gcs_access_key and "
                f"gcs_secret_key, or a JSON key (gcloud iam service-accounts keys create key.json "
                f"--iam-account={account}) and send the file's content as gcs_service_account_key.",
            ),
        )
