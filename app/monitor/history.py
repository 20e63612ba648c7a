"""Reads the board: pages of jobs, one job with its timeline and its report, and the counts of the last minutes."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis.exceptions
from redis.asyncio import Redis

from app.domain.errors import JobNotFound, Unavailable
from app.messages.clock import Clock
from app.monitor import failures, traffic
from app.monitor.board import ALL, SHOWN, account_key, job_key, minute_key
from app.monitor.job import Cursor, JobQuery, JobState, JobView, moment

_CHUNK = 100
# How many jobs are looked through for one page at most, so that a filter that matches few does not take long.
SCAN = 2000

_NO_BOARD = "The list of jobs cannot be read at the moment, which hinders no job: try again shortly."
_NOT_FOUND = "There is no job with this id in this account, or it is not remembered any more."


# Of two states of one moment, which came first.
_ORDER = {state: number for number, state in enumerate(JobState)}


@dataclass(frozen=True)
class Transition:
    """A state that a job got into, when, in which attempt and on which worker; neither while it is in the queue."""

    state: JobState
    at: datetime
    attempt: int | None = None
    worker: str | None = None


@dataclass(frozen=True)
class JobDetail:
    """All that is remembered of one job. `report` is as the customer was answered it; None before the verdict. `bucket`
    is what the customer calls a bucket or container."""

    job: JobView
    timeline: tuple[Transition, ...]
    report: dict[str, Any] | None
    bucket: str | None


@contextlib.asynccontextmanager
async def reading() -> AsyncIterator[None]:
    """Raises Unavailable where Redis does not answer, or has something else under the names of the board."""
    try:
        yield
    except (redis.exceptions.RedisError, OSError, ValueError) as error:
        raise Unavailable(_NO_BOARD) from error


class History:
    """What the board remembers. Every method raises Unavailable while it cannot be read."""

    def __init__(self, client: Redis, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def page(self, query: JobQuery) -> tuple[list[JobView], Cursor | None]:
        """At most `query.limit` jobs that match, newest first, and the cursor of the next page; None at the end.

        There may be fewer jobs before the end, even none: only SCAN jobs are looked through at once.
        """
        found: list[JobView] = []
        cursor, scanned = query.cursor, 0
        while scanned < SCAN:
            chunk = await self._chunk(cursor, query)
            if not chunk:
                return found, None
            for following, job in chunk:
                if job and query.matches(job):
                    if len(found) == query.limit:
                        return found, Cursor(found[-1].submitted, found[-1].id)
                    found.append(job)
                cursor = following
            scanned += len(chunk)
        return found, cursor

    async def _chunk(self, cursor: Cursor | None, query: JobQuery) -> list[tuple[Cursor, JobView | None]]:
        """The next jobs of the index, each with the cursor after it; None in place of one that is remembered no more,
        or that this release cannot read."""
        index = ALL if query.account is None else account_key(query.account)
        newest = "+inf" if query.until is None else f"({query.until}"
        if cursor and (query.until is None or cursor.submitted < query.until):
            newest = str(cursor.submitted)
        oldest = "-inf" if query.since is None else str(query.since)
        async with reading():
            # The jobs of the cursor's very microsecond come again, and are told apart by their ids.
            rows: Any = await self._client.zrange(
                index, newest, oldest, desc=True, byscore=True, offset=0, num=_CHUNK, withscores=True
            )
            cursors = [Cursor(int(score), job) for job, score in rows]
            fresh = [each for each in cursors if cursor is None or each < cursor]
            async with self._client.pipeline(transaction=False) as pipe:
                for each in fresh:
                    pipe.hmget(job_key(each.job), SHOWN)
                return list(zip(fresh, map(self._view, await pipe.execute()), strict=True))

    def _view(self, values: Sequence[str | None]) -> JobView | None:
        fields = {name: value for name, value in zip(SHOWN, values, strict=True) if value is not None}
        try:
            return JobView.read(fields, self._now())
        except ValueError:
            return None

    def _now(self) -> int:
        return round(self._clock.now() * 1e6)

    async def get(self, job: str, account: int | None) -> JobDetail:
        """All about `job`; that of another than `account` is not found, unless that is None. Raises JobNotFound."""
        async with reading():
            fields: Any = await self._client.hgetall(job_key(job))
            if not fields or (account is not None and fields.get("account") != str(account)):
                raise JobNotFound(_NOT_FOUND)
            lines = json.loads(f"[{fields.get('timeline', '')}]")
            timeline = [
                Transition(**{**line, "state": JobState(line["state"]), "at": moment(line["at"])}) for line in lines
            ]
            report = fields.get("report")
            return JobDetail(
                JobView.read(fields, self._now()),
                tuple(sorted(timeline, key=lambda each: (each.at, _ORDER[each.state]))),
                json.loads(report) if report else None,
                fields.get("bucket"),
            )

    async def minutes(self, last: int) -> dict[int, dict[str, int]]:
        """The counts (see `minute_key`) of so many minutes up to this one, by the minute since the epoch."""
        return await self._counts(minute_key, last)

    async def traffic(self, last: int) -> dict[int, dict[str, int]]:
        """What was delivered (see `traffic_key`) in each of so many minutes."""
        return await self._counts(traffic.traffic_key, last)

    async def failures(self, last: int) -> failures.Failures:
        """What failed, and was refused before the queue, in so many minutes up to this one."""
        return failures.summary((await self._counts(failures.failures_key, last)).values())

    async def _counts(self, key: Callable[[int], str], last: int) -> dict[int, dict[str, int]]:
        """The hashes `key` of so many minutes up to this one, by the minute since the epoch."""
        this = int(self._clock.now() // 60)
        wanted = range(this - last + 1, this + 1)
        async with reading(), self._client.pipeline(transaction=False) as pipe:
            for minute in wanted:
                pipe.hgetall(key(minute))
            counts = await pipe.execute()
            return {m: {name: int(n) for name, n in each.items()} for m, each in zip(wanted, counts, strict=True)}
