"""The board: what each job is doing, written to Redis behind the back of who does it."""

import asyncio
import bisect
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import redis.exceptions
import structlog
from redis.asyncio import Redis

from app.domain.job import ENDED, State, rank
from app.domain.verification import Report
from app.jobs.queue import Job
from app.settings import Settings

log = structlog.get_logger()

STREAM = "dropoff:jobs"
ALL = "dropoff:jobs:all"
SHOWN = (
    "id", "account", "type", "destination", "host", "state", "submitted", "changed", "deadline", "attempt", "worker",
    "fault",
)  # fmt: skip
"""The fields of a job that a list shows; its timeline and its report are kept beside them."""

KEPT_SECONDS = 24 * 3600
MINUTES_KEPT_SECONDS = 2 * 3600
STREAM_LENGTH = 10_000
TIMELINE_BYTES = 2048
REPORT_BYTES = 8192
PENDING = 10_000
BATCH = 100
_UNCOUNTED = (State.RUNNING, State.UPLOADING, State.DELETING)
# What is noted within this time is written in one round trip.
GATHER_SECONDS = 0.05

# Upper bounds in milliseconds, each a quarter more than the one before: as exact as a quantile has to be.
BUCKETS = tuple(round(10 * 1.25**n) for n in range(50))

# One call writes a whole batch. A job's state is the one of the highest rank, so it does not matter in which order the
# two sides' notes arrive. The oldest jobs go when there are more than are kept, or when their time is over.
_WRITE = """
local stream, all, limits = KEYS[1], KEYS[2], cjson.decode(ARGV[2])

local function show(job)
  local row, values = {}, redis.call('HMGET', job, unpack(limits.shown))
  for i, name in ipairs(limits.shown) do row[name] = values[i] or nil end
  redis.call('XADD', stream, 'MAXLEN', '~', limits.stream, '*', 'job', cjson.encode(row))
end

local function begin(job, note)
  redis.call('HSET', job, unpack(note.is))
  redis.call('EXPIRE', job, limits.seconds)
  redis.call('ZADD', all, note.submitted, note.id)
  redis.call('ZADD', note.own, note.submitted, note.id)
  redis.call('ZREMRANGEBYSCORE', note.own, '-inf', limits.oldest)
  redis.call('EXPIRE', note.own, limits.seconds)
end

local function enter(job, note, was, timeline)
  if not timeline then
    timeline = note.line
  elseif #timeline < limits.timeline then
    timeline = timeline .. ',' .. note.line
  end
  if note.rank > was then
    redis.call('HSET', job, 'timeline', timeline, 'rank', note.rank, unpack(note.fields))
  else
    redis.call('HSET', job, 'timeline', timeline)
  end
  if was < limits.ended and note.counts then
    for _, name in ipairs(note.counts) do redis.call('HINCRBY', note.minute, name, 1) end
    redis.call('EXPIRE', note.minute, limits.minutes)
  end
end

for _, note in ipairs(cjson.decode(ARGV[1])) do
  local job = 'dropoff:job:' .. note.id
  local was, timeline = unpack(redis.call('HMGET', job, 'rank', 'timeline'))
  if note.destination and was then
    redis.call('HSET', job, 'destination', note.destination)
    show(job)
  elseif was or note.is then
    if not was then begin(job, note) end
    enter(job, note, tonumber(was or -1), timeline)
    show(job)
  end
end

local over = redis.call('ZRANGE', all, 0, -limits.kept - 1)
if #over == 0 then over = redis.call('ZRANGE', all, '-inf', limits.oldest, 'BYSCORE', 'LIMIT', 0, 1000) end
for _, id in ipairs(over) do
  local job = 'dropoff:job:' .. id
  local account = redis.call('HGET', job, 'account')
  if account then redis.call('ZREM', 'dropoff:jobs:account:' .. account, id) end
  redis.call('DEL', job)
  redis.call('ZREM', all, id)
end
redis.call('EXPIRE', all, limits.seconds)
redis.call('EXPIRE', stream, limits.seconds)
"""


def job_key(job: str) -> str:
    return f"dropoff:job:{job}"


def account_key(account: int) -> str:
    """The index of the jobs of `account`, as ALL is that of everybody's: by the time of their submission."""
    return f"dropoff:jobs:account:{account}"


def minute_key(minute: int) -> str:
    """What happened in that minute since the epoch: TYPE:queued, TYPE:succeeded, TYPE:failed:FAULT, TYPE:expired and
    TYPE:lost are counts, TYPE:ms:BUCKET those of the verdicts that took at most so long from their submission."""
    return f"dropoff:minute:{minute}"


