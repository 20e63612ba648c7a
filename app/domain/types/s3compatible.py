"""S3-compatible storage, `type=s3compatible`: its parameters and their rules, what its host tells, its advice, and the
guide to its keys."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from app.domain import hosts
from app.domain.endpoint import IPV4
from app.domain.faults import Fault, Role
from app.domain.types.base import (
    Credential,
    HostTyped,
    KeyGuide,
    Name,
    PathPrefix,
    PlainName,
    S3Access,
    Spec,
    endpoint_like,
    matching,
    refuse,
    with_wildcards,
)
from app.domain.types.s3 import plain_bucket, policy_under

# The services whose own types say the same.
_SLOW_KEYS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".googleapis.com", ".aliyuncs.com")
_EXAMPLE = "https://ams3.digitaloceanspaces.com"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# botocore signs for another region than these, in silence: it takes fips- and -fips away, and aws-global for us-east-1.
REGION = re.compile(r"(?!\d+$|.*(fips-|-fips)|aws-global$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


# Amazon's partitions, by what stands in their hosts.
_PARTITIONS = {".amazonaws.com.cn/": "aws-cn", ".us-gov-": "aws-us-gov", ".amazonaws.eu/": "aws-eusc"}


def _bucket(name: str) -> str:
    plain_bucket(name)
    if not _BUCKET.fullmatch(name) or ".." in name:
        refuse("must be a bucket's name: 3 to 255 letters, digits, dots, hyphens and underscores")
    return name


def _region(name: str) -> str:
    if not REGION.fullmatch(name):
        refuse("must be a region's name such as eu-west-1, us-east-1 or auto; those with fips and aws-global are none")
    return name


class S3CompatibleSpec(Spec):
    """A bucket at a service that speaks the S3 dialect, at the customer's own endpoint."""

    host_typed: ClassVar[HostTyped] = HostTyped.WHOLE
    display_name: ClassVar[str] = "The S3-compatible service"
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "s3_access_key_id",
        Role.SECRET: "s3_secret_access_key",
        Role.BUCKET: "s3_bucket_name",
        Role.PREFIX: "s3_path_prefix",
        Role.ENDPOINT: "s3_endpoint",
        Role.REGION: "s3_region",
    }
    advice: ClassVar[dict[Fault, str]] = {
        Fault.WRITE_DENIED: "The key may not write to {prefix} in {bucket}{detail}: allow it to put objects there, "
        "correct {parameter}, or check s3_bucket_name, since some services say the same of a bucket that does not "
        "exist or is somebody else's.",
        Fault.ENDPOINT_NOT_ALLOWED: "{parameter}: the endpoint must be a public https host; this one may not be "
        "called.",
        Fault.HOST_NOT_FOUND: "{host} does not resolve to a public address: check {parameter} for a typing error. "
        "Hosts of a private network are not reachable from here.",
        Fault.CONNECTION_REFUSED: "{host} refused the connection: check the host and port in {parameter}, and that the "
        "service is public.",
        Fault.TLS_FAILURE: "{host} did not pass the TLS check ({detail}): install a publicly trusted certificate for "
        "exactly this host name, or correct {parameter}.",
        Fault.REDIRECT_REFUSED: "{host} answers with a redirect, which is not followed: give the final address in "
        "{parameter}.",
        Fault.NOT_A_STORAGE_ENDPOINT: "{host} answered, but not as object storage does: check that {parameter} is the "
        "storage API's address and not that of a console, a website or a proxy.",
        Fault.ACCESS_KEY_UNKNOWN: "{provider} does not know this access key: check {parameter} (mistyped, deleted, "
        "inactive, or of another account; Backblaze B2 takes an application key and not the master key).",
        Fault.SECRET_MISMATCH: "The secret does not belong to this access key: copy {parameter} again, whole, without "
        "spaces or line breaks, and check s3_access_key_id, since some services say the same of a key that they do not "
        "know{detail}.",
        Fault.CLOCK_SKEW: "{host} rejected the time of our request: its own clock is wrong, or ours is. Set the time "
        "of the service's machines (NTP) and try again, or tell us if it is right already.",
        Fault.BUCKET_WRONG_REGION: "{bucket} is in another region than the one that was called: correct {parameter}, "
        "or give the address of the bucket's own region in s3_endpoint.",
        Fault.PROTOCOL_UNSUPPORTED: "{provider} refused a feature of the request itself, so that no change of keys "
        "will help: tell us which service answers at {parameter}, and the code in the report.",
        Fault.PROVIDER_ERROR: "{provider} refused with an answer that has no translation yet: look up the code in the "
        "report, or hand it to its support.",
    }

    type: Literal["s3compatible"]
    s3_access_key_id: Annotated[
        Credential,
        # A slash, comma or equals sign would break the credential scope of a signature.
        AfterValidator(matching(r"[^ /,=]{1,256}", "must be an access key id: up to 256 characters, no / , or =")),
        Field(description="The access key id of a user that may put and delete objects.", examples=["DO00EXAMPLE"]),
    ]
    s3_secret_access_key: Annotated[
        Credential, Field(description="The secret access key that belongs to it.", examples=["a-secret-of-the-service"])
    ]
    s3_bucket_name: Annotated[
        PlainName, AfterValidator(_bucket), Field(description="The bucket's plain name.", examples=["my-results"])
    ]
    s3_endpoint: Annotated[
        Name,
        endpoint_like(_EXAMPLE),
        Field(description="The public address of the service's S3 API, without the bucket.", examples=[_EXAMPLE]),
    ]
    s3_path_prefix: PathPrefix | None = None
    s3_region: (
        Annotated[
            Name,
            AfterValidator(_region),
            Field(description="Only where the service asks for one and its host does not tell.", examples=["ams3"]),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _one_bucket(self) -> Self:
        parts = urlsplit(self.s3_endpoint)
        known = hosts.find(parts.hostname or "")
        if parts.path and (known or self.s3_bucket_name in parts.path.split("/")):
            refuse("s3_endpoint must be the host only, without a path; the bucket has its own parameter")
        if known and known.bucket not in (None, self.s3_bucket_name):
            refuse(
                "s3_endpoint names another bucket than s3_bucket_name: give the address of the service alone, and a "
                "folder in s3_path_prefix"
            )
        return self

    def s3_access(self) -> S3Access:
        """At the endpoint, without the bucket if that was pasted into it.

        The region, if it is not given, and the addressing are those that the service documents for its hosts; for any
        other host they are a guess, us-east-1 and path style. Both are assumed; so is, for any other host, that no
        bucket is part of its name.
        """
        parts = urlsplit(self.s3_endpoint)
        name, colon, port = parts.netloc.partition(":")
        known = hosts.find(name) or hosts.Host(_without_bucket(name, self.s3_bucket_name))
        told = known.region if known.region and REGION.fullmatch(known.region) else None
        assumed: set[Literal["region", "addressing", "host"]] = {"addressing"}
        if not self.s3_region:
            assumed.add("region")
        if parts.path or not (hosts.find(name) or IPV4.fullmatch(name) or name.startswith("[")):
            assumed.add("host")
        return S3Access(
            access_key=self.s3_access_key_id,
            secret_key=self.s3_secret_access_key,
            endpoint=f"{parts.scheme}://{known.name}{colon}{port}{parts.path}",
            region=self.s3_region or told or "us-east-1",
            guessed=not (self.s3_region or told),
            addressing="virtual" if known.virtual else "path",
            assumed=frozenset(assumed),
        )

    def has_slow_keys(self) -> bool:
        return (urlsplit(self.s3_endpoint).hostname or "").endswith(_SLOW_KEYS)

    @classmethod
    def key_guide(cls, bucket: str, folder: str, parameters: Mapping[str, str]) -> KeyGuide:
        host = urlsplit(parameters.get("s3_endpoint", "")).hostname or ""
        partition = next((name for marker, name in _PARTITIONS.items() if marker in f"{host}/"), "aws")
        return KeyGuide(
            policy_under(f"arn:{partition}:s3:::{bucket}/{with_wildcards(folder)}"),
            (
                "Create a user or a key for Dropoff alone in the console of the service.",
                "Attach this policy to it where the service takes policies in Amazon's form, as most do; elsewhere "
                "limit the key to this bucket, and let it write and delete objects.",
                "Send the key as s3_access_key_id and s3_secret_access_key, and the address of the service as "
                "s3_endpoint.",
            ),
        )


def _without_bucket(host: str, bucket: str) -> str:
    """`host`, which is that of no known service, without `bucket` as its first part.

    It is only taken off if three parts remain: data.example.com may well be a service with a bucket called data. An
    address in numbers has no part that is a bucket.
    """
    rest = host.removeprefix(f"{bucket}.")
    return rest if rest.count(".") > 1 and not IPV4.fullmatch(host) else host
