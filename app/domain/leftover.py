"""A test file that may have been left behind, as it is on record until its delete is confirmed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.domain.destination import timestamp
from app.domain.listing import ACCOUNT_RULE, PAGE_RULE, Reader, account_number, page_number, read

PAGE_SIZE = 50
_JOB_ID = re.compile("[0-9A-Za-z-]{1,36}")


def is_job_id(text: str) -> bool:
    """Whether a leftover can have `text` for its id: not every text can be sent to a database."""
    return bool(_JOB_ID.fullmatch(text))


class LeftoverState(StrEnum):
    """What is done about it."""

    WAITING = "waiting"
    """Its delete is tried again, with growing pauses."""
    KEPT = "kept"
    """Nothing more is done by itself: an operator settles it."""


@dataclass(frozen=True)
class Leftover:
    """One file. `id` is the job that left it; `destination` need not exist; `parameters` are those of its type that are
    no secrets, and `object` is its key there. `reason` and `message` say why it is not removed, as far as a delete
    was tried: `tries` counts those. The next is at `due_at`."""

    id: str
    account: int
    destination: str | None
    type: str
    parameters: Mapping[str, str]
    object: str
    state: LeftoverState
    created_at: datetime
    due_at: datetime
    reason: str | None = None
    message: str | None = None
    tries: int = 0

    def as_answer(self) -> dict[str, Any]:
        waits = self.state is LeftoverState.WAITING
        return {
            "id": self.id,
            "destination": self.destination,
            "type": self.type,
            "parameters": dict(self.parameters),
            "object": self.object,
            "state": self.state,
            "reason": self.reason,
            "message": self.message,
            "tries": self.tries,
            "created_at": timestamp(self.created_at),
            "next_try_at": timestamp(self.due_at) if waits else None,
        }


@dataclass(frozen=True)
class LeftoverPage:
    """One page of leftovers, the oldest first, and how many there are in all."""

    leftovers: tuple[Leftover, ...]
    count: int


@dataclass(frozen=True)
class LeftoverQuery:
    """Which page of leftovers is asked for; those of all accounts and in every state where these are None."""

    account: int | None = None
    page: int = 1
    state: LeftoverState | None = None


_READERS: dict[str, Reader] = {
    "account": ("account", account_number, ACCOUNT_RULE),
    "page": ("page", page_number, PAGE_RULE),
    "state": ("state", LeftoverState, f"must be one of {', '.join(LeftoverState)}"),
}


def parse_leftover_query(parameters: Mapping[str, str]) -> LeftoverQuery:
    """The page that the query string `parameters` ask for. Raises InvalidParameters with every fault at once."""
    return LeftoverQuery(**read(parameters, _READERS, "the list"))
