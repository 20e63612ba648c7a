"""Which accounts fail and why, and what was refused before the queue: counts by minute, for whoever wants to look."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.messages.clock import Clock
from app.observe.background import Background

KEPT_SECONDS = 65 * 60
WRITE_SECONDS = 1.0
PENDING = 1000
"""How many different refusals are counted between two writes; the rest is counted as OTHERS."""
NAMES = 200
"""How many different pairs of a code and an account are counted in a minute; the rest is counted as OTHERS."""
OTHERS = "failed::"
_NAMES_COUNTED = "names"

# With no command that an operator of an earlier release has not allowed.
COUNT_NAMED = f"""
local function count_named(key, name, count, limits)
  if not redis.call('HGET', key, name) and redis.call('HINCRBY', key, '{_NAMES_COUNTED}', 1) > limits.most then
    name = limits.others
  end
  if redis.call('HINCRBY', key, name, count) == count then redis.call('EXPIRE', key, limits.seconds) end
end
"""
"""The function of a script that counts a name in a hash, of which it has no more than so many."""
LIMITS = {"most": NAMES, "others": OTHERS, "seconds": KEPT_SECONDS}

_WRITE = f"""{COUNT_NAMED}
local limits = cjson.decode(ARGV[2])
for _, each in ipairs(cjson.decode(ARGV[1])) do count_named(each[1], each[2], each[3], limits) end
"""


def failures_key(minute: int) -> str:
    """What failed in that minute since the epoch: jobs by `failed:CODE:ACCOUNT`, and deliveries that were given up by
    `undelivered:CODE:ACCOUNT`; what was refused before the queue, by `refused:CODE:ACCOUNT`. The account stands there
    by its name, and is empty where no key told whose it is."""
    return f"dropoff:failures:{minute}"


def failed(code: str, owner: str) -> str:
    return f"failed:{code}:{owner}"


async def note_undelivered(pipe: Pipeline, at: float, code: str, owner: str) -> None:
    """Have `pipe` count, at a time of Redis' clock, a delivery of `owner` that was given up as `code`."""
    entry = failures_key(int(at // 60)), f"undelivered:{code}:{owner}", 1
    await pipe.register_script(_WRITE)(keys=[], args=[json.dumps([entry]), json.dumps(LIMITS)])


@dataclass
class Failing:
    """An account of which something failed or was refused: how often, and for which reasons, the most frequent one
    first; `failed` has jobs, `refused` what never came to one, and `undelivered` deliveries that were given up."""

    account: str
    failed: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    undelivered: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(map(sum, (self.failed.values(), self.refused.values(), self.undelivered.values())))


@dataclass(frozen=True)
class Failures:
    """What failed and was refused in some minutes together: `accounts` those that did most so first, `refused` by code.
    `others` counts what belongs to accounts that are not listed, since there were too many."""

    accounts: list[Failing]
    refused: dict[str, int]
    others: int


def summary(minutes: Iterable[Mapping[str, int]]) -> Failures:
    """The hashes of several minutes (see `failures_key`) as one."""
    counts: Counter[str] = Counter()
    for minute in minutes:
        counts.update(minute)
    others = counts.pop(OTHERS, 0)
    del counts[_NAMES_COUNTED]
    refused: Counter[str] = Counter()
    accounts: dict[str, Failing] = {}
    for name, count in counts.most_common():
        end, code, owner = name.split(":", 2)
        if end == "refused":
            refused[code] += count
        if owner:
            failing = accounts.setdefault(owner, Failing(owner))
            ends = {"refused": failing.refused, "undelivered": failing.undelivered}
            ends.get(end, failing.failed)[code] = count
    worst = sorted(accounts.values(), key=lambda each: (-each.count, each.account))
    return Failures(worst, dict(refused.most_common()), others)


class RefusalCounts:
    """Counts what this process refuses before it becomes a job, and writes it behind the caller's back. What cannot be
    written is dropped: it is for looking at, and hinders nothing."""

    def __init__(self, client: Redis, clock: Clock) -> None:
        self._write = client.register_script(_WRITE)
        self._clock = clock
        self._pending: Counter[tuple[str, str]] = Counter()
        self.writing = Background("refusals", self._step)

    def note(self, code: str, owner: str) -> None:
        """A request of `owner` (empty where that is not known) was refused as `code` before it became a job."""
        entry = failures_key(int(self._clock.now() // 60)), f"refused:{code}:{owner}"
        if entry not in self._pending and len(self._pending) >= PENDING:
            entry = entry[0], OTHERS
        self._pending[entry] += 1

    async def _step(self) -> None:
        await asyncio.sleep(WRITE_SECONDS)
        await self.write_pending()

    async def write_pending(self) -> None:
        """Write what was noted since it was written last. Raises what the client raises."""
        if not self._pending:
            return
        taken, self._pending = self._pending, Counter()
        entries = [(key, name, count) for (key, name), count in taken.items()]
        await self._write(keys=[], args=[json.dumps(entries), json.dumps(LIMITS)])
