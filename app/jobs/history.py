"""Reads the board: pages of jobs, one job with its timeline and report, and the counts of the last minutes."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis.exceptions
from redis.asyncio import Redis

from app.domain.errors import JobNotFound, Unavailable
from app.domain.job import Entry, JobQuery, State, moment
from app.jobs.board import ALL, SHOWN, account_key, job_key, minute_key

_CHUNK = 100
# So many jobs are looked through for one page, so that no filter keeps this process from its work.
SCAN = 2000

_NO_BOARD = "The list of jobs cannot be read at the moment, which hinders no job: try again shortly."
_NOT_FOUND = "There is no job with this id in this account, or it is not remembered any more."


@dataclass(frozen=True)
class Moment:
    """A state that was noted of a job, in which attempt, and by which worker; the front end has neither."""

    state: State
    at: datetime
    attempt: int | None = None
    worker: str | None = None


@dataclass(frozen=True)
class Record:
    """All that is remembered of one job. `report` is as the customer was answered it; None before the verdict."""

    entry: Entry
    timeline: tuple[Moment, ...]
    report: dict[str, Any] | None


@contextlib.asynccontextmanager
async def reading() -> AsyncIterator[None]:
    """Where Redis does not answer, or holds something else, that is Unavailable."""
    try:
        yield
    except (redis.exceptions.RedisError, OSError) as error:
        raise Unavailable(_NO_BOARD) from error


class History:
    """What the board remembers. Every method raises Unavailable while it cannot be read."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def page(self, query: JobQuery) -> tuple[list[Entry], tuple[int, str] | None]:
        """At most `query.limit` jobs that match, newest first, and the place after which to go on; None at the end.

        There may be fewer, even none, before the end: only so many jobs are looked through at once.
        """
        found: list[Entry] = []
        place, seen = query.cursor, 0
        while seen < SCAN:
            entries = await self._after(place, query)
            if not entries:
                return found, None
            for place_of, entry in entries:
                if entry and query.matches(entry):
                    if len(found) == query.limit:
                        return found, (found[-1].submitted, found[-1].id)
                    found.append(entry)
                place = place_of
            seen += len(entries)
        return found, place

    async def _after(
        self, place: tuple[int, str] | None, query: JobQuery
    ) -> list[tuple[tuple[int, str], Entry | None]]:
        """The next jobs of the index, each with its place; no entry for one that is remembered no more."""
        index = ALL if query.account is None else account_key(query.account)
        newest = "+inf" if query.until is None else f"({query.until}"
        if place and (query.until is None or place[0] < query.until):
            newest = str(place[0])
        oldest = "-inf" if query.since is None else str(query.since)
        async with reading():
            # Ties are in the answer once more, and are told apart by their ids.
            rows: Any = await self._redis.zrange(
                index, newest, oldest, desc=True, byscore=True, offset=0, num=_CHUNK, withscores=True
            )
            places = [(int(score), job) for job, score in rows]
            fresh = [each for each in places if place is None or each < place]
            async with self._redis.pipeline(transaction=False) as pipe:
                for _, job in fresh:
                    pipe.hmget(job_key(job), SHOWN)
                return list(zip(fresh, map(_entry, await pipe.execute()), strict=True))

    async def get(self, job: str, account: int | None) -> Record:
        """All about `job`; that of another than `account` is not found, unless that is None. Raises JobNotFound."""
        async with reading():
            fields: Any = await self._redis.hgetall(job_key(job))
        if not fields or (account is not None and fields["account"] != str(account)):
            raise JobNotFound(_NOT_FOUND)
        lines = json.loads(f"[{fields.get('timeline', '')}]")
        timeline = [Moment(**{**line, "state": State(line["state"]), "at": moment(line["at"])}) for line in lines]
        report = fields.get("report")
        return Record(
            Entry.read(fields, _now()),
            tuple(sorted(timeline, key=lambda each: each.at)),
            json.loads(report) if report else None,
        )

    async def minutes(self, last: int) -> dict[int, dict[str, int]]:
        """The counts (see `minute_key`) of so many minutes up to this one, by the minute since the epoch."""
        now = int(time.time() // 60)
        wanted = range(now - last + 1, now + 1)
        async with reading(), self._redis.pipeline(transaction=False) as pipe:
            for minute in wanted:
                pipe.hgetall(minute_key(minute))
            counts = await pipe.execute()
        return {m: {name: int(n) for name, n in each.items()} for m, each in zip(wanted, counts, strict=True)}


def _entry(values: Sequence[str | None]) -> Entry | None:
    fields = {name: value for name, value in zip(SHOWN, values, strict=True) if value is not None}
    return Entry.read(fields, _now()) if fields else None


def _now() -> int:
    return round(time.time() * 1e6)
