"""Deliveries: what becomes of each file of a result set at each destination, and when one is tried again."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from app.domain.collection import is_collection_id, parse_destination_ids
from app.domain.destination import boolean, is_destination_id
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import ADVICE, Fault
from app.domain.listing import (
    ACCOUNT_RULE,
    CURSOR_RULE,
    LIMIT_RULE,
    TIME_RULE,
    Position,
    Reader,
    account_number,
    limit,
    moment,
    read,
    unknown_parameters,
)
from app.domain.result_set import ResultFile
from app.domain.verification import Step, provider_words


class SourceFault(StrEnum):
    """Why a file could not be read at its source; none of it is the customer's fault."""

    NOT_FOUND = "source_not_found"
    UNAVAILABLE = "source_unavailable"
    CHANGED = "source_changed"


SOURCE_TEXTS = {
    SourceFault.NOT_FOUND: "The file is not at its source: the platform that announced it has to put it there.",
    SourceFault.UNAVAILABLE: "The source of the file does not answer, which is our fault: it is tried again.",
    SourceFault.CHANGED: "The file is not the one that was announced, by its size or its SHA-256: the platform that "
    "announced it has to put the right one there, or announce it again under another id.",
}

ATTEMPTS = 9
"""How often a delivery is tried before it is given up."""
# The first pause, and how much longer each next one is: eight of them are 28 hours.
_PAUSE_SECONDS, _GROWTH = 31.0, 3.0
_JITTER = 0.1

# Beside those that may pass without anybody's doing by what a verification says of them: what a destination that was
# proven does not become because of its parameters.
_MAY_PASS = {fault for fault, advice in ADVICE.items() if advice.retryable} | {
    Fault.HOST_NOT_FOUND,
    Fault.CONNECTION_REFUSED,
    Fault.TLS_FAILURE,
    Fault.NOT_A_STORAGE_ENDPOINT,
    Fault.PROVIDER_ERROR,
    Fault.INTERNAL_ERROR,
}
# Destinations that a sentence names.
_NAMED = 5
_OUR_OWN = frozenset({Fault.EGRESS_UNAVAILABLE, Fault.INTERNAL_ERROR, Fault.CLOCK_SKEW})

AnyFault = Fault | SourceFault


class DeliveryState(StrEnum):
    """What becomes of one file at one destination; the words are those of `destination_status`."""

    PENDING = "pending"
    UPLOADING = "uploading"
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


# Of the states of several files, the first of these that one is in is that of all.
_DECISIVE = (
    DeliveryState.UPLOADING,
    DeliveryState.PENDING,
    DeliveryState.FAILED,
    DeliveryState.SKIPPED,
    DeliveryState.OK,
)


def parse_fault(text: str) -> AnyFault:
    """Raises ValueError for what is no fault's code."""
    return SourceFault(text) if text in set(SourceFault) else Fault(text)


def overall(states: Mapping[DeliveryState, int]) -> DeliveryState:
    """The state of a result set at a destination, of how many of its files are in which; OK where it has none."""
    return next((state for state in _DECISIVE if states.get(state)), DeliveryState.OK)


def may_pass(fault: AnyFault) -> bool:
    """Whether the same delivery may succeed later without anybody's doing."""
    return fault in (SourceFault.NOT_FOUND, SourceFault.UNAVAILABLE) or fault in _MAY_PASS


def is_tried_again(fault: AnyFault, attempt: int) -> bool:
    """Whether a delivery whose attempt of this number has failed like this is tried again by itself."""
    return may_pass(fault) and attempt < ATTEMPTS


def blames_destination(fault: AnyFault) -> bool:
    """Whether it says something about the destination, rather than about the source or about us."""
    return isinstance(fault, Fault) and fault not in _OUR_OWN


