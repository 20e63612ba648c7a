"""The guarded session of the asynchronous SDKs, on aiohttp."""

import asyncio
import concurrent.futures
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractCookieJar, AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy

from app.tls import tls_context
from workers.egress.guard import (
    ANSWER_LIMIT,
    CONNECT_SECONDS,
    REDIRECTS,
    AddrInfo,
    AnswerTooLarge,
    Guard,
    RedirectRefused,
    require_plain,
)
from workers.egress.wire import Wire, current

# A look-up blocks and cannot be stopped: a name whose servers do not answer holds a thread for as long as the system's
# resolver tries (resolv.conf: by default twice 5 s for each of up to three servers), and no more than one, however many
# ask for it. So many such names, of several accounts, can keep others waiting, and for so long. Whoever waits for a
# thread does so within the bound of its own verification, and leaves the queue when that is over, so that no thread is
# spent on a name that nobody waits for any more.
LOOKUP_THREADS = 128


@dataclass
class _Lookup:
    """One that is under way or waits for a thread, and how many wait for it."""

    thread: "concurrent.futures.Future[AddrInfo]"
    found: "asyncio.Future[AddrInfo]"
    waiting: int = 0


class _Resolver(AbstractResolver):
    """Has the guard find the address, once for all who ask meanwhile. aiohttp itself would try a name's addresses one
    beside the other."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, "lookup")
        self._under_way: dict[tuple[str, int], _Lookup] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        lookup = self._under_way.get((host, port)) or self._begin(host, port)
        lookup.waiting += 1
        try:
            at, _, proto, _, (address, *_) = await asyncio.shield(lookup.found)
        finally:
            lookup.waiting -= 1
            if not lookup.waiting and lookup.thread.cancel():
                # The next who asks must not wait for what will not be.
                self._under_way.pop((host, port), None)
        return [ResolveResult(hostname=host, host=address, port=port, family=at, proto=proto, flags=0)]

    def _begin(self, host: str, port: int) -> _Lookup:
        thread = self._threads.submit(self._guard.find, host, port)
        lookup = self._under_way[host, port] = _Lookup(thread, asyncio.wrap_future(thread))

        def ended(found: "asyncio.Future[AddrInfo]") -> None:
            if self._under_way.get((host, port)) is lookup:
                del self._under_way[host, port]
            if not found.cancelled():
                found.exception()  # nobody may wait for it any more

        lookup.found.add_done_callback(ended)
        return lookup

    async def close(self) -> None:
        """Let go of the threads; a look-up that is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


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
        return require_plain(await super().read())


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    response = await handler(request)
    if response.status in REDIRECTS:
        # S3 says in the body why it redirects.
        body = await response.read() if "xml" in response.content_type else b""
        response.close()
        raise RedirectRefused(response.status, response.headers, body)
    return response


def _tracing() -> aiohttp.TraceConfig:
    def noting(note: Callable[[Wire], None]) -> Callable[..., Any]:
        async def on_event(*_: object) -> None:
            note(current())

        return on_event

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(noting(Wire.begin))
    trace.on_dns_resolvehost_start.append(noting(Wire.resolve))
    trace.on_dns_resolvehost_end.append(noting(Wire.resolved))
    trace.on_connection_create_end.append(noting(Wire.made))
    trace.on_connection_reuseconn.append(noting(Wire.reuse))
    return trace


@contextlib.asynccontextmanager
async def guarded_session(
    guard: Guard, resolver: AbstractResolver | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """The one session that the asynchronous SDKs of this process share; closed when the block ends. Names are looked
    up by `resolver`, which is closed with it, else by the system; whatever either says is checked.

    Its connections are not limited in number, since the jobs of a worker already are: a store that never answers
    must not use up the connections of others.
    """
    resolver = resolver or _Resolver(guard)
    connector = aiohttp.TCPConnector(
        ssl=tls_context(),
        resolver=resolver,
        socket_factory=guard.socket,
        limit=0,
        keepalive_timeout=15,
        use_dns_cache=False,
    )
    connector._factory = partial(_CappedHandler, loop=asyncio.get_running_loop())  # type: ignore[assignment]
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    jar: AbstractCookieJar = aiohttp.DummyCookieJar()
    try:
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
            # Else aiohttp would send an upload again whose connection ended without an answer, and of two versions in
            # a bucket only the second would be deleted.
            session._retry_connection = False
            yield session
    finally:
        await resolver.close()
