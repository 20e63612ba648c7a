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

from app.domain.verification import Report
from app.messages.clock import Clock
from app.messages.job import Job
from app.monitor import failures
from app.monitor.job import ENDED, JobState, rank
from app.observe.background import Background
from app.settings import HOLD_MARGIN_SECONDS

log = structlog.get_logger()

STREAM = "dropoff:jobs"
ALL = "dropoff:jobs:all"
SHOWN = (
    "id", "account", "type", "destination", "host", "state", "submitted", "changed", "deadline", "attempt", "worker",
    "fault", "account_name",
)  # fmt: skip
"""The fields of a job that a list shows; its timeline and its report are kept beside them."""

KEPT_SECONDS = 24 * 3600
MINUTES_KEPT_SECONDS = 2 * 3600
STREAM_LENGTH = 10_000
TIMELINE_BYTES = 1536
REPORT_BYTES = 8192
PENDING = 10_000
BATCH = 100
_UNCOUNTED = (JobState.RUNNING, JobState.UPLOADING, JobState.DELETING)
# What is noted within this time is written in one round trip. A worker has more to say of a job, most of which takes no
# longer than this: then it is read and written once.
GATHER_SECONDS = 0.05
WORKER_GATHER_SECONDS = 0.2
# Each index expires so long after it was used last, and this is set anew so often.
INDEX_KEPT_SECONDS = KEPT_SECONDS + 3600

# Upper bounds in milliseconds, each a quarter more than the one before: as exact as a quantile has to be.
BUCKETS = tuple(round(10 * 1.25**n) for n in range(50))

# How often what is kept too long is looked for, and what others have noted is counted.
TIDY_SECONDS = 1.0

