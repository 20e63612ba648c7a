"""The stream of jobs as they change: read from Redis once for this process, followed by any number of listeners."""

import asyncio
import contextlib
import json
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import redis.exceptions
import structlog
from redis.asyncio import Redis

from app.domain.errors import InvalidRequest, TooManyStreams
from app.domain.job import Entry
from app.jobs.board import STREAM
from app.jobs.history import reading

log = structlog.get_logger()

# How many listeners the customers have on this process, and one account of these; the operator is not counted.
LISTENERS = 100
LISTENERS_OF_ONE = 10
RING = 2000
BATCH = 200
HEARTBEAT_SECONDS = 15.0
READ_SECONDS = 5
_AGAIN_SECONDS = 1.0

Place = tuple[int, int]
"""Where an event stands in the stream; Redis writes it with a dash."""


@dataclass(frozen=True)
class Event:
    place: Place
    entry: Entry


@dataclass(frozen=True)
class News:
    """What came next for one listener; with no events it is a sign of life. `place` is where the listener stands now,
    and `gap` says that events before these may be missing."""

    place: Place
    events: Sequence[Event] = ()
    gap: bool = False


class Feed:
    """Reads while somebody listens. `redis` must allow a call to take longer than READ_SECONDS."""

    def __init__(self, redis: Redis, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._redis = redis
        self._heartbeat = heartbeat
        self._ring: deque[Event] = deque(maxlen=RING)
        # The ring has every event after this place.
        self._since: Place = (0, 0)
        self._arrived = asyncio.Event()
        self._listeners: list[tuple[asyncio.Task[Any], int | None]] = []
        self._starting = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None

    async def follow(self, account: int | None, after: str | None) -> AsyncGenerator[News]:
        """What happens to the jobs of `account` (None: of all) after the place `after`, or from now on. The first news
        has no event; after a heartbeat without any there is a sign of life. Ends where the listener is too slow.

        Raises InvalidRequest where `after` is no place, TooManyStreams, and Unavailable where Redis does not answer.
        """
        asked, resuming = _place(after or "0"), after is not None
        async with self._listening(account):
            place = asked if resuming else self._ring[-1].place if self._ring else self._since
            yield News(place)
            said = time.monotonic()
            while True:
                gap = False
                if place >= self._since:
                    resuming = False
                    events = self._fresh(place)
                elif resuming:
                    since = self._since
                    events, gap = await self._stored(place)
                    place = place if events else since
                else:
                    return
                place = events[-1].place if events else place
                own = [event for event in events if account in (None, event.entry.account)]
                if own or gap or time.monotonic() - said >= self._heartbeat:
                    yield News(place, own, gap)
                    said = time.monotonic()
                elif not events and place >= self._since:
                    await self._arrival(said + self._heartbeat - time.monotonic())

    async def end(self, _: object = None) -> None:
        """Have every listener's task cancelled, whatever it waits for."""
        for task, _ in self._listeners:
            task.cancel()

    @contextlib.asynccontextmanager
    async def _listening(self, account: int | None) -> AsyncIterator[None]:
        accounts = [each for _, each in self._listeners if each is not None]
        if account is not None and (len(accounts) >= LISTENERS or accounts.count(account) >= LISTENERS_OF_ONE):
            raise TooManyStreams("There are as many streams of jobs open as there may be: close one, or try again.")
        task = asyncio.current_task()
        assert task
        self._listeners.append((task, account))
        try:
            async with self._starting:
                if self._reader is None:
                    self._ring.clear()
                    async with reading():
                        last: Any = await self._redis.xrevrange(STREAM, count=1)
                    self._since = _place(last[0][0]) if last else (0, 0)
                    self._reader = asyncio.create_task(self._read())
            yield
        finally:
            self._listeners.remove((task, account))
            if self._reader and not self._listeners:
                self._reader.cancel()
                self._reader = None

    def _fresh(self, place: Place) -> list[Event]:
        """The next events after `place` that the ring has."""
        return list(takewhile(lambda event: event.place > place, reversed(self._ring)))[::-1][:BATCH]

    async def _arrival(self, seconds: float) -> None:
        """Return when an event has come, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()

    async def _stored(self, place: Place) -> tuple[list[Event], bool]:
        """The next events after `place` that Redis still has, and whether there were some that it has no more."""
        async with reading(), self._redis.pipeline(transaction=False) as pipe:
            pipe.xrange(STREAM, count=1)
            pipe.xrange(STREAM, min=f"({_written(place)}", count=BATCH)
            first, rows = await pipe.execute()
        return _events(rows), not first or place < _place(first[0][0])

    async def _read(self) -> None:
        place, failing = self._since, False
        # Python 3.11 loses a cancellation that comes in the moment in which a command is sent.
        while self._reader is asyncio.current_task():
            try:
                answer: Any = await self._redis.xread(
                    {STREAM: _written(place)}, block=READ_SECONDS * 1000, count=RING // 4
                )
            except (redis.exceptions.RedisError, OSError) as error:
                if not failing:
                    log.warning("stream of jobs cannot be read", error=type(error).__name__)
                failing = True
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            failing = False
            if self._reader is not asyncio.current_task():
                return
            for event in _events(dict(answer).get(STREAM, ())):
                if len(self._ring) == RING:
                    self._since = self._ring[0].place
                self._ring.append(event)
                place = event.place
            arrived, self._arrived = self._arrived, asyncio.Event()
            arrived.set()


def _events(rows: Sequence[tuple[str, dict[str, str]]]) -> list[Event]:
    return [Event(_place(place), Entry.read(json.loads(fields["job"]))) for place, fields in rows]


def _place(text: str) -> Place:
    match = re.fullmatch("([0-9]{1,18})(?:-([0-9]{1,18}))?", text, re.ASCII)
    if not match:
        raise InvalidRequest("Last-Event-ID must be the id of an event of this stream.")
    return int(match[1]), int(match[2] or 0)


def _written(place: Place) -> str:
    return f"{place[0]}-{place[1]}"
