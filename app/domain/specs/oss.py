"""Alibaba Cloud OSS: what a customer gives for `type=oss`."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from app.domain.errors import Fault, Role
from app.domain.specs.base import Credential, Name, PathPrefix, Spec, matching, refuse

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
    """The id with its `oss-`, which a customer may leave out."""
    region = name if name.startswith("oss-") else f"oss-{name}"
    if region.endswith("-internal") or region.startswith("oss-accelerate"):
        refuse("must be a region such as oss-cn-hangzhou: internal and acceleration endpoints are not reachable")
    if not _REGION.fullmatch(region):
        refuse("must be an OSS region id such as oss-cn-hangzhou or oss-eu-central-1")
    return region


class OssSpec(Spec):
    """A bucket on Alibaba Cloud OSS, with the keys of a RAM user."""

    provider: ClassVar[str] = "Alibaba Cloud OSS"
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "oss_access_key",
        Role.SECRET: "oss_secret_key",
        Role.BUCKET: "oss_bucket_name",
        Role.PREFIX: "oss_path_prefix",
        Role.ENDPOINT: "oss_region_id",
        Role.REGION: "oss_region_id",
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
        Name, AfterValidator(_bucket), Field(description="The bucket's name.", examples=["my-results"])
    ]
    oss_region_id: Annotated[
        Name,
        AfterValidator(_region),
        Field(description="The bucket's region, with or without oss-.", examples=["oss-eu-central-1"]),
    ]
    oss_path_prefix: PathPrefix | None = None
