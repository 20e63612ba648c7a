"""What deliveries have moved: counts by minute, noted by the workers that deliver and shown on the dashboard."""

from collections import Counter
from collections.abc import Sequence

from redis.asyncio.client import Pipeline

from app.domain.delivery import AnyFault, DeliveryState

KEPT_SECONDS = 2 * 3600


def traffic_key(minute: int) -> str:
    """What was delivered in that minute since the epoch: the `bytes` that stores have confirmed, whatever became of
    their files, and how many attempts came to which end, by `ok` and `failed:FAULT`."""
    return f"dropoff:traffic:{minute}"


def note(pipe: Pipeline, at: float, sent: int, ended: Sequence[tuple[DeliveryState, AnyFault | None]] = ()) -> None:
    """Have `pipe` count, at a time of Redis' clock, `sent` more bytes, and the attempts that have `ended`, each with
    its fault if it has one."""
    counts = Counter(f"{state}:{fault}" if fault else str(state) for state, fault in ended)
    if sent:
        counts["bytes"] = sent
    key = traffic_key(int(at // 60))
    for name, count in counts.items():
        pipe.hincrby(key, name, count)
    if counts:
        pipe.expire(key, KEPT_SECONDS)
