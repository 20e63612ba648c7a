"""What may be connected to: the guarded HTTP sessions that every storage SDK here goes through.

The guard stands where a socket is made, so that it sees the address itself: literals in any spelling, DNS
answers and names that change between two look-ups are all alike there. Redirects are refused, answers are
capped, and neither proxies nor credentials are taken from the environment.
"""

import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
import certifi
import requests
from aiohttp.abc import AbstractCookieJar, AbstractResolver
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from app import metrics
from app.settings import Network

ANSWER_LIMIT = 256 * 1024
CONNECT_SECONDS = 5.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

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


class EgressRefused(OSError):
    """The address may not be connected to. Says the same whatever the reason, so that nothing can be learnt."""

    def __init__(self) -> None:
        super().__init__("the address may not be called")


class RedirectRefused(Exception):
    """The server answered with a redirect; `headers` are the answer's own, names in lower case, and `body` is what an
    XML answer says."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        super().__init__(f"redirect with status {status}")
        self.status = status
        self.headers = headers
        self.body = body


class AnswerTooLarge(Exception):
    """The server sent more than ANSWER_LIMIT bytes as its answer."""


@dataclass
class Wire:
    """What happened on the network since `watched` began: which of resolve and connect were done, and when.

    `resolve_ms` and `connect_ms` are durations; `reused` says that an open connection served instead. An address that
    is no name has nothing to resolve.
    """

    resolve_ms: int | None = None
    connect_ms: int | None = None
    resolving: bool = False
    reused: bool = False
    _began: float = 0.0

    @property
    def connected(self) -> bool:
        """Whether a request can have left for the server."""
        return self.reused or self.connect_ms is not None

    @property
    def seconds(self) -> float:
        """How long resolving and connecting have taken."""
        return ((self.resolve_ms or 0) + (self.connect_ms or 0)) / 1000

    def begin(self) -> None:
        self._began = time.monotonic()

    def resolve(self) -> None:
        self.resolving = True

    def resolved(self) -> None:
        self.resolving, self.resolve_ms, self._began = False, self._elapsed(), time.monotonic()

    def made(self) -> None:
        # The first connection of a call is the one that is reported.
        if not self.connected:
            self.resolve_ms = self.resolve_ms or 0
            self.connect_ms = self._elapsed()

    def _elapsed(self) -> int:
        return round((time.monotonic() - self._began) * 1000)


_wire: ContextVar[Wire | None] = ContextVar("wire", default=None)


@contextlib.contextmanager
def watched() -> Iterator[Wire]:
    """Record what the requests made inside this block, in this task, do on the network."""
    wire = Wire()
    token = _wire.set(wire)
    try:
        yield wire
    finally:
        _wire.reset(token)


def watch_anew() -> None:
    """Forget what the block under `watched` has seen so far: only what comes now is the call that is reported."""
    if wire := _wire.get():
        wire.__init__()  # type: ignore[misc]


class Guard:
    """Decides which addresses may be called: public ones, and those in the networks that the operator named."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = tuple(allowed)

    def check(self, address: str) -> None:
        """Raise EgressRefused unless the IP address `address` (no name, no port) may be connected to."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        if any(ip.version == network.version and ip in network for network in self._allowed):
            return
        unwanted = not ip.is_global or ip.is_multicast or ip.is_reserved
        if unwanted or any(ip.version == network.version and ip in network for network in _NOT_PUBLIC):
            metrics.EGRESS_REFUSED.inc()
            raise EgressRefused

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """A socket for one resolved address, as aiohttp's `socket_factory` is asked for it."""
        family, kind, proto, _, address = info
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise EgressRefused
        self.check(address[0])
        return socket.socket(family, kind, proto)


