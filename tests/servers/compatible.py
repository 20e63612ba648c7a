"""Services that speak the S3 dialect, each by its documented manners, before a real store that checks every signature.

A service looks at where and how it is called before it looks at the signature; that is what is played here. What it
lets pass goes on as it came, headers and all, to SeaweedFS, or to moto for a bucket's name that SeaweedFS refuses.
"""

import contextlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from tests.servers.gateway import Canned, gateway

SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/([^/]*)/s3/aws4_request")


class Seen(NamedTuple):
    """One request; `region` is the one that it was signed for, None for one that was not signed."""

    method: str
    host: str
    path: str
    region: str | None


def error(status: int, code: str, message: str = "", extra: str = "", **headers: str) -> Canned:
    """A refusal as S3 words it; `extra` is more XML, an underscore in a header's name stands for a hyphen."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message>{extra}</Error>'
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Canned(status, {"Content-Type": "application/xml", **names}, body.encode())


def malformed(region: str) -> Canned:
    """S3's, MinIO's and SeaweedFS's word for a signature for another region than `region`."""
    message = f"The authorization header is malformed; the region is wrong; expecting '{region}'."
    return error(400, "AuthorizationHeaderMalformed", message, f"<Region>{region}</Region>")


@dataclass
class Service:
    """A running one, and its manners, which a test may change.

    `lookup` is what is said to who asks for a file, and `under` a path with what is said, by method, below it.

    `region` is the one that a signature must be for, None where any will do, and `wrong_region` what is said of
    another. `path_style`, `virtual_style` and `newer` are what is said of a bucket in the path, of one in the host's
    name, and of what newer SDKs send (chunks, trailers, checksums), None where that is taken. `unsigned` answers what
    is not signed, and `unknown` a key that is not among `keys`. `host` and `port` are what its clients call.
    """

    host: str = "127.0.0.1"
    region: str | None = None
    wrong_region: Callable[[str], Canned] = malformed
    path_style: Canned | None = None
    virtual_style: Canned | None = None
    newer: Canned | None = None
    unsigned: Callable[[str], Canned] | None = None
    unknown: Canned | None = None
    lookup: Canned | None = None
    under: tuple[str, Mapping[str, Canned]] = ("", {})
    keys: tuple[str, ...] = ()
    port: int = 0
    secure: bool = True
    requests: list[Seen] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http{'s' if self.secure else ''}://{self.host}:{self.port}"

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Canned | None:
        """The refusal of a request, in the order in which a service looks; None for what a store may see."""
        scope = SCOPE.search(headers.get("Authorization", ""))
        host = headers["Host"].partition(":")[0]
        self.requests.append(Seen(method, host, path, scope[2] if scope else None))
        if self.under[0] and path.startswith(self.under[0]) and method in self.under[1]:
            return self.under[1][method]
        if not scope:
            return self.unsigned(self.region or "") if self.unsigned else error(403, "AccessDenied")
        if self.newer and _is_newer(headers):
            return self.newer
        if style := self.path_style if host == self.host else self.virtual_style:
            return style
        if self.unknown and scope[1] not in self.keys:
            return self.unknown
        if self.region is not None and scope[2] != self.region:
            return self.wrong_region(self.region)
        return self.lookup if method == "GET" else None

    def calls(self) -> list[str]:
        """The methods of the requests since this was last asked."""
        seen, self.requests = self.requests, []
        return [request.method for request in seen]


# https://www.alibabacloud.com/help/en/oss/developer-reference/use-amazon-s3-sdks-to-access-oss, and what it says to the
# rest as peak/s5cmd#518 and iflytek/skillhub#376 have it.
OSS = partial(
    Service,
    host="s3.oss-cn-hangzhou.aliyuncs.com",
    region="cn-hangzhou",
    wrong_region=lambda _: error(403, "SignatureDoesNotMatch"),
    path_style=error(403, "SecondLevelDomainForbidden", "Please use virtual hosted style to access."),
    newer=error(
        400, "InvalidArgument", "aws-chunked encoding is not supported with the specified x-amz-content-sha256"
    ),
)

