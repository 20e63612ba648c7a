"""A job as the board shows it: its states, which of them prevails, and what can be asked about jobs."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from app.domain.errors import Fault, InvalidParameters, ParameterFault
from app.domain.specs import TYPES, printable

LIMIT = 100
_USUAL_LIMIT = 50
# A verdict that comes this long after the end of the hold, in microseconds, is not waited for any more.
_GRACE = 5_000_000


class State(StrEnum):
    """What a job is doing, or how it ended."""

    QUEUED = "queued"
    RUNNING = "running"
    UPLOADING = "uploading"
    DELETING = "deleting"
    EXPIRED = "expired"
    LOST = "lost"
    FAILED = "failed"
    SUCCEEDED = "succeeded"


UNDER_WAY = (State.QUEUED, State.RUNNING, State.UPLOADING, State.DELETING)
ENDED = 1000
"""The rank from which on a job has ended."""
_ENDS = {State.EXPIRED: ENDED, State.LOST: ENDED + 1, State.FAILED: ENDED + 2, State.SUCCEEDED: ENDED + 2}


def rank(state: State, attempt: int) -> int:
    """Of two states noted of one job the one with the higher rank is the job's, in whatever order they arrive: a
    verdict before lost before expired before what is under way, and of that the latest attempt. Of two verdicts the
    first is the one that was answered."""
    return _ENDS[state] if state in _ENDS else attempt * len(UNDER_WAY) + UNDER_WAY.index(state)


def moment(micros: str | int) -> datetime:
    return datetime.fromtimestamp(int(micros) / 1e6, UTC)


@dataclass(frozen=True)
class Entry:
    """One job on the board. `destination` is None while there is none, `host` until a worker knows it."""

    id: str
    account: int
    type: str
    state: State
    submitted: int
    """In microseconds since the epoch, as `changed`, which is when it got into its state."""
    changed: int
    destination: str | None = None
    host: str | None = None
    attempt: int = 0
    worker: str | None = None
    fault: str | None = None

    @classmethod
    def read(cls, fields: Mapping[str, str], now: int | None = None) -> Self:
        """The entry that `fields` hold. With `now`, one whose caller has given up long ago and that nobody ended is
        shown as ended."""
        known = {
            name: fields[name] for name in ("id", "type", "destination", "host", "worker", "fault") if name in fields
        }
        entry = cls(
            **known, account=int(fields["account"]), state=State(fields["state"]),
            attempt=int(fields.get("attempt", 0)), submitted=int(fields["submitted"]), changed=int(fields["changed"]),
        )  # fmt: skip
        over = int(fields["deadline"])
        if now and now > over + _GRACE and entry.state in UNDER_WAY:
            entry = replace(entry, state=State.EXPIRED, changed=over)
        # A worker began it, did not end it, and nobody may begin it again.
        return replace(entry, state=State.LOST) if entry.state is State.EXPIRED and entry.attempt else entry


@dataclass(frozen=True)
class JobQuery:
    """Which jobs are asked for, newest first. `since` and `until` are in microseconds, `until` not included;
    `cursor` is the place of the last job that was seen."""

    account: int | None = None
    state: State | None = None
    type: str | None = None
    destination: str | None = None
    fault: Fault | None = None
    search: str = ""
    since: int | None = None
    until: int | None = None
    limit: int = _USUAL_LIMIT
    cursor: tuple[int, str] | None = None

    def matches(self, entry: Entry) -> bool:
        asked = (self.account, self.state, self.type, self.destination, self.fault)
        found = (entry.account, entry.state, entry.type, entry.destination, entry.fault)
        searched = f"{entry.id}\n{entry.destination or ''}\n{entry.host or ''}".casefold()
        return all(a in (None, f) for a, f in zip(asked, found, strict=True)) and self.search.casefold() in searched


def cursor(place: tuple[int, str]) -> str:
    """`place` as a client hands it back."""
    return base64.urlsafe_b64encode(f"{place[0]} {place[1]}".encode()).decode().rstrip("=")


def _place(text: str) -> tuple[int, str]:
    submitted, _, job = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(" ")
    return _number(submitted), job


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text, re.ASCII):
        raise ValueError
    return int(text)


def _limit(text: str) -> int:
    if not 1 <= _number(text) <= LIMIT:
        raise ValueError
    return int(text)


def _type(text: str) -> str:
    if text not in TYPES:
        raise ValueError
    return text


def _micros(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError
    return round(at.timestamp() * 1e6)


_TIME = "must be a time with its zone, as in 2026-01-31T12:00:00Z"
# By parameter: the field, how it is read, and the rule for who breaks it.
_PARAMETERS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "account": ("account", _number, "must be the number of an account"),
    "state": ("state", State, f"must be one of {', '.join(State)}"),
    "type": ("type", _type, f"must be one of {', '.join(TYPES)}"),
    "destination": ("destination", str, ""),
    "fault": ("fault", Fault, "must be the code of a failed verification, as secret_mismatch"),
    "search": ("search", str, ""),
    "from": ("since", _micros, _TIME),
    "to": ("until", _micros, _TIME),
    "limit": ("limit", _limit, f"must be a whole number from 1 to {LIMIT}"),
    "cursor": ("cursor", _place, "must be the next_cursor of an answer"),
}


def job_query(parameters: Mapping[str, str]) -> JobQuery:
    """The jobs that the query string `parameters` ask for. Raises InvalidParameters with every fault at once."""
    faults, read = [], {}
    for name, text in parameters.items():
        if name not in _PARAMETERS:
            message = f"{printable(name)} is not a parameter of the list of jobs."
            faults.append(ParameterFault(printable(name), "unknown_parameter", message))
            continue
        field, parse, rule = _PARAMETERS[name]
        try:
            read[field] = parse(text)
        except (ValueError, OverflowError):
            faults.append(ParameterFault(name, Fault.INVALID_PARAMETER, f"{name} {rule}."))
    if faults:
        raise InvalidParameters(faults)
    return JobQuery(**read)
