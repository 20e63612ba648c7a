"""The guarded session of an SDK that blocks, on requests."""

import http.client
import io
import socket
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from app.tls import tls_context
from workers.egress.guard import (
    ANSWER_LIMIT,
    CONNECT_SECONDS,
    REDIRECTS,
    AnswerTooLarge,
    Guard,
    RedirectRefused,
    require_plain,
)
from workers.egress.wire import current


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
                wire = current()
                wire.made()
                if wire.over:
                    # It was given up as never sent, and a file that was uploaded now would not be deleted.
                    raise TimeoutError

            def request(self: Any, *args: Any, **options: Any) -> None:
                if self.sock:
                    current().reuse()
                super().request(*args, **options)  # type: ignore[misc]

        plain = type("GuardedHTTPConnection", (Guarded, HTTPConnection), {})
        secure = type("GuardedHTTPSConnection", (Guarded, HTTPSConnection), {})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("GuardedHTTPPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("GuardedHTTPSPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        response = super().send(request, *args, **options)
        if response.status_code in REDIRECTS:
            response.close()
            raise RedirectRefused(response.status_code, response.headers)
        try:
            response._content = require_plain(response.raw.read(decode_content=False))
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
    wire = current()
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
