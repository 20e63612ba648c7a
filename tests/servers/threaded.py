"""Servers in threads of their own: of the standard library, with a thread for each connection, and of a loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from http.server import ThreadingHTTPServer
from typing import Any, Protocol, TypeVar


class Ended(Protocol):
    """What serves until it is told to end."""

    def end(self) -> None: ...


E = TypeVar("E", bound=Ended)


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """Have it serve until the block ends, and then be gone; what a connection is still at does not hold that up."""
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def looping(serve: "Callable[[Future[E]], Coroutine[Any, Any, None]]") -> Iterator[E]:
    """Have `serve` serve in a loop of its own until the block ends; it says what it has started, which is yielded."""
    started: Future[E] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(serve(started)))
    thread.start()
    made = started.result(60)
    try:
        yield made
    finally:
        made.end()
        thread.join(60)
        assert not thread.is_alive()