# One call writes a whole batch. Each job is read and written once, whatever the batch has about it, and each index and
# each count is added to once. A job's state is the one of the highest rank, so it does not matter in which order the
# notes of both sides arrive. When it tidies, the oldest jobs go if there are more than are kept, or if their time is
# over, and it returns how many there are.
#
# The stream has an event for each note, and one entry for all events of a call, a line each. Events are numbered, from
# the time of the first on, and an entry's id is the number of its last: so the newest are kept by their number.
_WRITE = (
    failures.COUNT_NAMED
    + """
local stream, all, limits = KEYS[1], KEYS[2], cjson.decode(ARGV[2])
local jobs, order, counts, indexes, events, expiring, failed = {}, {}, {}, {}, {}, {}, {}

local function look(id)
  if not jobs[id] then
    local key = 'dropoff:job:' .. id
    local row = {}
    local values = redis.call('HMGET', key, 'rank', 'timeline', unpack(limits.shown))
    for i, name in ipairs(limits.shown) do row[name] = values[i + 2] or nil end
    jobs[id] = {
      key = key, known = values[1], rank = tonumber(values[1] or -1), timeline = values[2], row = row, changed = {}
    }
    order[#order + 1] = id
  end
  return jobs[id]
end

local function set(job, fields)
  for i = 1, #fields, 2 do
    job.row[fields[i]] = fields[i + 1]
    job.changed[#job.changed + 1], job.changed[#job.changed + 2] = fields[i], fields[i + 1]
  end
end

local function begin(job, note)
  set(job, note.is)
  job.known, job.new = true, true
  for _, key in ipairs({all, note.own}) do
    local index = indexes[key] or {}
    index[#index + 1], index[#index + 2] = note.submitted, note.id
    indexes[key] = index
  end
end

local function enter(job, note)
  if not job.timeline then
    job.timeline = note.line
  elseif #job.timeline < limits.timeline then
    job.timeline = job.timeline .. ',' .. note.line
  end
  if note.counts and (job.rank < limits.ended or note.rank == 0) then
    local minute = counts[note.minute] or {}
    for _, name in ipairs(note.counts) do minute[name] = (minute[name] or 0) + 1 end
    counts[note.minute] = minute
    if note.failed then failed[#failed + 1] = note.failed end
  end
  if note.rank > job.rank then
    job.rank = note.rank
    set(job, note.fields)
  end
  local row = {}
  for _, name in ipairs(limits.shown) do row[name] = job.row[name] end
  events[#events + 1] = cjson.encode(row)
end

for _, note in ipairs(cjson.decode(ARGV[1])) do
  local job = look(note.id)
  if job.known or note.is then
    if not job.known then begin(job, note) end
    if note.expire then expiring[note.own] = note.expire end
    enter(job, note)
  end
end

for _, id in ipairs(order) do
  local job = jobs[id]
  if job.known then
    redis.call('HSET', job.key, 'rank', job.rank, 'timeline', job.timeline, unpack(job.changed))
    if job.new then redis.call('EXPIRE', job.key, limits.seconds) end
  end
end
for key, index in pairs(indexes) do redis.call('ZADD', key, unpack(index)) end
for own, seconds in pairs(expiring) do
  redis.call('ZREMRANGEBYSCORE', own, '-inf', limits.oldest)
  redis.call('EXPIRE', own, seconds)
end
if #events > 0 then
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local number = newest and tonumber(string.match(newest[1], '^%d+')) or limits.now
  local function id(n) return string.format('%.0f-0', n) end
  number = number + #events
  local oldest = id(math.max(0, number - limits.stream))
  redis.call('XADD', stream, 'MINID', '~', oldest, id(number), 'job', table.concat(events, '\\n'))
end
for minute, names in pairs(counts) do
  for name, count in pairs(names) do
    if redis.call('HINCRBY', minute, name, count) == count then redis.call('EXPIRE', minute, limits.minutes) end
  end
end

for _, each in ipairs(failed) do count_named(each[1], each[2], 1, limits.failures) end

if not limits.tidy then return end
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
return redis.call('ZCARD', all)
"""
)


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
    become that of a job. It remembers `jobs` of them; `worker` is the name that a worker's notes carry.
    """

    def __init__(self, client: Redis, clock: Clock, *, jobs: int, worker: str = "") -> None:
        self._write = client.register_script(_WRITE)
        self._clock = clock
        self._kept = jobs
        self._worker = worker
        self._pending: deque[str] = deque(maxlen=PENDING)
        self._news = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._dropped = 0
        # By account, when its index was last told to expire.
        self._expiring: dict[int, float] = {}
        self._tidied = float("-inf")
        # How many more jobs there may be before it has to be looked whether they are too many.
        self._room = 0
        self.writer = Background("board", self._write_pending)

    def note(self, job: Job, state: JobState, *, host: str = "", report: Report | None = None) -> None:
        """`job` is in `state` from now on; a verdict comes with its report."""
        # Clocks that agree may still differ by the time that a look at Redis' takes.
        at = job.submitted if state is JobState.QUEUED else max(job.submitted, self._clock.now())
        # A job that expired was not begun, whoever found it so.
        attempt = job.attempt if self._worker and state is not JobState.EXPIRED else 0
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
        if state not in (JobState.UPLOADING, JobState.DELETING):
            # These two always follow another note, which has told what job this is.
            note |= _identity(job)
            if self._to_expire(job.account):
                note["expire"] = INDEX_KEPT_SECONDS
        if state not in _UNCOUNTED:
            minute = int(at // 60)
            note |= {"counts": _counts(job, state, report, at), "minute": minute_key(minute)}
            if report and report.code:
                note["failed"] = [failures.failures_key(minute), failures.failed(report.code, job.owner)]
        self._dropped += len(self._pending) == PENDING
        # Text, since many objects that live for a moment keep the garbage collector busy.
        self._pending.append(json.dumps(note))
        self._news.set()

    def _to_expire(self, account: int) -> bool:
        """Whether the index of `account` has to be told again when it expires."""
        now = time.monotonic()
        if now - self._expiring.get(account, float("-inf")) < INDEX_KEPT_SECONDS - KEPT_SECONDS:
            return False
        if len(self._expiring) >= PENDING:
            self._expiring.clear()
        self._expiring[account] = now
        return True

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write for as long as the block lasts, and at its end what is left, unless Redis does not answer."""
        self.writer.start()
        try:
            yield
        finally:
            # Not in the middle of a batch, which would be lost.
            async with self._flushing:
                await self.writer.stop()
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                while self._pending:
                    await self._flush()

    async def _write_pending(self) -> None:
        await self._news.wait()
        self._news.clear()
        await asyncio.sleep(WORKER_GATHER_SECONDS if self._worker else GATHER_SECONDS)
        while self._pending:
            async with self._flushing:
                await self._flush()

    async def _flush(self) -> None:
        batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
        self._room -= len(batch)
        tidy = self._room < 0 or time.monotonic() - self._tidied >= TIDY_SECONDS
        limits = {
            "kept": self._kept, "seconds": KEPT_SECONDS, "oldest": _micros(self._clock.now() - KEPT_SECONDS),
            "now": round(self._clock.now() * 1000),
            "stream": STREAM_LENGTH, "timeline": TIMELINE_BYTES, "ended": ENDED, "minutes": MINUTES_KEPT_SECONDS,
            "shown": SHOWN, "tidy": tidy,
            "failures": failures.LIMITS,
        }  # fmt: skip
        try:
            found = await self._write(keys=[STREAM, ALL], args=[f"[{','.join(batch)}]", json.dumps(limits)])
        except (redis.exceptions.RedisError, OSError):
            self._dropped += len(batch)
            raise
        if tidy:
            self._tidied, self._room = time.monotonic(), self._kept - int(found or 0)
        if self._dropped:
            log.info("notes about jobs were dropped", dropped=self._dropped)
            self._dropped = 0


def _identity(job: Job) -> dict[str, Any]:
    submitted = _micros(job.submitted)
    known = ["id", job.id, "account", str(job.account), "type", job.spec.type, "submitted", submitted]
    known += ["deadline", _micros(job.deadline + HOLD_MARGIN_SECONDS)]
    known += ["bucket", job.spec.bucket]
    known += ["destination", job.destination] if job.destination else []
    known += ["account_name", job.account_name] if job.account_name else []
    return {"is": known, "own": account_key(job.account), "submitted": submitted}


def _micros(seconds: float) -> str:
    return str(round(seconds * 1e6))


def _verdict(report: Report) -> list[str]:
    fields = ["host", report.host]
    fields += ["fault", report.code] if report.code else []
    text = report.model_dump_json(exclude_none=True)
    return [*fields, "report", text] if len(text.encode()) <= REPORT_BYTES else fields


def _counts(job: Job, state: JobState, report: Report | None, at: float) -> list[str]:
    """What is counted in the minute in which `job` got into `state`."""
    if not report:
        return [f"{job.spec.type}:{state}"]
    bucket = BUCKETS[bisect.bisect_left(BUCKETS, (at - job.submitted) * 1000, hi=len(BUCKETS) - 1)]
    return [
        f"{job.spec.type}:{state}:{report.code}" if report.code else f"{job.spec.type}:{state}",
        f"{job.spec.type}:ms:{bucket}",
    ]