SERVICES: dict[str, Callable[[], Service]] = {
    # https://docs.digitalocean.com/reference/api/spaces: the scope has the region's slug. What is said of another is
    # not published; here it is the word that tells least, and so it is with the others of which nothing is known.
    "DigitalOcean Spaces": partial(
        Service,
        host="ams3.digitaloceanspaces.com",
        region="ams3",
        wrong_region=lambda _: error(403, "SignatureDoesNotMatch"),
    ),
    # https://developers.cloudflare.com/r2/api/s3/api and /r2/api/error-codes; jeessy2/backup-x#127, amd/gaia#3029
    "Cloudflare R2": partial(
        Service,
        host="abc.r2.cloudflarestorage.com",
        region="auto",
        wrong_region=lambda _: error(
            400, "InvalidRegionName", "Must be one of: wnam, enam, weur, eeur, apac, oc, auto"
        ),
        newer=error(401, "Unauthorized"),
        unknown=error(401, "Unauthorized"),
    ),
    # https://www.backblaze.com/apidocs/introduction-to-the-s3-compatible-api
    # boto/s3transfer#327, muxinc/next-video#216
    "Backblaze B2": partial(
        Service,
        host="s3.us-west-004.backblazeb2.com",
        region="us-west-004",
        wrong_region=lambda _: error(403, "SignatureDoesNotMatch"),
        newer=error(
            400, "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm' received for this API call."
        ),
        unknown=error(403, "InvalidAccessKeyId", "Malformed Access Key Id"),
    ),
    # https://docs.wasabi.com/docs/service-urls-for-wasabis-storage-regions
    "Wasabi": partial(Service, host="s3.eu-central-1.wasabisys.com", region="eu-central-1"),
    # minio/minio#8183, Altinity/clickhouse-backup#1110
    "MinIO": partial(Service, host="minio.example.com", region="eu-test-1"),
    # https://docs.ceph.com/en/latest/radosgw/s3/commons: by the path, unless it is told its names. Any region will do.
    "Ceph": partial(Service, newer=error(400, "XAmzContentSHA256Mismatch")),
    "OSS": OSS,
    # https://cloud.tencent.com/document/faq/436/102489
    "Tencent COS": partial(
        Service,
        host="cos.ap-beijing.myqcloud.com",
        region="ap-beijing",
        wrong_region=lambda _: error(403, "SignatureDoesNotMatch"),
        path_style=error(403, "PathStyleDomainForbidden", "must be addressed using COS virtual-styled domain."),
    ),
    # The same software under a name that tells nothing.
    "OSS of its own": partial(OSS, host="oss.example.com", wrong_region=malformed),
}
HOSTS = tuple(host for host in (service().host for service in SERVICES.values()) if host != Service.host)
NAMES = tuple(name for host in HOSTS for name in (host, f"*.{host}"))
"""For a certificate: every service's name, and that of any bucket at it."""


class Loopback(AbstractResolver):
    """Finds the services and their buckets on this machine, and nobody else anywhere."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if not any(host == name or host.endswith(f".{name}") for name in HOSTS):
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is held."""


def _is_newer(headers: Mapping[str, str]) -> bool:
    """Whether a request has what SDKs send by default since January 2025, and what several services refuse."""
    names = [name.lower() for name in headers]
    return (
        "aws-chunked" in headers.get("Content-Encoding", "")
        or "STREAMING" in headers.get("x-amz-content-sha256", "")
        or any(name == "x-amz-trailer" or "checksum" in name for name in names)
    )


@contextlib.contextmanager
def serving(service: Service, upstream: int, certificate: tuple[Path, Path] | None = None) -> Iterator[Service]:
    """`service` before the store at the port `upstream`, over TLS where there is a certificate."""
    with gateway(upstream, service.answer, certificate) as address:
        service.port, service.secure = int(address.rpartition(":")[2]), certificate is not None
        yield service