class Board:
    """Takes notes of what jobs are doing. Nobody waits for it: notes are written a moment later, in batches, by a task
    of its own.

    What cannot be written is dropped. The board is for looking at; nothing is decided by it, so its failure must not
    become that of a job. `worker` is the name that a worker's notes carry.
    """

    def __init__(self, redis: Redis, settings: Settings, worker: str = "") -> None:
        self._write = redis.register_script(_WRITE)
        self._kept = settings.board_jobs
        self._hold = settings.hold_seconds
        self._worker = worker
        self._pending: deque[str] = deque(maxlen=PENDING)
        self._news = asyncio.Event()
        self._closing = False
        self._dropped = 0
        self._failing = False

    def note(self, job: Job, state: State, *, attempt: int = 0, host: str = "", report: Report | None = None) -> None:
        """`job` is in `state` from now on; a verdict comes with its report."""
        at = job.submitted if state is State.QUEUED else time.time()
        note: dict[str, Any] = {
            "id": job.id, "rank": rank(state, attempt), "fields": ["state", state, "changed", _micros(at)],
            "line": f'{{"state":"{state}","at":{_micros(at)}}}',
        }  # fmt: skip
        if attempt:
            note["fields"] += ["attempt", str(attempt), "worker", self._worker]
            note["line"] = note["line"][:-1] + f',"attempt":{attempt},"worker":{json.dumps(self._worker)}}}'
        if host:
            note["fields"] += ["host", host]
        if report:
            note["fields"] += _verdict(report)
        if state not in (State.UPLOADING, State.DELETING):
            # Nobody notes these two first, and who notes them wastes no time.
            note |= self._identity(job)
        if state not in _UNCOUNTED:
            note |= {"counts": _counts(job, state, report, at), "minute": minute_key(int(at // 60))}
        self._take(note)

    def _identity(self, job: Job) -> dict[str, Any]:
        submitted = _micros(job.submitted)
        known = ["id", job.id, "account", str(job.account), "type", job.kind, "submitted", submitted]
        known += ["deadline", _micros(job.submitted + self._hold)]
        known += ["destination", job.destination] if job.destination else []
        return {"is": known, "own": account_key(job.account), "submitted": submitted}

    def stored(self, job: str, destination: str) -> None:
        """What `job` verified is stored as `destination`."""
        self._take({"id": job, "destination": destination})

    def _take(self, note: dict[str, Any]) -> None:
        self._dropped += len(self._pending) == PENDING
        # Text, since many objects that live for a moment keep the garbage collector busy.
        self._pending.append(json.dumps(note))
        self._news.set()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write for as long as the block lasts, and at its end what is left, unless Redis does not answer."""
        writer = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._closing = True
            self._news.set()
            await writer

    async def _run(self) -> None:
        over = False
        while not over:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(GATHER_SECONDS)
            over = self._closing
            while self._pending:
                await self._flush()
                if self._failing and over:
                    break

    async def _flush(self) -> None:
        batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
        limits = {
            "kept": self._kept, "seconds": KEPT_SECONDS, "oldest": _micros(time.time() - KEPT_SECONDS),
            "stream": STREAM_LENGTH, "timeline": TIMELINE_BYTES, "ended": ENDED, "minutes": MINUTES_KEPT_SECONDS,
            "shown": SHOWN,
        }  # fmt: skip
        try:
            await self._write(keys=[STREAM, ALL], args=[f"[{','.join(batch)}]", json.dumps(limits)])
        except (redis.exceptions.RedisError, OSError) as error:
            self._dropped += len(batch)
            if not self._failing:
                log.warning("board cannot be written", error=type(error).__name__)
            self._failing = True
        else:
            if self._failing or self._dropped:
                log.info("board is written again", dropped=self._dropped)
            self._failing, self._dropped = False, 0


def _micros(seconds: float) -> str:
    return str(round(seconds * 1e6))


def _verdict(report: Report) -> list[str]:
    fields = ["host", report.host]
    fields += ["fault", report.code] if report.code else []
    text = report.model_dump_json(exclude_none=True)
    return [*fields, "report", text] if len(text.encode()) <= REPORT_BYTES else fields


def _counts(job: Job, state: State, report: Report | None, at: float) -> list[str]:
    """What is counted in the minute in which `job` got into `state`."""
    if not report:
        return [f"{job.kind}:{state}"]
    bucket = BUCKETS[bisect.bisect_left(BUCKETS, (at - job.submitted) * 1000, hi=len(BUCKETS) - 1)]
    return [f"{job.kind}:{state}:{report.code}" if report.code else f"{job.kind}:{state}", f"{job.kind}:ms:{bucket}"]
