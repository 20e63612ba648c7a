"""Destinations in the database; every query names the account, so none sees another's."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    bindparam,
    delete,
    exc,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.audit import Action
from app.domain.deletes import DeletePolicy
from app.domain.delivery import blames_destination
from app.domain.destination import (
    PAGE_SIZE,
    Destination,
    Page,
    Query,
    SortBy,
    Standing,
    is_destination_id,
    timestamp,
)
from app.domain.errors import (
    DestinationChanged,
    DestinationInUse,
    DestinationLimitReached,
    DestinationNotFound,
    OutcomeUnknown,
    Unauthorized,
)
from app.domain.faults import ADVICE
from app.domain.notification import EventType
from app.domain.verification import Report
from app.store.audit import noted
from app.store.engine import UNKNOWN, Transactions, rows_changed
from app.store.notifications import destination_event, record
from app.store.outbox import mark_failing, mark_recovered, recover
from app.store.tables import AccountRow, CollectionDestinationRow, DestinationRow

_DESTINATIONS, _ACCOUNTS = cast(Table, DestinationRow.__table__), cast(Table, AccountRow.__table__)
_COLUMNS = _DESTINATIONS.c

_SORTED = {SortBy.CREATED: _COLUMNS.created_at, SortBy.NAME: _COLUMNS.folded, SortBy.TYPE: _COLUMNS.type}

# Built once: to build a statement costs more than to carry it out. A parameter may not be called as a column is.
_THE_ACCOUNT = _ACCOUNTS.c.id == bindparam("account")
_THE_ONE = (_COLUMNS.account_id == bindparam("account"), _COLUMNS.id == bindparam("destination"))
_USED_OF = select(_ACCOUNTS.c.used, _ACCOUNTS.c.destination_limit).where(_THE_ACCOUNT)
_STANDING = select(
    *(_ACCOUNTS.c.used, _ACCOUNTS.c.delete_policy, _ACCOUNTS.c.name),
    *(_ACCOUNTS.c.destination_limit, _ACCOUNTS.c.verification_limit),
).where(_THE_ACCOUNT)
_LOCK_ACCOUNT = select(_ACCOUNTS.c.id).where(_THE_ACCOUNT).with_for_update()
_IS_THERE = select(_ACCOUNTS.c.id).where(_THE_ACCOUNT, _ACCOUNTS.c.deleted_at.is_(None))
_INCREMENT = (
    update(_ACCOUNTS)
    .where(_THE_ACCOUNT, _ACCOUNTS.c.used < bindparam("most"), _ACCOUNTS.c.deleted_at.is_(None))
    .values(used=_ACCOUNTS.c.used + 1)
)
_DECREMENT = update(_ACCOUNTS).where(_THE_ACCOUNT).values(used=_ACCOUNTS.c.used - 1)
_INSERT = insert(_DESTINATIONS)
_USED_BY = (
    select(func.count())
    .select_from(CollectionDestinationRow)
    .where(CollectionDestinationRow.destination_id == _COLUMNS.id)
    .correlate(_DESTINATIONS)
    .scalar_subquery()
    .label("used_by")
)
_GET = select(_DESTINATIONS, _USED_BY).where(*_THE_ONE)
_GET_ANY = select(_DESTINATIONS, _USED_BY).where(_COLUMNS.id == bindparam("destination"))
_EXISTS = select(_COLUMNS.id).where(*_THE_ONE)
# Once whoever is changing or deleting it has ended.
_LOCK = select(_DESTINATIONS).where(*_THE_ONE).with_for_update()
_CHANGE = update(_DESTINATIONS).where(*_THE_ONE, _COLUMNS.version == bindparam("expected_version"))
_DELETE = delete(_DESTINATIONS).where(*_THE_ONE)

_NAMED_IN_USE = 5
"""How many of the collections that use a destination are named."""
_NOT_FOUND = "There is no destination with this id in this account."
_CHANGED = "The destination was changed by another call meanwhile: read it again, and make this call once more."
# Deeper pages are found by counting the rows before them.
_BRIEF_PAGES = 100


class DestinationRepository(Transactions):
    """The only way to the destinations. Every method raises Unavailable while the database does not answer, and those
    that change something OutcomeUnknown where it does not answer from the commit on."""

    def __init__(self, engine: AsyncEngine, *, notify: bool = False) -> None:
        """`notify` says that the platform is told of what happens."""
        super().__init__(engine)
        self._notify = notify

    async def standing(self, account: int) -> Standing:
        """How many destinations the account has, what is accepted of it, and its name."""
        found = await self.read(lambda connection: connection.execute(_STANDING, {"account": account}).one_or_none())
        used, policy, name, destinations, verifications = found or (0, None, "", None, None)
        return Standing(used, DeletePolicy(policy) if policy else None, name, destinations, verifications)

    async def add(self, destination: Destination, sealed: str, limit: int) -> Destination:
        """Store a new destination, and return what is stored: the account may have one with its id already, of an
        earlier attempt of the same request. Raises DestinationLimitReached where the account has `limit` already."""
        try:
            await self._insert(destination, sealed, limit)
        except (DestinationLimitReached, exc.IntegrityError):
            with contextlib.suppress(DestinationNotFound):
                return await self.get(destination.account, destination.id)
            raise
        return destination

    async def _insert(self, destination: Destination, sealed: str, limit: int) -> None:
        which, row = _which(destination.account, destination.id), {**_columns(destination), "sealed": sealed}
        note = noted(
            Action.DESTINATION_CREATED, destination.id,
            name=destination.name, type=destination.type, enabled=destination.enabled,
        )  # fmt: skip

        def insert(connection: Connection) -> None:
            counted = connection.execute(_INCREMENT, {"account": destination.account, "most": limit})
            if rows_changed(counted) == 0:
                if connection.scalar(_IS_THERE, which) is None:
                    raise Unauthorized("The account of this key was deleted meanwhile: nothing was created.")
                raise DestinationLimitReached(
                    f"This account has its {limit} destinations already: delete one, or ask for a higher limit."
                )
            connection.execute(_INSERT, row)
            note(connection, destination.account)

        def inserted(connection: Connection) -> bool:
            # The insert changed the account's row, and has it until it ends.
            connection.scalar(_LOCK_ACCOUNT, {"account": destination.account})
            return connection.scalar(_EXISTS, which) is not None

        await self.write(insert, inserted)

    async def get(self, account: int | None, destination: str) -> Destination:
        """Raises DestinationNotFound where this account has no such destination, whoever else may have it; that of any
        account where `account` is None."""
        return (await self.with_credentials(account, destination))[0]

    async def with_credentials(self, account: int | None, destination: str) -> tuple[Destination, str]:
        """As `get`, and the destination's sealed credentials."""
        which, rows = _which(account, destination), _GET_ANY if account is None else _GET
        row = await self.read(lambda connection: connection.execute(rows, which).first())
        if row is None:
            raise DestinationNotFound(_NOT_FOUND)
        return _destination(row), row.sealed

    async def change(
        self,
        destination: Destination,
        sealed: str,
        *,
        expected_version: int,
        verified: bool,
        changed: Collection[str] = (),
    ) -> None:
        """Store `destination` over the one whose version is `expected_version`; its verification only where it was
        `verified` by this change: otherwise the stored one stays, which may be newer than that of `destination`. The
        parameters that it has `changed` go into the audit log by name.

        Raises DestinationNotFound where it is gone, DestinationChanged where it has another version by now.
        """
        values = {**_columns(destination), "sealed": sealed}
        if not verified:
            del values["verification"], values["verified_at"]

        def is_ours(row: Row[Any]) -> bool:
            return (row.version, row.updated_at, row.sealed) == (destination.version, destination.updated_at, sealed)

        note = noted(_change(destination, changed), destination.id, changed=sorted(changed))

        def then(connection: Connection) -> None:
            if verified:
                # It may lead elsewhere now.
                self._recovered(connection, destination.id, destination.updated_at, new_keys=True)
            note(connection, destination.account)

        await self._set(destination.account, destination.id, expected_version, values, is_ours, then)

    async def verified(
        self, account: int, destination: str, report: Report, at: datetime, *, expected_version: int
    ) -> None:
        """Store `report` as the verification of the destination whose version is `expected_version`, and, where it
        passed, `at` as its time; nothing else changes, not even the version, but that a destination fails from `at` on
        where its customer has to mend it. Raises what `change` does."""
        values: dict[str, Any] = {"verification": report.as_answer()}
        if report.ok:
            values["verified_at"] = at

        def is_ours(row: Row[Any]) -> bool:
            return bool(row.version == expected_version and row.verification == values["verification"])

        def then(connection: Connection) -> None:
            if report.ok:
                self._recovered(connection, destination, at, new_keys=False)
            elif report.code and blames_destination(report.code) and not ADVICE[report.code].retryable:
                self._failing(connection, destination, at, report.code, report.message)

        await self._set(account, destination, expected_version, values, is_ours, then)

    def _recovered(self, connection: Connection, destination: str, at: datetime, *, new_keys: bool) -> None:
        """Note that the destination passed a verification at `at`; what it missed is delivered again if it is enabled,
        under `new_keys` where it may lead elsewhere now."""
        since = mark_recovered(connection, destination)
        count = recover(connection, destination, at, new_keys=new_keys)
        if self._notify and since:
            data = {"failing_since": timestamp(since), "redelivered": count}
            event = destination_event(connection, EventType.DESTINATION_RECOVERED, destination, at, **data)
            record(connection, event)

    def _failing(self, connection: Connection, destination: str, at: datetime, code: str, message: str) -> None:
        """Note that the destination fails since `at`, and why, if it was not noted before."""
        if mark_failing(connection, destination, at, code, message) and self._notify:
            data = {"failing_since": timestamp(at), "fault": code, "message": message}
            record(connection, destination_event(connection, EventType.DESTINATION_FAILING, destination, at, **data))

    async def _set(
        self,
        account: int,
        destination: str,
        expected_version: int,
        values: Mapping[str, Any],
        is_ours: Callable[[Row[Any]], bool],
        then: Callable[[Connection], None],
    ) -> None:
        """`is_ours` tells a row with these values from one that another call changed; `then` is done in the same
        transaction, once they are set."""
        which = _which(account, destination)

        def set_values(connection: Connection) -> None:
            change = _CHANGE.values(**values)
            if rows_changed(connection.execute(change, {**which, "expected_version": expected_version})):
                then(connection)
                return
            if connection.scalar(_EXISTS, which) is None:
                raise DestinationNotFound(_NOT_FOUND)
            raise DestinationChanged(_CHANGED)

        def changed(connection: Connection) -> bool:
            row = connection.execute(_LOCK, which).first()
            if row is None:
                raise DestinationNotFound(_NOT_FOUND)
            if is_ours(row):
                return True
            if row.version == expected_version:
                return False
            if row.version == expected_version + 1:
                raise DestinationChanged(_CHANGED)
            # Changed more than once since: the first of them may have been this one.
            raise OutcomeUnknown(UNKNOWN)

        await self.write(set_values, changed)

    async def page(self, account: int | None, query: Query) -> Page:
        """The page of the account's destinations that `query` asks for, or of all accounts'; empty past the end."""
        parameters = {"account": account, "before": (query.page - 1) * PAGE_SIZE}
        rows = _PAGES[account is None, query.sort_by, query.descending]
        count: Select[Any] | None = _COUNT_ALL if account is None else None
        asked = list(_asked(query))
        if asked:
            rows, count = rows.where(*asked), (_COUNT if count is None else count).where(*asked)

        def look(connection: Connection) -> tuple[int, int, int | None, list[Row[Any]]]:
            used, limit = connection.execute(_USED_OF, parameters).one_or_none() or (0, None)
            matching = used if count is None else connection.scalar(count, parameters) or 0
            return used, matching, limit, list(connection.execute(rows, parameters))

        used, matching, limit, listed = await self.read(look, brief=count is None and query.page <= _BRIEF_PAGES)
        return Page(tuple(map(_destination, listed)), matching=matching, used=used, limit=limit)

    async def failing(self, most: int) -> tuple[list[tuple[Destination, str]], int]:
        """At most `most` of the destinations of all accounts that fail, each with its account's name, those that began
        last first; and how many there are."""
        fails = _COLUMNS.failing_since.is_not(None)
        rows = select(_DESTINATIONS, _USED_BY, _ACCOUNTS.c.name.label("account_name")).where(fails).limit(most)
        listed = rows.join(_ACCOUNTS, _ACCOUNTS.c.id == _COLUMNS.account_id)
        newest = listed.order_by(_COLUMNS.failing_since.desc(), _COLUMNS.id.desc())

        def look(connection: Connection) -> tuple[list[tuple[Destination, str]], int]:
            found = [(_destination(row), row.account_name) for row in connection.execute(newest)]
            return found, connection.scalar(_COUNT_ALL.where(fails)) or 0

        return await self.read(look, brief=False)

    async def delete(self, account: int, destination: str) -> None:
        """Raises DestinationNotFound where this account has no such destination, and DestinationInUse where collections
        use it."""
        which, note = _which(account, destination), noted(Action.DESTINATION_DELETED, destination)

        def remove(connection: Connection) -> None:
            if rows_changed(connection.execute(_DELETE, which)) == 0:
                raise DestinationNotFound(_NOT_FOUND)
            connection.execute(_DECREMENT, {"account": account})
            note(connection, account)

        try:
            await self.write(remove, lambda connection: connection.execute(_LOCK, which).first() is None)
        except exc.IntegrityError:
            # A collection refers to it: as of now, or of a moment ago.
            raise DestinationInUse(await self._users(destination)) from None

    async def _users(self, destination: str) -> str:
        """The sentence that names the collections that use `destination`."""
        of = CollectionDestinationRow.collection_id
        using = select(of).where(CollectionDestinationRow.destination_id == destination).order_by(of)
        async with self.reading() as session:
            ids = (await session.scalars(using.limit(_NAMED_IN_USE + 1))).all()
        named = ", ".join(ids[:_NAMED_IN_USE]) + (" and others" if len(ids) > _NAMED_IN_USE else "")
        return f"Collections use this destination: take it out of them first ({named or 'one that was just deleted'})."

    async def enabled(self) -> int:
        """How many destinations of all accounts are enabled."""
        count = select(func.count()).select_from(DestinationRow).where(DestinationRow.enabled)
        async with self.reading() as session:
            return await session.scalar(count) or 0

    async def next_to_check(self, before: datetime, now: datetime) -> tuple[int, str, str] | None:
        """The account, its name, and the id of the enabled destination that was neither checked nor verified since
        `before`, and for the longest time; it counts as checked at `now`, so that nobody else takes it. None where
        there is none."""
        last = func.coalesce(DestinationRow.checked_at, DestinationRow.verified_at, DestinationRow.created_at)
        due = (DestinationRow.enabled, last < before, func.coalesce(DestinationRow.verified_at, last) < before)
        oldest = select(DestinationRow.id).where(*due).order_by(last, DestinationRow.id).limit(1)
        taken = (
            update(DestinationRow)
            .where(DestinationRow.id.in_(oldest.with_for_update(skip_locked=True)))
            .values(checked_at=now)
            .returning(DestinationRow.account_id, DestinationRow.id)
            .execution_options(synchronize_session=False)
        )
        async with self.transaction() as session:
            row = (await session.execute(taken)).one_or_none()
            if row is None:
                return None
            account, destination = row
            name = await session.scalar(select(_ACCOUNTS.c.name).where(_ACCOUNTS.c.id == account))
            return account, str(name), destination


