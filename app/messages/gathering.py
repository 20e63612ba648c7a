"""A client of Redis that sends together what many ask of it in one turn of the loop."""

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio

_Asked = tuple[tuple[Any, ...], dict[str, Any], "asyncio.Future[Any]"]


class GatheringRedis(redis.asyncio.Redis):
    """As its base, but for this: the commands of one turn of the loop share a connection and a round trip, and so what
    becomes of these. For commands that do not block; each bears to be carried out twice, as with the base."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gathered: list[_Asked] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._send)
        self._gathered.append((args, options, answer))
        return await answer

    def _send(self) -> None:
        batch, self._gathered = self._gathered, []
        # Who has gone since wants nothing any more.
        wanted = [each for each in batch if not each[2].done()]
        if wanted:
            task = asyncio.create_task(self._sent(wanted))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _sent(self, batch: Sequence[_Asked]) -> None:
        try:
            answers = await self._answers(batch)
        except Exception as error:  # noqa: BLE001 -- each who waits is given it
            answers = [error] * len(batch)
        for (_, _, waiting), answer in zip(batch, answers, strict=True):
            if waiting.done():
                continue
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)

    async def _answers(self, batch: Sequence[_Asked]) -> list[Any]:
        if len(batch) == 1:
            ((args, options, _),) = batch
            return [await super().execute_command(*args, **options)]  # type: ignore[no-untyped-call]
        async with self.pipeline(transaction=False) as pipe:
            for args, options, _ in batch:
                pipe.execute_command(*args, **options)
            return list(await pipe.execute(raise_on_error=False))
