"""Alibaba Cloud OSS, `type=oss`: its parameters and their rules, and the guide to its keys."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from app.domain import prefix
from app.domain.faults import Fault, Role
from app.domain.types.base import (
    Credential,
    HostTyped,
    KeyGuide,
    Name,
    PathPrefix,
    PlainName,
    Spec,
    matching,
    refuse,
    with_wildcards,
)

_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_REGION = re.compile(r"oss-[a-z]{2}-[a-z0-9]+(-[a-z0-9]+){0,3}")


def _bucket(name: str) -> str:
    if not _BUCKET.fullmatch(name):
        refuse("must be a bucket's name: 3 to 63 lower-case letters, digits and hyphens")
    return name


def _permanent(key: SecretStr) -> SecretStr:
    if key.get_secret_value().startswith("STS."):
        refuse("STS.…", Fault.TEMPORARY_CREDENTIALS_UNSUPPORTED)
    return key


def _region(name: str) -> str:
    """The region's id with its `oss-`, which a customer may leave out."""
    region = name if name.startswith("oss-") else f"oss-{name}"
    if region.endswith("-internal") or region.startswith("oss-accelerate"):
        refuse("must be a region such as oss-cn-hangzhou: internal and acceleration endpoints are not reachable")
    if not _REGION.fullmatch(region):
        refuse("must be an OSS region id such as oss-cn-hangzhou or oss-eu-central-1")
    return region


class OssSpec(Spec):
    """A bucket on Alibaba Cloud OSS, with the keys of a RAM user."""

    display_name: ClassVar[str] = "Alibaba Cloud OSS"
    host_typed: ClassVar[HostTyped] = HostTyped.PART
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "oss_access_key",
        Role.SECRET: "oss_secret_key",
        Role.BUCKET: "oss_bucket_name",
        Role.PREFIX: "oss_path_prefix",
        Role.ENDPOINT: "oss_region_id",
        Role.REGION: "oss_region_id",
    }
    advice: ClassVar[dict[Fault, str]] = {
        Fault.WRITE_DENIED: "The key may not write to {prefix} in {bucket}{detail}: allow it to put objects there, "
        "correct {parameter}, or check oss_bucket_name, since {provider} says the same of a bucket of another account.",
    }

    type: Literal["oss"]
    oss_access_key: Annotated[
        Credential,
        AfterValidator(_permanent),
        AfterValidator(matching(r"[A-Za-z0-9]{16,128}", "must be an access key id: 16 to 128 letters and digits")),
        Field(description="The access key id of a RAM user.", examples=["LTAI5tExampleExample1234"]),
    ]
    oss_secret_key: Annotated[
        Credential,
        Field(description="The access key secret that belongs to it.", examples=["a-secret-of-thirty-chars"]),
    ]
    oss_bucket_name: Annotated[
        PlainName, AfterValidator(_bucket), Field(description="The bucket's name.", examples=["my-results"])
    ]
    oss_region_id: Annotated[
        Name,
        AfterValidator(_region),
        Field(description="The bucket's region, with or without oss-.", examples=["oss-eu-central-1"]),
    ]
    oss_path_prefix: PathPrefix | None = None

    def has_slow_keys(self) -> bool:
        """As at Amazon and Google."""
        return True

    @classmethod
    def key_guide(cls, bucket: str, folder: str, parameters: Mapping[str, str]) -> KeyGuide:
        resource = f"acs:oss:*:*:{bucket}/{with_wildcards(folder)}"
        write = ["oss:PutObject", "oss:AbortMultipartUpload", "oss:ListParts"]
        delete = ["oss:DeleteObject", "oss:DeleteObjectVersion"]
        return KeyGuide(
            {
                "Version": "1",
                "Statement": [
                    {"Effect": "Allow", "Action": write, "Resource": [f"{resource}*"]},
                    {"Effect": "Allow", "Action": delete, "Resource": [f"{resource}*{prefix.TEST_FILE}*"]},
                ],
            },
            (
                "Create a policy with this document (RAM console, Policies, Create Policy, JSON).",
                "Create a RAM user for Dropoff alone, with a permanent AccessKey and without access to the console, "
                "and grant it the policy.",
                "Send the AccessKey as oss_access_key and oss_secret_key.",
                "If the bucket encrypts with a KMS key of your own, allow the user kms:GenerateDataKey and "
                "kms:Decrypt on that key too.",
            ),
        )
