"""How many jobs ended in the last minutes, in which state and after how long, by type."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from app.domain.types import TYPES
from app.monitor.board import BUCKETS
from app.monitor.job import JobState

EVERY_TYPE = "all"

_FLOORS = dict(zip(BUCKETS, (0, *BUCKETS), strict=False))
_ENDS = (JobState.SUCCEEDED, JobState.FAILED, JobState.EXPIRED, JobState.LOST)


def quantile(counts: Mapping[int, int], part: float) -> float | None:
    """The time in milliseconds within which `part` of the jobs ended; None where there are none. `counts` has the
    number of jobs by the upper bound of their bucket, within which they are taken to be spread evenly."""
    rank = part * sum(counts.values())
    for bound in sorted(counts):
        if 0 < rank <= counts[bound]:
            return _FLOORS[bound] + (bound - _FLOORS[bound]) * rank / counts[bound]
        rank -= counts[bound]
    return None


def rates(minutes: Mapping[int, Mapping[str, int]]) -> list[dict[str, Any]]:
    """For all jobs, and then for those of each type of which one ended: the numbers of each of `minutes` (see
    `minute_key`), and under `whole` those of all minutes together. Times are in milliseconds."""
    types = {name.partition(":")[0] for counts in minutes.values() for name in counts}
    every = _rate(EVERY_TYPE, [_of(counts, types) for counts in minutes.values()])
    each = [_rate(kind, [_of(counts, (kind,)) for counts in minutes.values()]) for kind in TYPES if kind in types]
    return [every, *(rate for rate in each if rate["whole"]["ended"])]


def faults(minutes: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
    """How many jobs failed for each reason, the most frequent first."""
    found: Counter[str] = Counter()
    for counts in minutes.values():
        for name, count in counts.items():
            _, state, *rest = name.split(":")
            if state == JobState.FAILED:
                found[rest[0]] += count
    return dict(found.most_common())


def _of(counts: Mapping[str, int], types: Iterable[str]) -> Counter[tuple[str, int]]:
    """How many jobs of `types` came to each end, and how many took as long as each bucket has."""
    found: Counter[tuple[str, int]] = Counter()
    for name, count in counts.items():
        kind, what, *rest = name.split(":")
        if kind in types:
            found[what, int(rest[0]) if what == "ms" else 0] += count
    return found


def _rate(kind: str, minutes: list[Counter[tuple[str, int]]]) -> dict[str, Any]:
    summaries = [_summary(minute) for minute in minutes]
    return {
        "type": kind,
        **{name: [each[name] for each in summaries] for name in ("ended", "succeeded", "p50", "p95")},
        "whole": _summary(sum(minutes, Counter())),
    }


def _summary(counts: Counter[tuple[str, int]]) -> dict[str, float | None]:
    took = {bound: count for (what, bound), count in counts.items() if what == "ms"}
    ends = {state.value: counts[state, 0] for state in _ENDS}
    return {**ends, "ended": sum(ends.values()), "p50": quantile(took, 0.5), "p95": quantile(took, 0.95)}
