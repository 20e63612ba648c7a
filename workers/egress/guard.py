"""What may be called, and what may come back: the rules that both kinds of session here keep.

The guard stands where a socket is made, so that it sees the address itself: literals in any spelling, DNS
answers and names that change between two look-ups are all alike there. Redirects are refused, answers are
capped, and neither proxies nor credentials are taken from the environment.
"""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import structlog

from app.observe import metrics
from app.settings import Network

log = structlog.get_logger()

ANSWER_LIMIT = 64 * 1024
CONNECT_SECONDS = 5.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DECLARATION = re.compile(rb"<!(ENTITY|ATTLIST)")

# Addresses that `ipaddress` calls global and that lead elsewhere all the same: shared address space, protocol
# assignments, cloud platforms' own services, and the ways of writing an IPv4 address inside an IPv6 one.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "168.63.129.16/32",
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)

AddrInfo = tuple[Any, ...]
"""One result of socket.getaddrinfo: family, type, protocol, canonical name, address."""


class EgressRefused(OSError):
    """The address may not be connected to. Says the same whatever the reason, so that nothing can be learnt."""

    def __init__(self) -> None:
        super().__init__("the address may not be called")


class RedirectRefused(Exception):
    """The server answered with a redirect; `headers` are the answer's own, with their names in lower case, and `body`
    is that of an XML answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        super().__init__(f"redirect with status {status}")
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body


class AnswerTooLarge(aiohttp.ClientPayloadError):
    """The server sent more than ANSWER_LIMIT bytes as its answer, headers included, or what would grow beyond them."""


class Guard:
    """Decides which addresses may be called: public ones, and those in the networks that the operator named."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = tuple(allowed)

    def allows(self, address: str) -> bool:
        """Whether the IP address `address` (no name, no port) may be connected to."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        if any(ip.version == network.version and ip in network for network in self._allowed):
            return True
        unwanted = not ip.is_global or ip.is_multicast or ip.is_reserved
        return not unwanted and not any(ip.version == network.version and ip in network for network in _NOT_PUBLIC)

    def find(self, host: str, port: int) -> AddrInfo:
        """The one address at which `host` is called: the first of a name's that may be; blocks while it is looked up.

        A name without such an address is answered as one that does not exist, and no search domain of this machine
        is tried, so that nobody learns which names its own networks know. What is an address already is checked by
        `socket`. Raises socket.gaierror.
        """
        if _is_address(host):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
        name = host if host == "localhost" else host.rstrip(".") + "."
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        except UnicodeError:
            found = []  # a label is longer than DNS has room for
        for info in found:
            if self.allows(str(info[4][0])):
                return info
        if found:
            _tell(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    def socket(self, info: AddrInfo) -> socket.socket:
        """A socket for one address, as aiohttp's `socket_factory` is asked for it. Raises EgressRefused."""
        family, kind, proto, _, address = info
        if family not in (socket.AF_INET, socket.AF_INET6) or not self.allows(address[0]):
            _tell(str(address[0]))
            raise EgressRefused
        return socket.socket(family, kind, proto)


def _tell(host: str) -> None:
    """Count and log that `host` was not called; the customer is not told by which setting it would be."""
    metrics.EGRESS_REFUSED.inc()
    log.info("egress refused", host=host, setting="DROPOFF_EGRESS_ALLOW")


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def require_plain(body: bytes) -> bytes:
    """`body`, unless it declares XML entities or default attributes, by which a few bytes stand for many and which no
    store uses. Raises AnswerTooLarge."""
    if _DECLARATION.search(body.replace(b"\0", b"")):
        raise AnswerTooLarge
    return body
