"""The connections of this process: how many there may be, and how long one may take to say what it wants.

aiohttp bounds neither, and a client that sends nothing would keep a descriptor for an hour.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from app.observe import metrics

log = structlog.get_logger()
T = TypeVar("T")

HEAD_SECONDS = 10.0
"""From the first byte of a request, or the beginning of a connection, until its head is there."""
BODY_SECONDS = 30.0
"""From the head of a request until its body is there."""
IDLE_SECONDS = 75.0
"""How long a connection may wait for its next request: longer than proxies keep theirs, so that they close first."""
TELL_SECONDS = 60.0
# For files, for the connections to Redis and to the database, and for those that are taken while some are refused.
_OTHER_DESCRIPTORS = 192
# More than are let on (see admission.py): who is one too many is to be told so, and not to wait in the system's queue.
_TAKEN_AT_ONCE = 32
_BACKLOG = 1024


class Refusals:
    """Counts what was refused before it was a request, and tells so in one line, at most once in `every` seconds."""

    def __init__(self, every: float = TELL_SECONDS) -> None:
        self._every = every
        self._counts: Counter[str] = Counter()
        self._quiet = False

    def note(self, reason: str) -> None:
        self._counts[reason] += 1
        metrics.CONNECTIONS_REFUSED.labels(reason).inc()
        if not self._quiet:
            self._tell()

    def _tell(self) -> None:
        log.warning("connections refused", **self._counts)
        self._counts.clear()
        self._quiet = True
        asyncio.get_running_loop().call_later(self._every, self._listen)

    def _listen(self) -> None:
        self._quiet = False
        if self._counts:
            self._tell()

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The handler of a loop's own errors: it says for each connection that there is no descriptor for it."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE) and "socket" in context:
            self.note("no_descriptor")
        else:
            loop.default_exception_handler(context)

    def is_news(self, record: logging.LogRecord) -> bool:
        """The filter of aiohttp's log, which has a traceback for each request that is no HTTP."""
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            self.note("no_http")
            return False
        return True


class Connections:
    """The listener's protocols: each that `server` makes, within the bounds.

    There are at most `limit` connections, and at most `per_address` from one address. One more takes the place of the
    one that has waited longest for a request, so that whoever only connects keeps nobody out; where all have a request
    under way, it is closed itself.
    """

    def __init__(
        self,
        server: Callable[[], asyncio.Protocol],
        refusals: Refusals,
        *,
        limit: int,
        per_address: int,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        self.server = server
        self.refusals = refusals
        self.head_seconds = head_seconds
        self._limit = limit
        self._per_address = per_address
        self._open: Counter[str] = Counter()
        # Those without a request under way, by address; the one that has waited longest comes first.
        self._waiting: dict[Connection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        return Connection(self)

    def admit(self, connection: "Connection") -> bool:
        """Whether there is room for one more, if need be for the one that waits longest."""
        address = connection.address
        if self._open[address] >= self._per_address:
            room = self._evict("address_has_too_many", (each for each in self._waiting if each.address == address))
        elif self._open.total() >= self._limit:
            room = self._evict("too_many", iter(self._waiting))
        else:
            room = True
        if room:
            self._open[address] += 1
        return room

    def _evict(self, reason: str, candidates: "Iterator[Connection]") -> bool:
        self.refusals.note(reason)
        longest = next(candidates, None)
        if longest:
            longest.close()
        return longest is not None

    def waits(self, connection: "Connection") -> None:
        self._waiting[connection] = None

    def is_served(self, connection: "Connection") -> None:
        self._waiting.pop(connection, None)

    def left(self, connection: "Connection") -> None:
        self.is_served(connection)
        self._open[connection.address] -= 1
        if not self._open[connection.address]:
            del self._open[connection.address]


class Connection(asyncio.Protocol):
    """One connection: what it receives goes to a protocol of aiohttp's, while it keeps within the bounds."""

    def __init__(self, all_: Connections) -> None:
        self.address = ""
        self._all = all_
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._head: asyncio.TimerHandle | None = None
        self._idle = False
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        if not self._all.admit(self):
            transport.abort()
            return
        self._counted = True
        self._inner = self._all.server()
        self._inner.connection_made(transport)
        self._all.waits(self)
        self._expect_head()

    def _expect_head(self) -> None:
        self._idle = False
        self._head = asyncio.get_running_loop().call_later(self._all.head_seconds, self._too_late)

    def _too_late(self) -> None:
        self._all.refusals.note("head_too_late")
        self.close()

    def close(self) -> None:
        """End it at once, and make its room free."""
        self._leave()
        if self._transport:
            self._transport.abort()

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """While a request is under way."""
        if self._head:
            self._head.cancel()
        self._idle = False
        self._all.is_served(self)
        try:
            yield
        finally:
            if self._counted:
                self._idle = True
                self._all.waits(self)

    def data_received(self, data: bytes) -> None:
        if self._inner:
            if self._idle:
                self._expect_head()
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner else None

    def pause_writing(self) -> None:
        if self._inner:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._inner:
            self._inner.connection_lost(exc)
            self._inner = None

    def _leave(self) -> None:
        if self._head:
            self._head.cancel()
        if self._counted:
            self._counted = False
            self._all.left(self)


def room_for_connections(wanted: int) -> int:
    """How many of the `wanted` connections there are descriptors for, after this process has allowed itself as many as
    the system lets it have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return wanted if most == resource.RLIM_INFINITY else max(1, min(wanted, most - _OTHER_DESCRIPTORS))


async def listen(connections: Connections, host: str, port: int) -> asyncio.Server:
    """A listener that takes connections from now on, until it is closed."""
    # What asyncio calls the backlog is also how many it takes at once, before any of them can be refused or make room
    # for another: a descriptor each. The system's queue may be longer.
    listener = await asyncio.get_running_loop().create_server(connections, host, port, backlog=_TAKEN_AT_ONCE)
    for each in listener.sockets:
        with socket.socket(fileno=os.dup(each.fileno())) as same:
            same.listen(_BACKLOG)
    return listener


async def in_time(body: Awaitable[T]) -> T:
    """`body`, which is read from a client. Raises web.HTTPRequestTimeout where it does not come within BODY_SECONDS."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await body
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


@web.middleware
async def attended(request: web.Request, handler: Any) -> web.StreamResponse:
    """A connection is not one that waits while its request is under way."""
    connection = request.transport.get_protocol() if request.transport else None
    with connection.served() if isinstance(connection, Connection) else contextlib.nullcontext():
        response: web.StreamResponse = await handler(request)
    return response
