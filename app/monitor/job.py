"""A job as the board shows it: its states, which of them counts, and what can be asked about jobs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, Self

from app.domain.faults import Fault
from app.domain.listing import (
    ACCOUNT_RULE,
    CURSOR_RULE,
    LIMIT_RULE,
    TIME_RULE,
    Reader,
    account_number,
    decode_cursor,
    encode_cursor,
    limit,
    read,
)
from app.domain.types import TYPES

_DEFAULT_LIMIT = 50
# How long after the end of the hold a verdict may still arrive, in microseconds.
_GRACE = 5_000_000


class JobState(StrEnum):
    """What a job is doing, or how it ended."""

    QUEUED = "queued"
    RUNNING = "running"
    UPLOADING = "uploading"
    DELETING = "deleting"
    EXPIRED = "expired"
    LOST = "lost"
    FAILED = "failed"
    SUCCEEDED = "succeeded"


UNDER_WAY = (JobState.QUEUED, JobState.RUNNING, JobState.UPLOADING, JobState.DELETING)
ENDED = 1000
"""The rank from which on a job has ended."""
_ENDS = {JobState.EXPIRED: ENDED, JobState.LOST: ENDED + 1, JobState.FAILED: ENDED + 2, JobState.SUCCEEDED: ENDED + 2}


def rank(state: JobState, attempt: int) -> int:
    """How much a note about a job counts: of two, the one with the higher rank is the job's state, whichever arrives
    first. A verdict outranks lost, that outranks expired, and that what is under way, where the later attempt outranks
    the earlier. Two verdicts have the same rank, and the first stays: it is the one that was answered."""
    return _ENDS[state] if state in _ENDS else attempt * len(UNDER_WAY) + UNDER_WAY.index(state)


def moment(micros: str | int) -> datetime:
    """The time that is so many microseconds after the epoch."""
    return datetime.fromtimestamp(int(micros) / 1e6, UTC)


@dataclass(frozen=True)
class JobView:
    """One job on the board. `destination` is None while there is none, `host` until a worker knows it, and
    `account_name` where an older release noted it."""

    id: str
    account: int
    type: str
    state: JobState
    submitted: int
    """In microseconds since the epoch, as `changed`, which is when it got into its state."""
    changed: int
    destination: str | None = None
    host: str | None = None
    account_name: str | None = None
    attempt: int = 0
    worker: str | None = None
    fault: str | None = None

    @classmethod
    def read(cls, fields: Mapping[str, str], now: int | None = None) -> Self:
        """The job that `fields` describe, as the board stores it. Raises ValueError where they describe none.

        With `now`, in microseconds, a job that is under way long after its hold has ended is shown as ended: whoever
        should have noted its end has died.
        """
        texts = ("id", "type", "destination", "host", "account_name", "worker", "fault")
        try:
            job = cls(
                **{name: fields[name] for name in texts if name in fields},
                account=int(fields["account"]),
                state=JobState(fields["state"]),
                attempt=int(fields.get("attempt", 0)),
                submitted=_micros(fields["submitted"]),
                changed=_micros(fields["changed"]),
            )
            deadline = _micros(fields["deadline"])
        except (KeyError, TypeError, OverflowError, OSError) as error:
            raise ValueError("these are not the fields of a job") from error
        if now and now > deadline + _GRACE and job.state in UNDER_WAY:
            job = replace(job, state=JobState.EXPIRED, changed=deadline)
        # A job that expired after a worker began it was not too late, but lost with that worker.
        return replace(job, state=JobState.LOST) if job.state is JobState.EXPIRED and job.attempt else job


class Cursor(NamedTuple):
    """Where a listing of jobs goes on: after this job, which was submitted at this time, in microseconds."""

    submitted: int
    job: str

    def encode(self) -> str:
        """The cursor as a client hands it back."""
        return encode_cursor(self.submitted, self.job)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises ValueError for what `encode` did not return."""
        return cls(*decode_cursor(text))


@dataclass(frozen=True)
class JobQuery:
    """Which jobs are asked for, newest first: those submitted from `since` on and before `until`, in microseconds, and
    after `cursor`, where an earlier page ended."""

    account: int | None = None
    state: JobState | None = None
    type: str | None = None
    destination: str | None = None
    fault: Fault | None = None
    search: str = ""
    since: int | None = None
    until: int | None = None
    limit: int = _DEFAULT_LIMIT
    cursor: Cursor | None = None

    def matches(self, job: JobView) -> bool:
        asked = (self.account, self.state, self.type, self.destination, self.fault)
        found = (job.account, job.state, job.type, job.destination, job.fault)
        searched = "\n".join(
            (job.id, *(each or "" for each in (job.destination, job.host, job.account_name)))
        ).casefold()
        return all(a in (None, f) for a, f in zip(asked, found, strict=True)) and self.search.casefold() in searched


def _micros(text: str) -> int:
    """Microseconds since the epoch. Raises what `moment` raises where that is no time of the calendar."""
    moment(text)
    return int(text)


def _type(text: str) -> str:
    if text not in TYPES:
        raise ValueError
    return text


def _time(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError
    return round(at.timestamp() * 1e6)


_READERS: dict[str, Reader] = {
    "account": ("account", account_number, ACCOUNT_RULE),
    "state": ("state", JobState, f"must be one of {', '.join(JobState)}"),
    "type": ("type", _type, f"must be one of {', '.join(TYPES)}"),
    "destination": ("destination", str, ""),
    "fault": ("fault", Fault, "must be the code of a failed verification, as secret_mismatch"),
    "search": ("search", str, ""),
    "from": ("since", _time, TIME_RULE),
    "to": ("until", _time, TIME_RULE),
    "limit": ("limit", limit, LIMIT_RULE),
    "cursor": ("cursor", Cursor.decode, CURSOR_RULE),
}


def parse_job_query(parameters: Mapping[str, str]) -> JobQuery:
    """The jobs that the query string `parameters` ask for. Raises InvalidParameters with every fault at once."""
    return JobQuery(**read(parameters, _READERS, "the list of jobs"))