def _asked(query: Query) -> Iterator[ColumnElement[bool]]:
    """What those that `query` asks for have in common, beside their account."""
    if query.search_term:
        yield _COLUMNS.folded.contains(query.search_term.casefold(), autoescape=True)
    if query.failing is not None:
        yield _COLUMNS.failing_since.is_not(None) if query.failing else _COLUMNS.failing_since.is_(None)


def _pages(column: ColumnElement[Any], *, of_all: bool, descending: bool) -> Select[Any]:
    """The pages of an account's destinations, or of all, in the order of `column`; ties go by the id."""
    order = [each.desc() if descending else each.asc() for each in (column, _COLUMNS.id)]
    pages = select(_DESTINATIONS, _USED_BY).order_by(*order).limit(PAGE_SIZE).offset(bindparam("before"))
    return pages if of_all else pages.where(_COLUMNS.account_id == bindparam("account"))


_PAGES = {
    (of_all, sort_by, descending): _pages(column, of_all=of_all, descending=descending)
    for sort_by, column in _SORTED.items()
    for of_all in (False, True)
    for descending in (False, True)
}
_COUNT_ALL = select(func.count()).select_from(_DESTINATIONS)
_COUNT = _COUNT_ALL.where(_COLUMNS.account_id == bindparam("account"))


