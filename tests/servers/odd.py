"""Hosts that are no storage: silent, talkative in HTML, redirecting, slow; each counts what reaches it."""

import atexit
import contextlib
import functools
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

ADDRESS = "127.0.0.1"
"""Where the hosts are; a process on a network of its own puts them elsewhere."""

HTML = b"<!doctype html><title>Welcome</title><p>It works."
PAGE = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(HTML)}\r\n\r\n".encode() + HTML
"""What a web server says, whatever is asked."""

FOREVER_SECONDS = 60


@dataclass
class Odd:
    """One such host: its address, and what has reached it; `called` are its addresses that were connected to."""

    url: str
    called: list[str] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    replies: dict[str, bytes] = field(default_factory=dict)
    pauses: dict[str, float] = field(default_factory=dict)
    cuts: set[str] = field(default_factory=set)
    holds: dict[str, threading.Event] = field(default_factory=dict)
    firsts: list[bytes] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def connections(self) -> int:
        return len(self.called)


Talk = Callable[[socket.socket, Odd, threading.Event], None]


@contextlib.contextmanager
def _host(
    talk: Talk, listening: socket.socket | None = None, replies: Mapping[str, bytes] | None = None
) -> Iterator[Odd]:
    """A host that does `talk` with each connection, until the block ends."""
    listening = listening or socket.create_server((ADDRESS, 0), backlog=128)
    odd = Odd(f"http://{ADDRESS}:{listening.getsockname()[1]}", replies=dict(replies or {}))
    over = threading.Event()
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def converse(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(FOREVER_SECONDS)
            talk(connection, odd, over)

    def accept() -> None:
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            odd.called.append(connection.getsockname()[0].removeprefix("::ffff:"))
            connections.append(connection)
            threads.append(threading.Thread(target=converse, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield odd
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join()
        for connection in connections:
            # Whoever waits for the client need not wait until it hangs up.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(FOREVER_SECONDS)
            assert not thread.is_alive()


def everywhere(reply: bytes, port: int = 0) -> contextlib.AbstractContextManager[Odd]:
    """Answers every request with `reply`, on every address that this machine has, of both families."""
    listening = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    return _host(_answer, listening, {"": reply})


def silent() -> contextlib.AbstractContextManager[Odd]:
    """Accepts connections, takes a request on each, and never answers."""

    def talk(connection: socket.socket, odd: Odd, over: threading.Event) -> None:
        if request := _request(connection):
            odd.requests.append(request)
        over.wait(FOREVER_SECONDS)

    return _host(talk)


def answering(reply: bytes, **others: bytes) -> contextlib.AbstractContextManager[Odd]:
    """Answers every request with `reply`, a whole HTTP answer, and keeps the connection.

    One of `others` is the answer where its name (of a method, of a parameter) stands in the request's first line, the
    last such winning. `replies` has them all, to be changed at any time, and `pauses` the seconds to wait before. What
    is among its `holds` is not answered before that happens; what is among its `cuts` is not at all, and the connection
    is closed. `firsts` are what the next uploads are answered.

    An empty reply is none: the request stays unanswered.
    """
    return _host(_answer, replies={"": reply, **others})


def _answer(connection: socket.socket, odd: Odd, over: threading.Event) -> None:
    for request in _requests(connection, over):
        odd.requests.append(request)
        line = request.partition(b"\r\n")[0].decode()
        if any(name in line for name in odd.cuts):
            return
        said = [each for name, each in odd.replies.items() if name in line][-1]
        if odd.firsts and line.startswith(("PUT ", "POST ")):
            said = odd.firsts.pop(0)
        over.wait(max((seconds for name, seconds in odd.pauses.items() if name in line), default=0))
        for event in [event for name, event in odd.holds.items() if name in line]:
            while not event.wait(0.05) and not over.is_set():
                pass
        connection.sendall(said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if line.startswith("HEAD ") else said)


def gated(reply: bytes, **by_method: bytes) -> contextlib.AbstractContextManager[Odd]:
    """Answers every request with `reply`, but none before its `gate` is set, except for a method with its own."""

    def talk(connection: socket.socket, odd: Odd, over: threading.Event) -> None:
        for request in _requests(connection, over):
            odd.requests.append(request)
            said = by_method.get(request.partition(b" ")[0].decode())
            while said is None and not odd.gate.wait(0.05):
                if over.is_set():
                    return
            connection.sendall(said or reply)

    return _host(talk)


def _requests(connection: socket.socket, over: threading.Event) -> Iterator[bytes]:
    """The requests that come on this connection, until the client closes it or the host is over."""
    while not over.is_set():
        if select.select([connection], [], [], 0.2)[0]:
            if not (request := _request(connection)):
                return
            yield request


def _request(connection: socket.socket) -> bytes:
    """One whole request with its body; empty when the client has closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < (int(lengths[0]) if lengths else 0) and (chunk := connection.recv(65536)):
        body += chunk
    return head + b"\r\n\r\n" + body


STORED = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n'
"""What a store of the S3 dialect says to an upload, and may say to a delete."""


def html() -> contextlib.AbstractContextManager[Odd]:
    """A web server."""
    return answering(PAGE)


def redirecting(to: str, status: int = 307) -> contextlib.AbstractContextManager[Odd]:
    """Sends everybody to `to`."""
    return answering(f"HTTP/1.1 {status} Elsewhere\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())


def dripping(
    start: bytes, again: bytes, every: float = 0.5, asked: bool = True
) -> contextlib.AbstractContextManager[Odd]:
    """Says `start`, and `again` each `every` seconds, for FOREVER_SECONDS at most.

    It first waits for a request, unless it is not to be `asked`.
    """

    def talk(connection: socket.socket, odd: Odd, over: threading.Event) -> None:
        if asked:
            odd.requests.append(_request(connection))
        connection.sendall(start)
        ends = time.monotonic() + FOREVER_SECONDS
        while time.monotonic() < ends and not over.wait(every):
            connection.sendall(again)

    return _host(talk)


@functools.cache
def dead_url() -> str:
    """The address of a port on which nobody listens, and that nobody else is given while this process lasts."""
    mute = socket.socket()
    atexit.register(mute.close)
    mute.bind((ADDRESS, 0))
    return f"http://{ADDRESS}:{mute.getsockname()[1]}"
