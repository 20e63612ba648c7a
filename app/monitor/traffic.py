"""What deliveries have moved: counts by minute, noted by the workers that deliver and shown on the dashboard."""

from redis.asyncio.client import Pipeline

from app.domain.delivery import AnyFault, DeliveryState

KEPT_SECONDS = 2 * 3600


def traffic_key(minute: int) -> str:
    """What was delivered in that minute since the epoch: the `bytes` that stores have confirmed, whatever became of
    their files, and how many attempts came to which end, by `ok` and `failed:FAULT`."""
    return f"dropoff:traffic:{minute}"


def note(
    pipe: Pipeline, at: float, sent: int, ended: DeliveryState | None = None, fault: AnyFault | None = None
) -> None:
    """Have `pipe` count, at a time of Redis' clock, `sent` more bytes, and an attempt that has `ended` if one has."""
    counts = {"bytes": sent} if sent else {}
    if ended:
        counts[f"{ended}:{fault}" if fault else str(ended)] = 1
    key = traffic_key(int(at // 60))
    for name, count in counts.items():
        pipe.hincrby(key, name, count)
    if counts:
        pipe.expire(key, KEPT_SECONDS)