def _change(destination: Destination, changed: Collection[str]) -> Action:
    """What was done to `destination` by a change of these parameters."""
    if "enabled" not in changed:
        return Action.DESTINATION_CHANGED
    return Action.DESTINATION_ENABLED if destination.enabled else Action.DESTINATION_DISABLED


def _which(account: int | None, destination: str) -> dict[str, Any]:
    """The parameters of _THE_ONE. Raises DestinationNotFound for what is no id: not every text can be sent to a
    database."""
    if not is_destination_id(destination):
        raise DestinationNotFound(_NOT_FOUND)
    return {"account": account, "destination": destination}


def _columns(destination: Destination) -> dict[str, Any]:
    return {
        "id": destination.id,
        "account_id": destination.account,
        "name": destination.name,
        "folded": destination.name.casefold(),
        "type": destination.type,
        "enabled": destination.enabled,
        "parameters": dict(destination.parameters),
        "version": destination.version,
        "created_at": destination.created_at,
        "updated_at": destination.updated_at,
        "verified_at": destination.verified_at,
        "verification": destination.verification,
    }


def _destination(row: Row[Any]) -> Destination:
    return Destination(
        id=row.id,
        account=row.account_id,
        name=row.name,
        type=row.type,
        enabled=row.enabled,
        parameters=row.parameters,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        verified_at=row.verified_at,
        verification=row.verification,
        used_by=row.used_by,
        failing_since=row.failing_since,
        failing=row.failing,
    )
