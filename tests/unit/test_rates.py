"""What is read out of the counts of minutes."""

import random

import pytest

from app.monitor.board import BUCKETS
from app.monitor.rates import faults, quantile, rates


@pytest.mark.parametrize("part", [0.5, 0.95])
def test_a_quantile_is_as_exact_as_the_buckets(part: float) -> None:
    chance = random.Random(1)
    took = sorted(chance.lognormvariate(5, 1) for _ in range(5000))
    counts: dict[int, int] = {}
    for ms in took:
        bound = next(bucket for bucket in BUCKETS if ms <= bucket)
        counts[bound] = counts.get(bound, 0) + 1
    assert quantile(counts, part) == pytest.approx(took[round(part * 5000)], rel=0.05)


def test_the_quantile_of_one_job_lies_in_its_bucket() -> None:
    assert quantile({BUCKETS[3]: 1}, 0.5) == (BUCKETS[2] + BUCKETS[3]) / 2
    assert quantile({BUCKETS[0]: 1}, 1) == BUCKETS[0]


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile({}, 0.5) is None


def test_rates_are_told_by_minute_and_by_type_and_for_all() -> None:
    minutes = {
        7: {"s3:queued": 3, "s3:succeeded": 1, "s3:ms:10": 1, "oss:queued": 1, "oss:expired": 1},
        8: {"s3:succeeded": 1, "s3:failed:write_denied": 1, "s3:ms:10": 2, "azure:queued": 1},
        9: {},
    }
    every, s3, oss = rates(minutes)
    assert (every["type"], s3["type"], oss["type"]) == ("all", "s3", "oss")
    assert (every["ended"], every["succeeded"], every["p50"]) == ([2, 2, 0], [1, 1, 0], [5, 5, None])
    assert (s3["ended"], s3["whole"]["ended"], s3["whole"]["failed"]) == ([1, 2, 0], 3, 1)
    assert (oss["whole"]["expired"], oss["whole"]["p95"]) == (1, None)


def test_the_rates_of_an_hour_without_a_job_are_nothing() -> None:
    (every,) = rates({7: {}, 8: {}})
    assert (every["ended"], every["whole"]["ended"], every["whole"]["p95"]) == ([0, 0], 0, None)


def test_the_most_frequent_fault_is_the_first() -> None:
    minutes = {7: {"s3:failed:timeout": 1}, 8: {"oss:failed:write_denied": 2, "s3:failed:timeout": 2, "s3:queued": 9}}
    assert list(faults(minutes).items()) == [("timeout", 3), ("write_denied", 2)]
