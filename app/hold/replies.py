"""The way back: one reply list for this process, one reader of it, a future for each job that is waited for."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import structlog
from pydantic import ValidationError
from redis.asyncio import Redis

from app.messages.clock import Clock
from app.messages.job import Reply
from app.messages.keys import replies_key
from app.messages.sealing import NotSealedByUs, Sealer
from app.observe import metrics
from app.observe.background import Background

log = structlog.get_logger()

POP_SECONDS = 5
BATCH = 100


class Replies:
    """Pops sealed replies off this process's list and hands each to whoever waits for its job.

    `client` must allow a call to take longer than POP_SECONDS, and must not decode what it reads. A reply that nobody
    waits for is dropped, and one that we did not seal is counted too.
    """

    def __init__(self, client: Redis, sealer: Sealer, clock: Clock) -> None:
        self.name = replies_key(str(uuid.uuid4()))
        self.reading = Background("replies", self._read)
        self._client = client
        self._sealer = sealer
        self._clock = clock
        self._waiting: dict[str, asyncio.Future[Reply]] = {}

    @contextlib.contextmanager
    def expected(self, job: str) -> Iterator[asyncio.Future[Reply]]:
        """A future for the reply to `job`, for as long as the block lasts."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[job] = future
        try:
            yield future
        finally:
            del self._waiting[job]
            future.cancel()

    async def _read(self) -> None:
        popped = await self._client.blmpop(POP_SECONDS, 1, self.name, direction="LEFT", count=BATCH)
        for sealed in popped[1] if popped else ():
            self.hand_over(sealed)

    def hand_over(self, sealed: Any) -> None:
        """Give the reply to whoever waits for its job; the second of two replies to a job is dropped."""
        try:
            reply = Reply.model_validate(self._sealer.open(sealed))
        except (NotSealedByUs, ValidationError):
            metrics.MESSAGES_REFUSED.labels("replies").inc()
            log.warning("reply refused, it was not sealed by us")
            return
        metrics.REPLY_LAG.observe(max(0.0, self._clock.now() - reply.at))
        report = reply.report
        future = self._waiting.get(report.job)
        if future is None or future.done():
            log.info(
                "report dropped, nobody waits for it",
                job=report.job,
                account=reply.account,
                ok=report.ok,
                code=report.code,
            )
        else:
            future.set_result(reply)
