"""The audit log in the database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, cast

from sqlalchemy import ColumnElement, Connection, Row, Table, bindparam, insert, select

from app.domain.audit import Action, AuditPage, AuditQuery, Author, AuthorKind, Entry, author
from app.store.engine import Transactions
from app.store.tables import AccountRow, AuditRow

_AUDIT, _ACCOUNTS = cast(Table, AuditRow.__table__), cast(Table, AccountRow.__table__)

SETTLED = timedelta(seconds=30)
"""For how long an id that is missing between two others may belong to a transaction that is not committed yet. It is
the last thing that a transaction does before its commit, so that this is far more than it takes."""
_LOOKED_THROUGH = 1000
"""How many ids are looked through for one that is missing."""


class Note(Protocol):
    """Writes an entry into a transaction, about the account with this number; what the transaction `found` joins its
    details."""

    def __call__(self, connection: Connection, account: int, **found: Any) -> None: ...


_GIVEN = ("at", "action", "object", "author", "author_key", "request", "details")
_INSERT = insert(_AUDIT).from_select(
    ["account_id", "account", *_GIVEN],
    select(
        _ACCOUNTS.c.id, _ACCOUNTS.c.name, *(bindparam(f"new_{name}", type_=_AUDIT.c[name].type) for name in _GIVEN)
    ).where(_ACCOUNTS.c.id == bindparam("of_account")),
)


def noted(action: Action, object_id: str | None = None, **details: Any) -> Note:
    """What writes an entry about `object_id` of an account into a transaction: the last thing before its commit. Who is
    at work and when is looked at now, since the transaction may be carried out by another thread."""
    by = author()
    at = datetime.now(UTC)

    def write(connection: Connection, account: int, **found: Any) -> None:
        given = (at, action, object_id, by.kind, by.key, by.request, {**details, **found})
        values = {f"new_{name}": value for name, value in zip(_GIVEN, given, strict=True)}
        connection.execute(_INSERT, {**values, "of_account": account})

    return write


class AuditLog(Transactions):
    """Reads the log; it is written where things are done."""

    async def page(self, query: AuditQuery) -> AuditPage:
        """The entries that `query` asks for. Those that are followed with `after` come in the order of their ids, and
        none before one that may still come. Raises Unavailable."""

        def look(connection: Connection) -> tuple[list[Row[Any]], int]:
            latest = _settled(connection, query.after)
            rows = select(_AUDIT).where(*_asked(query, latest)).limit(query.limit + 1)
            order = _AUDIT.c.id.desc() if query.after is None else _AUDIT.c.id.asc()
            return list(connection.execute(rows.order_by(order))), latest

        rows, latest = await self.read(look, brief=False)
        entries = tuple(_entry(row) for row in rows[: query.limit])
        more = len(rows) > query.limit
        if query.after is None:
            return AuditPage(entries, entries[-1].id if more else None, latest)
        return AuditPage(entries, None, entries[-1].id if more else latest)


def _settled(connection: Connection, after: int | None) -> int:
    """The id up to which every entry, `after` that one, is there or will never be. An id is given before its entry is
    committed, so that a later one may be seen first; one that is missing for SETTLED was rolled back."""
    ids = select(_AUDIT.c.id, _AUDIT.c.at)
    if after is None:
        rows = list(connection.execute(ids.order_by(_AUDIT.c.id.desc()).limit(_LOOKED_THROUGH)))[::-1]
        latest = rows[0].id if rows else 0
    else:
        rows = list(connection.execute(ids.where(_AUDIT.c.id > after).order_by(_AUDIT.c.id).limit(_LOOKED_THROUGH)))
        latest = after
    young = datetime.now(UTC) - SETTLED
    for row in rows:
        if row.id > latest + 1 and row.at > young:
            break
        latest = row.id
    return int(latest)


def _asked(query: AuditQuery, latest: int) -> Iterator[ColumnElement[bool]]:
    if query.account is not None:
        yield _AUDIT.c.account == query.account
    if query.action is not None:
        yield _AUDIT.c.action == query.action
    if query.object is not None:
        yield _AUDIT.c.object == query.object
    if query.since is not None:
        yield _AUDIT.c.at >= query.since
    if query.until is not None:
        yield _AUDIT.c.at < query.until
    if query.before is not None:
        yield _AUDIT.c.id < query.before
    if query.after is not None:
        yield _AUDIT.c.id > query.after
        yield _AUDIT.c.id <= latest


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        at=row.at,
        action=Action(row.action),
        account=row.account_id,
        account_name=row.account,
        object=row.object,
        author=Author(AuthorKind(row.author), row.author_key, row.request),
        details=row.details,
    )
