"""What may be connected to: the guarded HTTP sessions that every storage SDK here goes through.

The guard stands where a socket is made, so that it sees the address itself: literals in any spelling, DNS
answers and names that change between two look-ups are all alike there. Redirects are refused, answers are
capped, and neither proxies nor credentials are taken from the environment.
"""

import asyncio
import contextlib
import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import certifi
import requests
from aiohttp.abc import AbstractCookieJar, AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from app import metrics
from app.settings import Network

ANSWER_LIMIT = 64 * 1024
CONNECT_SECONDS = 5.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
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
    """The server answered with a redirect; `headers` are the answer's own, names in lower case, and `body` is what an
    XML answer says."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        super().__init__(f"redirect with status {status}")
        self.status = status
        self.headers = headers
        self.body = body


class AnswerTooLarge(aiohttp.ClientPayloadError):
    """The server sent more than ANSWER_LIMIT bytes as its answer, headers included, or what becomes more."""


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

        A name without such an address is answered as one that nobody has, and no search domain of this machine is
        tried: which names its own networks know is not to be learnt here. What is an address already is left to
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
            metrics.EGRESS_REFUSED.inc()
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    def socket(self, info: AddrInfo) -> socket.socket:
        """A socket for one address, as aiohttp's `socket_factory` is asked for it. Raises EgressRefused."""
        family, kind, proto, _, address = info
        if family not in (socket.AF_INET, socket.AF_INET6) or not self.allows(address[0]):
            metrics.EGRESS_REFUSED.inc()
            raise EgressRefused
        return socket.socket(family, kind, proto)


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def tls_context() -> ssl.SSLContext:
    """Certificates are checked against the system's authorities (SSL_CERT_FILE is honoured) and certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Resolver(AbstractResolver):
    """Has the guard find the address. aiohttp itself would try a name's addresses one beside the other."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(None, self._guard.find, host, port)
        at, _, proto, _, (address, *_) = found
        return [ResolveResult(hostname=host, host=address, port=port, family=at, proto=proto, flags=0)]

    async def close(self) -> None:
        """There is nothing to close."""


class _CappedHandler(ResponseHandler):
    """A connection that is cut when the answer to one request is larger than ANSWER_LIMIT: headers, answers on the
    way, trailers and all."""

    _left = ANSWER_LIMIT

    def set_response_params(self, **options: Any) -> None:
        self._left = ANSWER_LIMIT
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            super().data_received(data)
        elif self.transport:
            self.transport.abort()
            if self._payload:
                self._payload.set_exception(AnswerTooLarge())
            self.set_exception(AnswerTooLarge())
            # Else aiohttp would find, once the connection is gone, that the answer was cut.
            self._parser = self._payload = None


class _PlainResponse(aiohttp.ClientResponse):
    """An answer that does not grow while it is read: no SDK unpacks it, since none was asked to be packed."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        headers = CIMultiDict(self._headers or {})
        headers.popall("Content-Encoding", None)
        return CIMultiDictProxy(headers)

    async def read(self) -> bytes:
        """The body. Raises AnswerTooLarge."""
        return _plain(await super().read())


def _plain(body: bytes) -> bytes:
    """`body`, unless it declares XML entities or default attributes: a few bytes stand for many then. No store does."""
    if _DECLARATION.search(body.replace(b"\0", b"")):
        raise AnswerTooLarge
    return body


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
        resolver=resolver or _Resolver(guard),
        socket_factory=guard.socket,
        limit=0,
        keepalive_timeout=15,
        use_dns_cache=False,
    )
    connector._factory = partial(_CappedHandler, loop=asyncio.get_running_loop())  # type: ignore[assignment]
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
        response_class=_PlainResponse,
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
    """Opens its connections through the guard, follows no redirect and reads no more than ANSWER_LIMIT bytes.

    The time-out for reading is for an answer as a whole, since the thread that reads it cannot be stopped otherwise.
    """

    def __init__(self, guard: Guard, pool_size: int) -> None:
        self._guard = guard
        super().__init__(pool_connections=pool_size, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=tls_context(), **options)
        guard = self._guard

        class Guarded:
            response_class = _BoundedAnswer

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
        try:
            response._content = _plain(response.raw.read(decode_content=False))
        except HTTPError as error:
            raise requests.ConnectionError(error) from error
        response._content_consumed = True  # type: ignore[attr-defined]
        response.raw.release_conn()
        return response


class _BoundedAnswer(http.client.HTTPResponse):
    """An answer of at most ANSWER_LIMIT bytes, headers included, that takes no longer than its socket's time-out."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Bounded(self.fp.detach(), sock))


class _Bounded(io.RawIOBase):
    """What is read from `sock`, up to both bounds."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._left = ANSWER_LIMIT
        self._ends = time.monotonic() + (sock.gettimeout() or CONNECT_SECONDS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._ends - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._sock.settimeout(seconds)
        count = self._raw.readinto(buffer) or 0
        self._left -= count
        if self._left < 0:
            raise AnswerTooLarge
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _connect(guard: Guard, host: str, port: int, timeout: Any) -> socket.socket:
    """A socket that is connected to the one address of `host` that the guard finds."""
    wire = _wire.get() or Wire()
    wire.begin()
    wire.resolve()
    info = guard.find(host, port)
    wire.resolved()
    sock = guard.socket(info)
    try:
        sock.settimeout(timeout if isinstance(timeout, int | float) else CONNECT_SECONDS)
        sock.connect(info[4])
    except OSError:
        sock.close()
        raise
    return sock
