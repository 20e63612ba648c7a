"""Amazon S3: what a customer gives for `type=s3`."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from app.domain.errors import Fault, Role
from app.domain.specs.base import Credential, Name, PathPrefix, S3Access, Spec, matching, refuse

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"(?=.{3,63}$)[a-z0-9][a-z0-9.-]*[a-z0-9]")
_SPECIAL = re.compile(r".*(-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)")
_RESERVED = ("xn--", "sthree-", "amzn-s3-demo-")
_IPV4 = re.compile(r"\d+\.\d+\.\d+\.\d+")


def plain_bucket(name: str) -> str:
    """Refuse what stands for something other than a general purpose bucket."""
    if name.startswith("arn:") or _SPECIAL.fullmatch(name):
        refuse("", Fault.UNSUPPORTED_BUCKET_TYPE)
    return name


def _bucket(name: str) -> str:
    plain_bucket(name)
    if not _BUCKET.fullmatch(name) or ".." in name or _IPV4.fullmatch(name) or name.startswith(_RESERVED):
        refuse(
            "must be a bucket's name: 3 to 63 lower-case letters, digits, dots and hyphens, beginning and ending "
            "with a letter or digit"
        )
    return name


def _permanent(key: SecretStr) -> SecretStr:
    if key.get_secret_value().startswith("ASIA"):
        refuse("ASIA…", Fault.TEMPORARY_CREDENTIALS_UNSUPPORTED)
    return key


class S3Spec(Spec):
    """A bucket on Amazon S3. Its region is not asked for; it is found."""

    provider: ClassVar[str] = "Amazon S3"
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "s3_access_key_id",
        Role.SECRET: "s3_secret_access_key",
        Role.BUCKET: "s3_bucket_name",
        Role.PREFIX: "s3_path_prefix",
        Role.ENDPOINT: "s3_bucket_name",
        Role.REGION: "s3_bucket_name",
    }

    type: Literal["s3"]
    s3_access_key_id: Annotated[
        Credential,
        AfterValidator(_permanent),
        AfterValidator(matching(r"[A-Z0-9]{16,128}", "must be an access key id: 16 to 128 capital letters and digits")),
        Field(
            description="The access key id of a user that may put and delete objects.",
            examples=["AKIAIOSFODNN7EXAMPLE"],
        ),
    ]
    s3_secret_access_key: Annotated[
        Credential,
        Field(
            description="The secret access key that belongs to it.",
            examples=["wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"],
        ),
    ]
    s3_bucket_name: Annotated[
        Name,
        AfterValidator(_bucket),
        Field(description="The plain name of a general purpose bucket.", examples=["my-results"]),
    ]
    s3_path_prefix: PathPrefix | None = None

    def s3_access(self) -> S3Access:
        return S3Access(
            access_key=self.s3_access_key_id,
            secret_key=self.s3_secret_access_key,
            endpoint=None,
            region=None,
            addressing="auto",
        )
