"""Amazon S3, `type=s3`: its parameters and their rules, its advice, and the guide to its keys."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from app.domain import prefix
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

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"(?=.{3,63}$)[a-z0-9][a-z0-9.-]*[a-z0-9]")
# Until March 2018 us-east-1 took these too; they cannot be part of a host's name.
_OLD_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9_-]")
# Of three of these, botocore would make another host, at Amazon, whatever the endpoint is.
_SPECIAL = re.compile(r".*(-s3alias|--ol-s3|\.mrap|--x-s3|--xa-s3|--op-s3|--table-s3)")
_RESERVED = ("xn--", "sthree-", "amzn-s3-demo-")
_IPV4 = re.compile(r"\d+\.\d+\.\d+\.\d+")


def plain_bucket(name: str) -> str:
    """`name`, refused if it stands for something other than a general purpose bucket."""
    if name.startswith("arn:") or _SPECIAL.fullmatch(name):
        refuse("", Fault.UNSUPPORTED_BUCKET_TYPE)
    return name


def _bucket(name: str) -> str:
    plain_bucket(name)
    if not _OLD_BUCKET.fullmatch(name) or ".." in name or _IPV4.fullmatch(name) or name.startswith(_RESERVED):
        refuse(
            "must be a bucket's name: 3 to 63 lower-case letters, digits, dots and hyphens, beginning and ending "
            "with a letter or digit; an old one of us-east-1 may have capitals and underscores"
        )
    return name


def policy_under(resource: str) -> dict[str, Any]:
    """The policy, in Amazon's form, that lets a key write what begins with `resource` and delete the test files there.

    Services that speak the S3 dialect mostly take policies in the same form.
    """
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Deliver",
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
                "Resource": f"{resource}*",
            },
            {
                "Sid": "RemoveOurTestFile",
                "Effect": "Allow",
                "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
                "Resource": f"{resource}*{prefix.TEST_FILE}*",
            },
        ],
    }


def _permanent(key: SecretStr) -> SecretStr:
    if key.get_secret_value().startswith("ASIA"):
        refuse("ASIA…", Fault.TEMPORARY_CREDENTIALS_UNSUPPORTED)
    return key


class S3Spec(Spec):
    """A bucket on Amazon S3. Its region is not asked for; it is found."""

    display_name: ClassVar[str] = "Amazon S3"
    host_typed: ClassVar[HostTyped] = HostTyped.NOTHING
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "s3_access_key_id",
        Role.SECRET: "s3_secret_access_key",
        Role.BUCKET: "s3_bucket_name",
        Role.PREFIX: "s3_path_prefix",
        Role.ENDPOINT: "s3_bucket_name",
        Role.REGION: "s3_bucket_name",
    }
    advice: ClassVar[dict[Fault, str]] = {
        Fault.WRITE_DENIED: "The key may not write to {prefix} in {bucket}{detail}: allow it to put objects there, "
        "correct {parameter}, or check s3_bucket_name, since {provider} says the same of a bucket of another account.",
        Fault.BUCKET_NOT_FOUND: "{bucket} does not exist: check {parameter}, or create it. A bucket in China or "
        "GovCloud needs type=s3compatible.",
        Fault.BUCKET_WRONG_REGION: "{bucket} is in another region than the one that was found for it{detail}: check "
        "{parameter}, and try again in a few minutes.",
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
        PlainName,
        AfterValidator(_bucket),
        Field(description="The plain name of a general purpose bucket.", examples=["my-results"]),
    ]
    s3_path_prefix: PathPrefix | None = None

    def s3_access(self) -> S3Access:
        """At Amazon's own endpoint for the bucket's region, which is found."""
        return S3Access(
            access_key=self.s3_access_key_id,
            secret_key=self.s3_secret_access_key,
            endpoint=None,
            region=None,
            addressing="auto" if _BUCKET.fullmatch(self.s3_bucket_name) else "path",
        )

    def has_slow_keys(self) -> bool:
        """https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency"""
        return True

    @classmethod
    def key_guide(cls, bucket: str, folder: str, parameters: Mapping[str, str]) -> KeyGuide:
        # In a resource, a $ begins a variable, and IAM takes no character beyond U+00FF.
        literal = re.sub(r"[^ -ÿ]", "*", re.sub(r"[*?$]", r"${\g<0>}", folder))
        return KeyGuide(
            policy_under(f"arn:aws:s3:::{bucket}/{literal}"),
            (
                "Create a policy with this document (IAM, Policies, Create policy, JSON).",
                "Create a user for Dropoff alone, without access to the console, and attach the policy to it (IAM, "
                "Users).",
                "Create an access key for the user (Security credentials, Create access key) and send it as "
                "s3_access_key_id and s3_secret_access_key.",
                "If the bucket encrypts with a KMS key of your own, allow the user kms:GenerateDataKey and "
                "kms:Decrypt on that key too.",
            ),
        )
