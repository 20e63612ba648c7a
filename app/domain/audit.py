"""The audit log: who changed what or had what done, and when; and who is at work in this context."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.domain.destination import timestamp
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import Fault
from app.domain.listing import LIMIT_RULE, TIME_RULE, Reader, limit, moment, read, whole_number

DEFAULT_LIMIT = 50


class Action(StrEnum):
    """What was done."""

    ACCOUNT_CREATED = "account_created"
    ACCOUNT_CHANGED = "account_changed"
    ACCOUNT_DELETED = "account_deleted"
    KEY_CREATED = "key_created"
    KEY_IMPORTED = "key_imported"
    KEY_REVOKED = "key_revoked"
    DESTINATION_CREATED = "destination_created"
    DESTINATION_CHANGED = "destination_changed"
    DESTINATION_ENABLED = "destination_enabled"
    DESTINATION_DISABLED = "destination_disabled"
    DESTINATION_DELETED = "destination_deleted"
    COLLECTION_STORED = "collection_stored"
    COLLECTION_DELETED = "collection_deleted"
    RESULT_SET_ANNOUNCED = "result_set_announced"
    RESULT_SET_REDELIVERED = "result_set_redelivered"
    DESTINATION_REDELIVERED = "destination_redelivered"
    LEFTOVER_RETRIED = "leftover_retried"
    LEFTOVER_FORGOTTEN = "leftover_forgotten"
    NOTIFICATION_RETRIED = "notification_retried"
    NOTIFICATION_FORGOTTEN = "notification_forgotten"


class AuthorKind(StrEnum):
    """Whose doing it was."""

    OPERATOR = "operator"
    ACCOUNT = "account"
    COMMAND = "command"


@dataclass(frozen=True)
class Author:
    """Who does something: an account by one of its keys, whose id `key` is; the operator; or a command of `dropoff`
    that works on the database. `request` is the id of the request that asks for it."""

    kind: AuthorKind
    key: str | None = None
    request: str | None = None


# Where nobody has said who is at work, no request asked for it.
_NOBODY = Author(AuthorKind.COMMAND)
_AUTHOR = ContextVar("author", default=_NOBODY)


def act_as(author: Author) -> None:
    """Have what is done from here on, in this task and those that it begins, put down to `author`."""
    _AUTHOR.set(author)


def author() -> Author:
    """Who is at work."""
    return _AUTHOR.get()


@dataclass(frozen=True)
class Entry:
    """One thing that was done. `object` is the id of the destination, collection, key, leftover or notification, and of
    a result set that of its collection; `account` its account's number and `account_name` what that was called;
    `details` never has a secret."""

    id: int
    at: datetime
    action: Action
    account: int
    account_name: str
    object: str | None
    author: Author
    details: Mapping[str, Any]

    def as_answer(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "at": timestamp(self.at),
            "action": self.action,
            "account": self.account,
            "account_name": self.account_name,
            "object": self.object,
            "author": self.author.kind,
            "author_key": self.author.key,
            "request": self.author.request,
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class AuditQuery:
    """Which entries are asked for, the newest first; with `after`, those after the one with that id, the oldest
    first."""

    account: str | None = None
    action: Action | None = None
    object: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = DEFAULT_LIMIT
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class AuditPage:
    """`before` is where the next page of older ones goes on, None at the end; `latest` is up to where nothing can be
    missing any more, from which on the log is followed."""

    entries: tuple[Entry, ...]
    before: int | None
    latest: int

    def as_answer(self) -> dict[str, Any]:
        return {
            "entries": [entry.as_answer() for entry in self.entries],
            "next_cursor": self.before,
            "latest": self.latest,
        }


_READERS: Mapping[str, Reader] = {
    "account": ("account", str, ""),
    "action": ("action", Action, f"must be one of {', '.join(Action)}"),
    "object": ("object", str, ""),
    "from": ("since", moment, TIME_RULE),
    "to": ("until", moment, TIME_RULE),
    "limit": ("limit", limit, LIMIT_RULE),
    "cursor": ("before", whole_number, "must be the next_cursor of an answer"),
    "after": ("after", whole_number, "must be the latest of an answer, or the id of an entry"),
}


def parse_audit_query(parameters: Mapping[str, str]) -> AuditQuery:
    """What a query string asks for. Raises InvalidParameters with every fault at once."""
    query = AuditQuery(**read(parameters, _READERS, "the audit log"))
    if query.before is not None and query.after is not None:
        message = "after goes forward and cursor back: send one of them."
        raise InvalidParameters([ParameterFault("after", Fault.INVALID_PARAMETER, message)])
    return query
