"""Notifications: the events that the platform is told of, and when it is told again of one that it did not take."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from app.domain.destination import timestamp

TRIED_FOR = timedelta(hours=72)
"""How long after it happened the platform is told of an event, until it takes it; once at least."""
_FIRST_PAUSE_SECONDS, _GROWTH, _LONGEST_PAUSE_SECONDS = 5.0, 3.0, 1800.0
_JITTER = 0.2


class EventType(StrEnum):
    """What happened."""

    RESULT_SET_DELIVERED = "result_set.delivered"
    DELIVERY_FAILED = "delivery.failed"
    DESTINATION_FAILING = "destination.failing"
    DESTINATION_RECOVERED = "destination.recovered"


class NotificationState(StrEnum):
    """A WAITING one is sent until it is taken; a KEPT one was given up, and is left to an operator."""

    WAITING = "waiting"
    KEPT = "kept"


@dataclass(frozen=True)
class Event:
    """What happened at `at` in the account with this number, to these `destinations`; `data` is what is told of it."""

    type: EventType
    at: datetime
    account: int
    destinations: tuple[str, ...]
    data: Mapping[str, Any]

    def payload(self) -> str:
        """The body of the request that tells of it."""
        content = {"type": self.type, "timestamp": timestamp(self.at), "data": self.data}
        return json.dumps(content, separators=(",", ":"))


@dataclass(frozen=True)
class Notification:
    """An event that is to be told, in the words in which it is told. `id` stays the same however often that is tried;
    `number` orders those of one destination; `attempts` counts the one under way."""

    number: int
    id: str
    type: EventType
    payload: str
    attempts: int
    created_at: datetime
    state: NotificationState = NotificationState.WAITING
    reason: str | None = None


def pause_after(attempts: int) -> timedelta:
    """How long after so many attempts the next one is made."""
    seconds = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * _GROWTH ** min(attempts - 1, 20))
    return timedelta(seconds=seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 -- it spreads, no more
