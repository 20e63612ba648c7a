"""What listings on the query string have in common: how a parameter is read, and where a page goes on."""

import base64
import re
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import Fault
from app.domain.types import printable

LIMIT = 100
TIME_RULE = "must be a time with its zone, as in 2026-01-31T12:00:00Z"
LIMIT_RULE = f"must be a whole number from 1 to {LIMIT}"
# As the database has it.
_LARGEST_ACCOUNT = 2**31 - 1
ACCOUNT_RULE = "must be the name of an account, or its number"
PAGE_RULE = "must be a whole number from 1"
CURSOR_RULE = "must be the next_cursor of an answer"

# The last microsecond of the calendar.
_LAST = 253_402_300_799_999_999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Reader = tuple[str, Callable[[str], Any], str]
"""The field that a parameter sets, how its text is read (a ValueError refuses it), and the rule that a refusal says."""


def encode_cursor(at: int, identity: str) -> str:
    """Where a page ended, as a client hands it back: after the entry of this time and id."""
    return base64.urlsafe_b64encode(f"{at} {identity}".encode()).decode().rstrip("=")


def decode_cursor(text: str) -> tuple[int, str]:
    """Raises ValueError for what `encode_cursor` did not return."""
    at, _, identity = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(" ")
    return whole_number(at), identity


class Position(NamedTuple):
    """Where a listing, newest first, goes on: after the entry with this id, of this time, in microseconds."""

    at: int
    id: str

    @property
    def time(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.at)

    @classmethod
    def after(cls, at: datetime, identity: str) -> Self:
        return cls((at - _EPOCH) // timedelta(microseconds=1), identity)

    def encode(self) -> str:
        """The position as a client hands it back."""
        return encode_cursor(self.at, self.id)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises ValueError for what `encode` did not return."""
        position = cls(*decode_cursor(text))
        if position.at > _LAST or not re.fullmatch("[0-9A-F]{16}", position.id, re.ASCII):
            raise ValueError
        return position


def whole_number(text: str) -> int:
    """Raises ValueError for what is no whole number of at most 18 digits."""
    if not re.fullmatch("[0-9]{1,18}", text, re.ASCII):
        raise ValueError
    return int(text)


def account_number(text: str) -> int:
    """The number of an account, whether there is one or not. Raises ValueError."""
    if whole_number(text) > _LARGEST_ACCOUNT:
        raise ValueError
    return int(text)


def limit(text: str) -> int:
    """How many entries a page may have. Raises ValueError."""
    if not 1 <= whole_number(text) <= LIMIT:
        raise ValueError
    return int(text)


def moment(text: str) -> datetime:
    """A time with its zone, after 1970 and before the year 9999. Raises ValueError."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None or not 1970 < at.year < 9999:
        raise ValueError
    return at


def page_number(text: str) -> int:
    """Raises ValueError."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text, re.ASCII):
        raise ValueError
    return int(text)


def parse_page(text: str, faults: list[ParameterFault]) -> int:
    """The number of a page; one that is none is added to `faults`."""
    try:
        return page_number(text)
    except ValueError:
        faults.append(ParameterFault("page", Fault.INVALID_PARAMETER, f"page {PAGE_RULE}."))
        return 1


def page_counts(total: int, number: int, size: int, shown: int) -> dict[str, int]:
    """What the page of this number says beside its `shown` entries, of `total`, where a page has `size`."""
    return {
        "total_count": total, "total_pages": -(-total // size), "current_page": number, "count_this_page": shown,
    }  # fmt: skip


def unknown_parameters(given: Iterable[str], known: Container[str], of: str) -> list[ParameterFault]:
    """A fault for each name that is `given` and not `known`."""
    names = [printable(name) for name in given if name not in known]
    return [ParameterFault(name, "unknown_parameter", f"{name} is not a parameter of {of}.") for name in names]


def read(parameters: Mapping[str, str], readers: Mapping[str, Reader], of: str) -> dict[str, Any]:
    """The fields that `parameters` set. Raises InvalidParameters with every fault at once."""
    faults, fields = [], {}
    for name, text in parameters.items():
        # A form with a field for each sends those that nobody filled in too.
        if name in readers and not text:
            continue
        if name not in readers:
            message = f"{printable(name)} is not a parameter of {of}."
            faults.append(ParameterFault(printable(name), "unknown_parameter", message))
            continue
        field, parse, rule = readers[name]
        try:
            fields[field] = parse(text)
        except (ValueError, OverflowError):
            faults.append(ParameterFault(name, Fault.INVALID_PARAMETER, f"{name} {rule}."))
    if faults:
        raise InvalidParameters(faults)
    return fields
