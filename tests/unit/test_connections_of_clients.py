"""The bounds on what connects: heads and bodies that do not come, and too many connections."""

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from app.web import connections
from app.web.connections import Connections, Refusals, attended, in_time, room_for_connections
from app.web.errors import envelope

HEAD = 20.0
"""What each test lets pass, where that is to be too long."""
PATIENCE = 30.0
REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HELD = REQUEST.replace(b"/ ", b"/held ")
Passes = Callable[[float], None]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Door:
    """A server with two paths: `/`, which is answered at once, and `/held`, when `gate` is set. `/body` reads one."""

    port: int = 0
    received: int = 0
    held: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[dict[str, Any]] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def connect(self, sent: bytes = b"", address: str = "127.0.0.1") -> Stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
        self.stack.callback(writer.close)
        writer.write(sent)
        return reader, writer

    async def until_received(self, count: int) -> None:
        """Return when so many bytes have come, of all requests together."""
        async with asyncio.timeout(PATIENCE):
            while self.received < count:
                await asyncio.sleep(0.01)

    async def until_held(self, count: int) -> None:
        """Return when so many requests have been under way."""
        async with asyncio.timeout(PATIENCE):
            while self.held < count:
                await asyncio.sleep(0.01)

    async def answer(self, stream: Stream) -> bytes:
        """The first line of the next answer; empty where the connection was closed."""
        reader, _ = stream
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                return head.partition(b"\r\n")[0]
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


@asynccontextmanager
async def door(monkeypatch: pytest.MonkeyPatch, limit: int = 100, per_address: int = 100) -> AsyncIterator[Door]:
    made = Door()

    async def at_once(_: web.Request) -> web.Response:
        return web.Response(text="here")

    async def held(_: web.Request) -> web.Response:
        made.held += 1
        await made.gate.wait()
        return web.Response(text="held")

    async def body(request: web.Request) -> web.Response:
        return web.Response(body=await in_time(request.read()))

    app = web.Application(middlewares=[attended, envelope])
    app.add_routes([web.get("/", at_once), web.get("/held", held), web.post("/body", body)])
    runner = web.AppRunner(app, shutdown_timeout=1, lingering_time=0.2)
    await runner.setup()
    assert runner.server
    refusals = Refusals()
    receive = connections.Connection.data_received

    def counted(connection: connections.Connection, data: bytes) -> None:
        made.received += len(data)
        receive(connection, data)

    monkeypatch.setattr(connections.Connection, "data_received", counted)
    monkeypatch.setattr(connections, "log", Log(made.told))
    protocols = Connections(runner.server, refusals, limit=limit, per_address=per_address, head_seconds=HEAD)
    listener = await asyncio.get_running_loop().create_server(protocols, "127.0.0.1", 0)
    made.port = listener.sockets[0].getsockname()[1]
    try:
        async with made.stack:
            yield made
    finally:
        listener.close()
        await runner.cleanup()


class Log:
    """Where the lines of the log go here."""

    def __init__(self, told: list[dict[str, Any]]) -> None:
        self._told = told

    def warning(self, event: str, **counts: int) -> None:
        assert event == "connections refused"
        self._told.append(counts)