def tls_context() -> ssl.SSLContext:
    """Certificates are checked against the system's authorities (SSL_CERT_FILE is honoured) and certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _CappedResponse(aiohttp.ClientResponse):
    async def read(self) -> bytes:
        """The body, or AnswerTooLarge after ANSWER_LIMIT bytes of it."""
        if self._body is None:
            chunks, size = [], 0
            async for chunk in self.content.iter_any():
                size += len(chunk)
                if size > ANSWER_LIMIT:
                    self.close()
                    raise AnswerTooLarge
                chunks.append(chunk)
            self._body = b"".join(chunks)
        return self._body


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    response = await handler(request)
    if response.status in _REDIRECTS:
        headers = {name.lower(): value for name, value in response.headers.items()}
        # S3 says in the body why it redirects.
        body = await response.read() if "xml" in response.content_type else b""
        response.close()
        raise RedirectRefused(response.status, headers, body)
    return response


def _tracing() -> aiohttp.TraceConfig:
    def noting(note: Callable[[Wire], None]) -> Callable[..., Any]:
        async def on_event(*_: object) -> None:
            if wire := _wire.get():
                note(wire)

        return on_event

    def reuse(wire: Wire) -> None:
        # A connection that was made for this call may serve it again.
        wire.reused = wire.reused or not wire.connected

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(noting(Wire.begin))
    trace.on_dns_resolvehost_start.append(noting(Wire.resolve))
    trace.on_dns_resolvehost_end.append(noting(Wire.resolved))
    trace.on_connection_create_end.append(noting(Wire.made))
    trace.on_connection_reuseconn.append(noting(reuse))
    return trace


@contextlib.asynccontextmanager
async def guarded_session(
    guard: Guard, resolver: AbstractResolver | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """The one session that the asynchronous SDKs of this process share; closed when the block ends. Names are looked
    up by `resolver`, else by the system; whatever either says is checked.

    Its connections are not limited in number, since the worker's threads already are: a store that never answers
    must not take the place of another's.
    """
    connector = aiohttp.TCPConnector(
        ssl=tls_context(),
        socket_factory=guard.socket,
        resolver=resolver,
        limit=0,
        keepalive_timeout=15,
        use_dns_cache=False,
    )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    jar: AbstractCookieJar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        trust_env=False,
        cookie_jar=jar,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        skip_auto_headers=("Content-Type",),
        response_class=_CappedResponse,
        middlewares=(_refuse_redirects,),
        trace_configs=[_tracing()],
    ) as session:
        yield session


def blocking_session(guard: Guard, pool_size: int) -> requests.Session:
    """The same guard for an SDK that blocks: no redirects, nothing from the environment."""
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    adapter = _GuardedAdapter(guard, pool_size)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class _GuardedAdapter(HTTPAdapter):
    """Opens its connections through the guard, follows no redirect and reads no more than ANSWER_LIMIT bytes."""

    def __init__(self, guard: Guard, pool_size: int) -> None:
        self._guard = guard
        super().__init__(pool_connections=pool_size, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=tls_context(), **options)
        guard = self._guard

        class Guarded:
            def _new_conn(self: Any) -> socket.socket:
                return _connect(guard, self._dns_host, self.port or 443, self.timeout)

            def connect(self) -> None:
                super().connect()  # type: ignore[misc]
                (_wire.get() or Wire()).made()

        plain = type("GuardedHTTPConnection", (Guarded, HTTPConnection), {})
        secure = type("GuardedHTTPSConnection", (Guarded, HTTPSConnection), {})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("GuardedHTTPPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("GuardedHTTPSPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        wire = _wire.get()
        response = super().send(request, *args, **options)
        if wire and not wire.connected:
            wire.reused = True
        if response.status_code in _REDIRECTS:
            response.close()
            raise RedirectRefused(response.status_code, {n.lower(): v for n, v in response.headers.items()})
        body = response.raw.read(ANSWER_LIMIT + 1, decode_content=False)
        if len(body) > ANSWER_LIMIT:
            response.close()
            raise AnswerTooLarge
        response._content = body
        response._content_consumed = True  # type: ignore[attr-defined]
        response.raw.release_conn()
        return response


def _connect(guard: Guard, host: str, port: int, timeout: Any) -> socket.socket:
    """A connected socket to the first address of `host` that takes the connection; every one is checked first."""
    wire = _wire.get() or Wire()
    wire.begin()
    wire.resolve()
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    wire.resolved()
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for info in addresses:
        sock = guard.socket(info)
        try:
            sock.settimeout(timeout if isinstance(timeout, int | float) else CONNECT_SECONDS)
            sock.connect(info[4])
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure
