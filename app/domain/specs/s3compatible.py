"""S3-compatible storage: what a customer gives for `type=s3compatible`, and what its host name tells."""

import re
from ipaddress import IPv6Address
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo

from app.domain.errors import Role
from app.domain.specs.base import Credential, Name, PathPrefix, S3Access, Spec, matching, refuse
from app.domain.specs.s3 import plain_bucket

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
REGION = re.compile(r"(?!\d+$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_IPV4 = re.compile(r"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(?!$)|$)){4}")
_NUMERIC = re.compile(r"(0x[0-9a-f]*|\d+)")

# Hosts that carry their region, by the services' own documentation of their endpoints.
_REGION_IN_HOST = (
    re.compile(r"(?P<region>[a-z0-9-]+)\.digitaloceanspaces\.com"),
    re.compile(r"s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com"),
    re.compile(r"s3\.(?P<region>[a-z0-9-]+)\.wasabisys\.com"),
    re.compile(r"s3\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?"),
    re.compile(r"(s3\.)?oss-(?P<region>[a-z0-9-]+)\.aliyuncs\.com"),
    re.compile(r"cos\.(?P<region>[a-z0-9-]+)\.(myqcloud\.com|tencentcos\.cn)"),
)
_REGION_AUTO = (".r2.cloudflarestorage.com", "storage.googleapis.com")
_VIRTUAL_ONLY = (".aliyuncs.com", ".myqcloud.com", ".tencentcos.cn")


def _bucket(name: str) -> str:
    plain_bucket(name)
    if not _BUCKET.fullmatch(name) or ".." in name:
        refuse("must be a bucket's name: 3 to 255 letters, digits, dots, hyphens and underscores")
    return name


def _region(name: str) -> str:
    if not REGION.fullmatch(name):
        refuse("must be a region's name such as eu-west-1, us-east-1 or auto")
    return name


def _host(host: str) -> str:
    """`host` in its one spelling (IDNA, lower case, no trailing dot), or a refusal."""
    if ":" in host and "%" not in host:
        try:
            return str(IPv6Address(host))
        except ValueError:
            refuse("is not an address: write it like https://ams3.digitaloceanspaces.com")
    try:
        ascii_host = host.removesuffix(".").encode("idna").decode().lower()
    except UnicodeError:
        refuse("has a host name that cannot be written in DNS")
    labels = ascii_host.split(".")
    if len(ascii_host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        refuse("has a host name that is not valid")
    if _NUMERIC.fullmatch(labels[-1]) and not _IPV4.fullmatch(ascii_host):
        refuse("has a host that is a number in an unusual spelling: write the host's name")
    return ascii_host


def _endpoint(value: str, info: ValidationInfo) -> str:
    """`value` as scheme://host[:port], or a refusal that says which part is not accepted."""
    allow_http = bool(info.context and info.context.get("allow_http"))
    if re.search(r"[\s\\\x00-\x20\x7f]", value):
        refuse("must be an address such as https://ams3.digitaloceanspaces.com, without spaces or backslashes")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        refuse("is not an address: write it like https://ams3.digitaloceanspaces.com")
    schemes = ("https", "http") if allow_http else ("https",)
    if parts.scheme not in schemes or not host:
        refuse("must begin with https:// and name a host, as in https://ams3.digitaloceanspaces.com")
    if "@" in parts.netloc:
        refuse("must not contain a user name or password")
    if parts.path not in ("", "/") or "?" in value or "#" in value:
        refuse("must be the host only, without a path, query or fragment; the bucket has its own parameter")
    default = {"https": 443, "http": 80}[parts.scheme]
    if port is not None and port != default and not 1024 <= port <= 65535:
        refuse("has a port that is not accepted: use 443 or one from 1024 to 65535")
    name = _host(host)
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}" + (f":{port}" if port not in (None, default) else "")


class S3CompatibleSpec(Spec):
    """A bucket at a service that speaks the S3 dialect, at the customer's own endpoint."""

    provider: ClassVar[str] = "The S3-compatible service"
    roles: ClassVar[dict[Role, str]] = {
        Role.KEY: "s3_access_key_id",
        Role.SECRET: "s3_secret_access_key",
        Role.BUCKET: "s3_bucket_name",
        Role.PREFIX: "s3_path_prefix",
        Role.ENDPOINT: "s3_endpoint",
        Role.REGION: "s3_region",
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
        Name, AfterValidator(_bucket), Field(description="The bucket's plain name.", examples=["my-results"])
    ]
    s3_endpoint: Annotated[
        Name,
        AfterValidator(_endpoint),
        Field(
            description="The public address of the service's S3 API, without the bucket.",
            examples=["https://ams3.digitaloceanspaces.com"],
        ),
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

    def s3_access(self) -> S3Access:
        """A bucket that was pasted into the endpoint is taken out of it; the region and the addressing are guessed
        from the host where its service documents them, else path style and us-east-1."""
        scheme, _, address = self.s3_endpoint.partition("://")
        address = _without_bucket(address, self.s3_bucket_name)
        host = address.partition(":")[0]
        return S3Access(
            access_key=self.s3_access_key_id,
            secret_key=self.s3_secret_access_key,
            endpoint=f"{scheme}://{address}",
            region=self.s3_region or _region_of(host),
            addressing="virtual" if host.endswith(_VIRTUAL_ONLY) else "path",
            assumed=frozenset({"addressing"} if self.s3_region else {"addressing", "region"}),
        )


def _without_bucket(address: str, bucket: str) -> str:
    """What remains is a service's own name only if that has three parts: data.example.com may well have a bucket
    that is called data. An address in numbers has no part that is a bucket."""
    if _IPV4.fullmatch(address.partition(":")[0]):
        return address
    rest = address.removeprefix(f"{bucket}.")
    return rest if rest.count(".") > 1 else address


def _region_of(host: str) -> str:
    for pattern in _REGION_IN_HOST:
        if (match := pattern.fullmatch(host)) and REGION.fullmatch(match["region"]):
            return match["region"]
    return "auto" if host.endswith(_REGION_AUTO) else "us-east-1"
