"""Notifications: the events that the platform is told of, and when it is told again of one that it did not take."""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from app.domain.destination import timestamp
from app.domain.listing import CURSOR_RULE, LIMIT_RULE, Reader, limit, read, whole_number

TRIED_FOR = timedelta(hours=72)
"""How long after it happened the platform is told of an event, until it takes it; once at least."""
_FIRST_PAUSE_SECONDS, _GROWTH, _LONGEST_PAUSE_SECONDS = 5.0, 3.0, 1800.0
_JITTER = 0.2
_ID = re.compile("[0-9A-Za-z_]{1,36}")


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
    `number` orders those of one destination; `attempts` counts the one under way; a waiting one is due at `due_at`."""

    number: int
    id: str
    type: EventType
    payload: str
    attempts: int
    created_at: datetime
    due_at: datetime
    state: NotificationState = NotificationState.WAITING
    reason: str | None = None

    def as_answer(self) -> dict[str, Any]:
        waits = self.state is NotificationState.WAITING
        return {
            "id": self.id,
            "type": self.type,
            "state": self.state,
            "attempts": self.attempts,
            "reason": self.reason,
            "created_at": timestamp(self.created_at),
            "next_attempt_at": timestamp(self.due_at) if waits else None,
            "event": json.loads(self.payload),
        }


@dataclass(frozen=True)
class NotificationQuery:
    """Which notifications are asked for, in the order of their numbers, from the one after `after` on."""

    state: NotificationState | None = None
    limit: int = 50
    after: int = 0


_READERS: dict[str, Reader] = {
    "state": ("state", NotificationState, f"must be one of {', '.join(NotificationState)}"),
    "limit": ("limit", limit, LIMIT_RULE),
    "cursor": ("after", whole_number, CURSOR_RULE),
}


def parse_notification_query(parameters: Mapping[str, str]) -> NotificationQuery:
    """The notifications that a query string asks for. Raises InvalidParameters with every fault at once."""
    return NotificationQuery(**read(parameters, _READERS, "the list of notifications"))


def is_notification_id(text: str) -> bool:
    """Whether a notification can have `text` for its id: not every text can be sent to a database."""
    return bool(_ID.fullmatch(text))


def pause_after(attempts: int) -> timedelta:
    """How long after so many attempts the next one is made."""
    seconds = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * _GROWTH ** min(attempts - 1, 20))
    return timedelta(seconds=seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 -- it spreads, no more