async def test_a_connection_without_a_whole_head_is_closed_in_time(
    monkeypatch: pytest.MonkeyPatch, time_passes: Passes
) -> None:
    async with door(monkeypatch) as at:
        parts = (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: h\r\n")
        streams = [await at.connect(sent) for sent in parts]
        await at.until_received(sum(map(len, parts)))
        time_passes(HEAD / 2)
        await asyncio.sleep(0.1)
        assert not any(reader.at_eof() for reader, _ in streams), "they have time yet"
        time_passes(HEAD / 2)
        assert [await at.answer(stream) for stream in streams] == [b""] * 3
        assert at.told == [{"head_too_late": 1}], "one line, and the rest a minute later"


async def test_a_head_that_dribbles_has_no_more_time_than_another(
    monkeypatch: pytest.MonkeyPatch, time_passes: Passes
) -> None:
    async with door(monkeypatch) as at:
        stream = await at.connect()
        for number, byte in enumerate(REQUEST[:9]):
            stream[1].write(bytes([byte]))
            await at.until_received(number + 1)
            time_passes(HEAD / 8)
        assert await at.answer(stream) == b""


async def test_a_connection_serves_one_request_after_another_however_long_each_takes(
    monkeypatch: pytest.MonkeyPatch, time_passes: Passes
) -> None:
    async with door(monkeypatch) as at:
        stream = await at.connect(HELD)
        await at.until_held(1)
        time_passes(2 * HEAD)
        await asyncio.sleep(0.1)
        at.gate.set()
        assert await at.answer(stream) == b"HTTP/1.1 200 OK"
        time_passes(2 * HEAD)
        await asyncio.sleep(0.1)
        stream[1].write(REQUEST)
        assert await at.answer(stream) == b"HTTP/1.1 200 OK", "it was idle, which is no head that is late"
        stream[1].write(REQUEST[:9])
        await at.until_received(len(HELD + REQUEST) + 9)
        time_passes(HEAD)
        assert await at.answer(stream) == b"", "a later head has no more time than the first"


async def test_a_body_that_does_not_come_is_refused_in_time(
    monkeypatch: pytest.MonkeyPatch, time_passes: Passes
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", HEAD)
    async with door(monkeypatch) as at:
        head = b"POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n"
        whole, half = await at.connect(head + b"x" * 9), await at.connect(head + b"x")
        assert await at.answer(whole) == b"HTTP/1.1 200 OK"
        await at.until_received(2 * len(head) + 10)
        await asyncio.sleep(0.1)
        time_passes(HEAD)
        assert await at.answer(half) == b"HTTP/1.1 408 Request Timeout"
        assert await at.answer(half) == b"", "and the connection is closed"


async def test_whoever_only_connects_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has waited longest makes room; one with a request under way does not."""
    async with door(monkeypatch, limit=3) as at:
        held = await at.connect(HELD)
        await at.until_held(1)
        idle = [await at.connect() for _ in range(10)]
        assert await at.answer(await at.connect(REQUEST)) == b"HTTP/1.1 200 OK"
        assert [await at.answer(each) for each in idle[:8]] == [b""] * 8
        at.gate.set()
        assert await at.answer(held) == b"HTTP/1.1 200 OK"


async def test_one_more_than_can_be_served_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with door(monkeypatch, limit=3) as at:
        held = [await at.connect(HELD) for _ in range(3)]
        await at.until_held(len(held))
        assert await at.answer(await at.connect(REQUEST)) == b""
        assert at.told == [{"too_many": 1}]
        at.gate.set()
        assert [await at.answer(each) for each in held] == [b"HTTP/1.1 200 OK"] * 3
        assert await at.answer(await at.connect(REQUEST)) == b"HTTP/1.1 200 OK"


async def test_one_address_has_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    async with door(monkeypatch, per_address=2) as at:
        held = [await at.connect(HELD) for _ in range(2)]
        await at.until_held(len(held))
        assert await at.answer(await at.connect(REQUEST)) == b""
        assert await at.answer(await at.connect(REQUEST, "127.0.0.2")) == b"HTTP/1.1 200 OK"
        at.gate.set()
        assert [await at.answer(each) for each in held] == [b"HTTP/1.1 200 OK"] * 2
        for each in held:
            each[1].close()
        for _ in range(3):
            assert await at.answer(await at.connect(REQUEST)) == b"HTTP/1.1 200 OK"


async def test_what_is_refused_again_and_again_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(connections, "log", Log(told))
    refusals = Refusals(every=0.2)
    for _ in range(1000):
        refusals.note("too_many")
    refusals.note("head_too_late")
    assert told == [{"too_many": 1}]
    async with asyncio.timeout(PATIENCE):
        while len(told) < 2:
            await asyncio.sleep(0.05)
    assert told[1] == {"too_many": 999, "head_too_late": 1}
    await asyncio.sleep(0.5)
    assert len(told) == 2, "nothing more to tell"


async def test_a_lack_of_descriptors_is_counted_and_what_else_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(connections, "log", Log(told))
    refusals, loop, broken = Refusals(), asyncio.get_running_loop(), []
    monkeypatch.setattr(loop, "default_exception_handler", broken.append)
    refusals.on_loop_error(loop, {"message": "accept", "exception": OSError(24, "Too many open files"), "socket": 1})
    refusals.on_loop_error(loop, {"message": "another", "exception": ValueError()})
    assert told == [{"no_descriptor": 1}]
    assert [each["message"] for each in broken] == ["another"]


async def test_what_is_no_http_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with door(monkeypatch) as at:
        news = Refusals()
        monkeypatch.setattr(logging.getLogger("aiohttp.server"), "filters", [news.is_news])
        assert await at.answer(await at.connect(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")) == b"HTTP/1.0 400 Bad Request"
        assert at.told == [{"no_http": 1}]
    assert "Traceback" not in caplog.text


def test_there_are_no_more_connections_than_descriptors() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        _, most = before
        assert room_for_connections(10) == 10
        assert room_for_connections(10**9) <= most
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