def pause_before(attempt: int) -> timedelta:
    """How long to wait before the attempt of this number, from 2 on."""
    seconds = _PAUSE_SECONDS * _GROWTH ** (attempt - 2)
    return timedelta(seconds=seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 -- it spreads, no more


ETAG_MOST, VERSION_MOST, REQUEST_ID_MOST = 255, 1024, 128
"""How many characters of each a receipt has room for."""


def kept(said: str | None, most: int) -> str | None:
    """What a store has said, where a receipt, and so a database, has room for it; no store says anything longer."""
    return said if said and len(said) <= most and said.isprintable() else None


@dataclass(frozen=True)
class Refusal:
    """At which step of a delivery the store refused it, and the provider's own code, HTTP status and request id as far
    as the provider gave them; the names are those of a verification's report."""

    step: Step
    provider_code: str | None = None
    status: int | None = None
    request_id: str | None = None

    def as_text(self) -> str:
        """One sentence for a person."""
        said = ", ".join(provider_words(self.provider_code, self.status, self.request_id))
        return f"The step {self.step} failed: {said}." if said else f"The step {self.step} failed."


@dataclass(frozen=True)
class ResultSet:
    """A result set as it is kept; `collection_name` is what the collection was called when it was announced."""

    account: int
    collection: str
    id: int
    collection_name: str
    started_at: datetime
    ended_at: datetime
    created_at: datetime
    files: int


@dataclass(frozen=True)
class Entry:
    """One line of a destination's log."""

    at: datetime
    text: str


@dataclass(frozen=True)
class DestinationStatus:
    """What has become of a result set at one destination, and the last lines of its log, the oldest first."""

    status: DeliveryState
    log: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Delivery:
    """One file on its way to one destination, or there. `key`, `etag`, `version` and `request_id` are the receipt;
    `sent` is how many bytes the store has confirmed so far. `delivered_at` is when the last copy arrived, which the
    receipt is of: of one that is made again, until the next has arrived, the one before. `refusal` has the fields of a
    Refusal, where the store refused the last attempt."""

    id: str
    account: int
    destination: str
    collection: str
    result_set: int
    file: str
    bytes: int
    sha256: str
    state: DeliveryState
    attempts: int
    sent: int
    created_at: datetime
    changed_at: datetime
    due_at: datetime | None = None
    began_at: datetime | None = None
    ended_at: datetime | None = None
    fault: str | None = None
    message: str | None = None
    refusal: Mapping[str, Any] | None = None
    key: str | None = None
    etag: str | None = None
    version: str | None = None
    request_id: str | None = None
    delivered_at: datetime | None = None
    worker: str | None = None


@dataclass(frozen=True)
class Claimed:
    """A delivery that is to be dispatched now, as its attempt `attempt`, and what is known of its destination: None for
    `sealed` and what comes with it where that is gone. `key` is None until the first attempt chooses it; `upload` is,
    sealed, what an earlier attempt may have left unfinished at the store. `repeated` says that there was an earlier one
    under this key."""

    id: str
    lease: str
    attempt: int
    account: int
    destination: str
    collection: str
    collection_name: str
    result_set: int
    file: ResultFile
    key: str | None
    upload: str | None = None
    account_name: str = ""
    repeated: bool = False
    enabled: bool = False
    type: str = ""
    parameters: Mapping[str, str] | None = None
    sealed: str | None = None
    verification: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """What is to be noted of the dispatch `lease` of a delivery: the `state` that it is in from `at` on, and the line
    for the destination's log, if any.

    A PENDING one is due again at `due_at`; where it was `returned`, the attempt does not count. `upload` is, sealed,
    what is unfinished at the store. `failing` says that the destination is to be marked. `account` names the owner, for
    the logs.
    """

    delivery: str
    lease: str
    state: DeliveryState
    at: datetime
    text: str = ""
    sent: int = 0
    worker: str | None = None
    leased_until: datetime | None = None
    due_at: datetime | None = None
    returned: bool = False
    fault: str | None = None
    message: str | None = None
    refusal: Refusal | None = None
    etag: str | None = None
    version: str | None = None
    request_id: str | None = None
    upload: str | None = None
    failing: bool = False
    account: str = ""


@dataclass(frozen=True)
class DeliveryQuery:
    """Which deliveries are asked for, newest first: those announced from `since` on and before `until`."""

    account: int | None = None
    state: DeliveryState | None = None
    destination: str | None = None
    collection: str | None = None
    fault: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50
    cursor: Position | None = None


def _destination(text: str) -> str:
    if not is_destination_id(text):
        raise ValueError
    return text


def _collection(text: str) -> str:
    if not is_collection_id(text):
        raise ValueError
    return text


_READERS: dict[str, Reader] = {
    "account": ("account", account_number, ACCOUNT_RULE),
    "state": ("state", DeliveryState, f"must be one of {', '.join(DeliveryState)}"),
    "destination": ("destination", _destination, "must be the id of a destination"),
    "collection": ("collection", _collection, "must be the id of a collection"),
    "fault": ("fault", parse_fault, "must be the code of a delivery that failed, as secret_mismatch"),
    "from": ("since", moment, TIME_RULE),
    "to": ("until", moment, TIME_RULE),
    "limit": ("limit", limit, LIMIT_RULE),
    "cursor": ("cursor", Position.decode, CURSOR_RULE),
}


def parse_delivery_query(parameters: Mapping[str, str]) -> DeliveryQuery:
    """The deliveries that a query string asks for. Raises InvalidParameters."""
    return DeliveryQuery(**read(parameters, _READERS, "the list of deliveries"))


@dataclass(frozen=True)
class Redelivery:
    """Which deliveries are to be made again, of those that have ended: of these `destinations`, or of all where it is
    None; only those that failed; and of result sets announced from `since` on and before `until`."""

    destinations: tuple[str, ...] | None = None
    only_failed: bool = False
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Redelivered:
    """What came of a redelivery of all that has ended, or of what failed: how many deliveries are made again, and by
    destination why those to it stay as they are."""

    count: int
    left: Mapping[str, str]
    only_failed: bool

    def message(self) -> str:
        """The sentences that say so."""
        made = {0: "Nothing is delivered again.", 1: "1 delivery is made again."}
        said = [made.get(self.count, f"{self.count} deliveries are made again.")]
        named = list(self.left.items())[:_NAMED]
        said += [f"Those to destination {each} stay as they are, since {why}." for each, why in named]
        if others := len(self.left) - len(named):
            said.append(f"So do those to {others} other destinations.")
        if not self.count and not self.left:
            said.append(f"Nothing of what was asked for has {'failed' if self.only_failed else 'ended'}.")
        return " ".join(said)


def parse_redelivery(body: Mapping[str, Any], known: tuple[str, ...]) -> Redelivery:
    """What a call asks to be delivered again; it takes the parameters that are `known`. Raises InvalidParameters with
    every fault at once."""
    faults = unknown_parameters(body, known, "a redelivery")
    destinations, only_failed, times = None, False, dict.fromkeys(("from", "to"))
    if body.get("destination_ids") not in (None, ""):
        destinations = parse_destination_ids(body["destination_ids"], faults)
    try:
        only_failed = boolean(body["only_failed"]) if body.get("only_failed") not in (None, "") else False
    except ValueError:
        faults.append(ParameterFault("only_failed", Fault.INVALID_PARAMETER, "only_failed must be true or false."))
    for name in times:
        if body.get(name) in (None, ""):
            continue
        try:
            times[name] = moment(body[name])
        except (ValueError, TypeError):
            faults.append(ParameterFault(name, Fault.INVALID_PARAMETER, f"{name} {TIME_RULE}."))
    if faults:
        raise InvalidParameters(faults)
    return Redelivery(destinations, only_failed, times["from"], times["to"])
