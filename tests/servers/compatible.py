"""Services that speak the S3 dialect, each by its documented manners, before a real store that checks every signature.

A service looks at where and how it is called before it looks at the signature; that is what is played here. What it
lets pass goes on as it came, headers and all, to SeaweedFS, or to moto for a bucket's name that SeaweedFS refuses.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

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
    """A running one, and its manners, which a test may change: the region that a signature must be for, None where
    any will do, and what is said of another; what is said of a bucket in the path, and of what newer SDKs send
    (chunks, trailers, checksums), None where it is taken; `unsigned` answers what is not signed, and `unknown` a key
    that is not among `keys`. `host` and `port` are what its clients call."""

    host: str = "127.0.0.1"
    region: str | None = None
    wrong_region: Callable[[str], Canned] = malformed
    path_style: Canned | None = None
    newer: Canned | None = None
    unsigned: Callable[[str], Canned] | None = None
    unknown: Canned | None = None
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
        if not scope:
            return self.unsigned(self.region or "") if self.unsigned else error(403, "AccessDenied")
        if self.newer and _is_newer(headers):
            return self.newer
        if self.path_style and host == self.host:
            return self.path_style
        if self.unknown and scope[1] not in self.keys:
            return self.unknown
        if self.region is not None and scope[2] != self.region:
            return self.wrong_region(self.region)
        return None

    def calls(self) -> list[str]:
        """The methods of the requests since this was last asked."""
        seen, self.requests = self.requests, []
        return [request.method for request in seen]


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
