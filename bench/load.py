"""Creates, as many at a time or a second as is asked for."""

import asyncio
import contextlib
import time

import aiohttp

from tests.stack import s3compatible

NO_ANSWER = 0


class Load:
    """Creates, each of which tells its status and how long it was held, in milliseconds."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    async def _create(self, session: aiohttp.ClientSession, endpoint: str) -> tuple[int, float]:
        began = time.perf_counter()
        body = {"name": "n", "enabled": True, **s3compatible(endpoint)}
        status = NO_ANSWER
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with session.post(f"{self._url}/destinations", json=body) as answer:
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

    async def open(self, endpoint: str, rate: float, seconds: float) -> list[tuple[int, float]]:
        """So many a second, whether or not those before were answered."""
        async with self._session() as session, asyncio.TaskGroup() as group:
            began, tasks = time.perf_counter(), []
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                tasks.append(group.create_task(self._create(session, endpoint)))
            await asyncio.wait(tasks)
        return [task.result() for task in tasks]
