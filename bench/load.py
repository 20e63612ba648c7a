"""Creates, as many at a time or a second as is asked for."""

import asyncio
import contextlib
import json
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

from tests.stack import s3compatible

NO_ANSWER = 0


class Answered(NamedTuple):
    """What came of a create that was due at a moment of its own: `ms` from then to its last byte, of which it was sent
    `late` ms later, which is the generator's fault and nobody else's."""

    status: int
    ms: float
    late: float


class _Connection(asyncio.Protocol):
    """A connection that carries one create after another, each of them `request`; in `idle` when it has none. There is
    no client between it and its socket, which would cost as much as the API does."""

    def __init__(self, request: bytes, idle: "list[_Connection]") -> None:
        self._request, self._idle = request, idle
        self._received = b""
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def create(self) -> int:
        """The status of the answer."""
        if self._transport.is_closing():
            return NO_ANSWER
        self._received, self._status = b"", asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        return await self._status

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, there, body = self._received.partition(b"\r\n\r\n")
        if there and len(body) >= int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]):
            self._idle.append(self)
            self._status.set_result(int(head.split()[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        elif not self._status.done():
            self._status.set_result(NO_ANSWER)


class Load:
    """Creates, each of which tells its status and how long it was held, in milliseconds."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    async def _create(self, session: aiohttp.ClientSession, endpoint: str) -> tuple[int, float]:
        began = time.perf_counter()
        status = NO_ANSWER
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with session.post(f"{self._url}/destinations", json=_body(endpoint)) as answer:
                await answer.read()
                status = answer.status
        return status, (time.perf_counter() - began) * 1000

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(headers={"Authorization": f"Bearer {self._key}"}, connector=connector)

    async def closed(self, endpoint: str, count: int, in_flight: int) -> list[tuple[int, float]]:
        """So many in all, so many of them at any moment."""
        left = iter(range(count))
        async with self._session() as session:

            async def one_after_another() -> list[tuple[int, float]]:
                return [await self._create(session, endpoint) for _ in left]

            found = await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
        return [each for several in found for each in several]

    async def open(self, endpoint: str, rate: float, seconds: float) -> list[Answered]:
        """So many a second, whether or not those before were answered, on as many connections as it takes, as a proxy
        has them."""
        url, body = urlsplit(self._url), json.dumps(_body(endpoint)).encode()
        head = (
            f"POST /destinations HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        idle: list[_Connection] = []
        loop = asyncio.get_running_loop()

        async def connect() -> _Connection:
            request = head.encode() + body
            _, made = await loop.create_connection(lambda: _Connection(request, idle), url.hostname, url.port)
            return made

        async def create(due: float) -> Answered:
            late, status = time.perf_counter() - due, NO_ANSWER
            with contextlib.suppress(OSError):
                status = await (idle.pop() if idle else await connect()).create()
            return Answered(status, (time.perf_counter() - due) * 1000, late * 1000)

        async with asyncio.TaskGroup() as group:
            began, tasks = time.perf_counter(), []
            for number in range(int(rate * seconds)):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(group.create_task(create(due)))
        for each in idle:
            each.close()
        return [task.result() for task in tasks]


def _body(endpoint: str) -> dict[str, object]:
    return {"name": "n", "enabled": True, **s3compatible(endpoint)}
