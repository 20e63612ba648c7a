"""The stream of jobs as they change: read from Redis once for this process, followed by any number of listeners."""

import asyncio
import contextlib
import json
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from redis.asyncio import Redis

from app.domain.errors import InvalidRequest, TooManyStreams
from app.monitor import board
from app.monitor.board import STREAM
from app.monitor.history import reading
from app.monitor.job import JobView
from app.observe import metrics
from app.observe.background import Background

# How many listeners all customers together, and one account, may have on this process; the operator's are not limited.
LISTENERS = 100
LISTENERS_OF_ONE = 10
# How many events this process remembers: a listener that is further behind is ended.
RING = 2000
# How many events a listener is given at once.
BATCH = 200
# How many entries of the stream, of which each may have as many events as the board writes at once, are read at once:
# no more than leaves listeners the time to follow.
ENTRIES = RING // 4 // board.BATCH
# A listener that has had no news for so long is given a heartbeat.
HEARTBEAT_SECONDS = 15.0
READ_SECONDS = 5

StreamId = tuple[int, int]
"""What tells an event of the stream from the others, and orders them; Redis writes it with a dash."""


@dataclass(frozen=True)
class Event:
    """One change of a job."""

    stream_id: StreamId
    job: JobView


@dataclass(frozen=True)
class News:
    """What came next for one listener; without events it is a heartbeat. `stream_id` is what the listener has seen all
    events up to, its own and others', and `gap` says that events before these may be missing."""

    stream_id: StreamId
    events: Sequence[Event] = ()
    gap: bool = False


class Feed:
    """Reads while somebody listens. `client` must allow a call to take longer than READ_SECONDS, and must not decode
    what it reads: what is no event of ours is counted and skipped."""

    def __init__(self, client: Redis, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._client = client
        self._heartbeat_seconds = heartbeat_seconds
        self._ring: deque[Event] = deque(maxlen=RING)
        # The ring has every event after the first of these, up to the second.
        self._ring_after: StreamId = (0, 0)
        self._ring_until: StreamId = (0, 0)
        self._arrived = asyncio.Event()
        self._listeners: list[tuple[asyncio.Task[Any], int | None]] = []
        self.reader = Background("feed", self._read)
        self._reading = False
        # One listener at a time starts or stops the reader.
        self._switching = asyncio.Lock()

    async def follow(self, account: int | None, after: str | None) -> AsyncGenerator[News]:
        """What happens to the jobs of `account` (None: of all) after the event with the id `after`, or from now on. The
        first news has no event; where nothing happens, a heartbeat comes now and then. Ends where the listener is too
        slow.

        Raises InvalidRequest where `after` is no id, TooManyStreams, and Unavailable where Redis does not answer.
        """
        seen, resuming = _stream_id(after or "0"), after is not None
        async with self._listening(account):
            seen = seen if resuming else self._ring_until
            yield News(seen)
            spoke_at = time.monotonic()
            while True:
                gap = False
                if seen >= self._ring_after:
                    resuming = False
                    events = self._fresh(seen)
                    seen = events[-1].stream_id if events else max(seen, self._ring_until)
                elif resuming:
                    events, seen, gap = await self._stored(seen)
                else:
                    return
                own = [event for event in events if account in (None, event.job.account)]
                if own or gap or time.monotonic() - spoke_at >= self._heartbeat_seconds:
                    yield News(seen, own, gap)
                    spoke_at = time.monotonic()
                elif not events and seen >= self._ring_until:
                    await self._arrival(spoke_at + self._heartbeat_seconds - time.monotonic())

    async def end(self, _: object = None) -> None:
        """Cancel the task of every listener, whatever it waits for."""
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
            async with self._switching:
                if not self._reading:
                    await self._start()
            yield
        finally:
            self._listeners.remove((task, account))
            async with self._switching:
                if self._reading and not self._listeners:
                    await self.reader.stop()
                    self._reading = False

    async def _start(self) -> None:
        """Read from the newest event on."""
        async with reading():
            newest: Any = await self._client.xrevrange(STREAM, count=1)
        self._ring.clear()
        self._ring_after = self._ring_until = _id_of(newest[0]) if newest else (0, 0)
        self.reader.start()
        self._reading = True

    async def _read(self) -> None:
        answer: Any = await self._client.xread(
            {STREAM: written(self._ring_until)}, block=READ_SECONDS * 1000, count=ENTRIES
        )
        if not answer:
            return
        ((_, rows),) = dict(answer).items()
        # Before anything is made of them: what cannot be read must not be read again and again.
        before, self._ring_until = self._ring_until, _id_of(rows[-1])
        for event in _events(rows, before):
            if len(self._ring) == RING:
                self._ring_after = self._ring[0].stream_id
            self._ring.append(event)
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    def _fresh(self, after: StreamId) -> list[Event]:
        """The next events after `after` that the ring has."""
        return list(takewhile(lambda event: event.stream_id > after, reversed(self._ring)))[::-1][:BATCH]

    async def _arrival(self, seconds: float) -> None:
        """Return when an event has come, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()

    async def _stored(self, after: StreamId) -> tuple[list[Event], StreamId, bool]:
        """The next events after `after` that Redis still has, the id up to which these are all, and whether there were
        some that it has no more."""
        caught_up = self._ring_after
        async with reading(), self._client.pipeline(transaction=False) as pipe:
            pipe.xrange(STREAM, count=1)
            pipe.xrange(STREAM, min=f"({written(after)}", count=ENTRIES)
            oldest, rows = await pipe.execute()
        gap = not oldest or after < _ids_of(oldest[0])[0]
        events = [event for event in _events(rows) if event.stream_id > after]
        if len(events) > BATCH:
            return events[:BATCH], events[BATCH - 1].stream_id, gap
        return events, _id_of(rows[-1]) if rows else caught_up, gap


Row = tuple[bytes, Mapping[bytes, bytes]]
"""An entry of the stream as Redis has it."""


def _events(rows: Iterable[Row], before: StreamId = (0, 0)) -> list[Event]:
    """The events of `rows`, which follow the entry `before`; where their numbers do not, they have their entry's."""
    events = []
    for row in rows:
        ids, before = [each if each > before else _id_of(row) for each in _ids_of(row)], _id_of(row)
        for stream_id, line in zip(ids, row[1].get(b"job", b"").split(b"\n"), strict=True):
            try:
                events.append(Event(stream_id, JobView.read(json.loads(line))))
            except (ValueError, RecursionError):
                metrics.MESSAGES_REFUSED.labels("feed").inc()
    return events


def _ids_of(row: Row) -> list[StreamId]:
    """The ids of an entry's events, of which the last one's is the entry's (see app.monitor.board)."""
    number, rest = _id_of(row)
    lines = row[1].get(b"job", b"").count(b"\n")
    return [(number - before, rest) for before in range(lines, -1, -1)]


def _id_of(row: Row) -> StreamId:
    milliseconds, _, number = row[0].decode().partition("-")
    return int(milliseconds), int(number)


def _stream_id(text: str) -> StreamId:
    match = re.fullmatch("([0-9]{1,18})(?:-([0-9]{1,18}))?", text, re.ASCII)
    if not match:
        raise InvalidRequest("Last-Event-ID must be the id of an event of this stream.")
    return int(match[1]), int(match[2] or 0)


def written(stream_id: StreamId) -> str:
    """The id as Redis and clients write it."""
    return f"{stream_id[0]}-{stream_id[1]}"
