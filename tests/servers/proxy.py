"""A link that a test can cut, delay, stall, make lossy, or put TLS on: a TCP proxy on loopback."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from tests.servers.threaded import looping

# After which TCP sends again what was lost.
RESENT_SECONDS = 0.3


class Link:
    """What comes to `port` goes to `target` and back, while the link is not cut: `delay` seconds later, and a part of
    it, `lost`, another RESENT_SECONDS."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay = 0.0
        self.lost = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._whole = True

    def cut(self) -> None:
        """Close every connection, and from now on each new one at once."""
        self._done(self._cut())

    def mend(self) -> None:
        """Let everything through again, at once."""
        self._whole, self.delay, self.lost = True, 0.0, 0.0
        self._loop.call_soon_threadsafe(self._flowing.set)

    def stall(self) -> None:
        """Let nothing through, and keep the connections."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)

    def _done(self, work: "asyncio.coroutines.Coroutine[None, None, None]") -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _cut(self) -> None:
        self._whole = False
        self._flowing.set()
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, started: "Future[Link]", context: ssl.SSLContext | None) -> None:
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=context, backlog=128) as server:
            self.port = server.sockets[0].getsockname()[1]
            started.set_result(self)
            await self._ended.wait()
            await self._cut()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self._whole:
                onward = await asyncio.open_connection("127.0.0.1", self.target)
                await asyncio.gather(self._pump(reader, onward[1]), self._pump(onward[0], writer))
        except OSError:
            pass  # who connected sees it
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                await self._flowing.wait()
                if pause := self.delay + (RESENT_SECONDS if random.random() < self.lost else 0.0):
                    await asyncio.sleep(pause)
                writer.write(chunk)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def link(target: int, certificate: tuple[Path, Path] | None = None) -> Iterator[Link]:
    """A link to the port `target` of loopback, which speaks TLS with `certificate`, its chain and its key."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)

    async def serve(started: "Future[Link]") -> None:
        await Link(target).serve(started, context)

    with looping(serve) as made:
        yield made
