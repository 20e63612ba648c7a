"""Result sets in the database, with what has become of them: the side of the outbox that is shown."""

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    exc,
    exists,
    func,
    insert,
    or_,
    select,
    true,
)
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.audit import Action
from app.domain.collection import PAGE_SIZE
from app.domain.delivery import (
    Delivery,
    DeliveryQuery,
    DeliveryState,
    DestinationStatus,
    Entry,
    Redelivered,
    Redelivery,
    ResultSet,
    overall,
)
from app.domain.destination import timestamp
from app.domain.errors import (
    CollectionNotFound,
    DeliveryNotFound,
    InvalidParameters,
    ParameterFault,
    ResultSetDiffers,
    ResultSetNotFound,
)
from app.domain.faults import Fault
from app.domain.listing import Position
from app.domain.result_set import ResultSetDraft
from app.store.audit import Note, noted
from app.store.engine import Transactions, rows_changed
from app.store.outbox import ended, redeliver
from app.store.tables import (
    FILE_OF_DELIVERY,
    SET_OF_DELIVERY,
    CollectionDestinationRow,
    CollectionRow,
    DeliveryLogRow,
    DeliveryRow,
    DestinationRow,
    ResultFileRow,
    ResultSetRow,
)

LOG_LINES = 20
"""How many lines of a destination's log are shown with a result set."""
COUNTED = 10_000
"""How many deliveries in one state are counted at most."""
_ID = re.compile("[0-9A-F]{16}")
_DISABLED = "The destination is disabled, so that it gets none of this result set."


class ResultSetRepository(Transactions):
    """Every method raises Unavailable while the database does not answer; each may be repeated."""

    async def add(self, account: int, collection: str, draft: ResultSetDraft, now: datetime) -> tuple[ResultSet, bool]:
        """Store the result set with one delivery for each file and destination, all of it or nothing, and whether that
        was done now: it may have been announced before. Raises CollectionNotFound, and ResultSetDiffers where another
        was announced under its id."""
        try:
            return await self._added(account, collection, draft, now)
        except exc.IntegrityError:
            # The same was announced by another call at this moment: now it is there.
            return await self._added(account, collection, draft, now)

    async def _added(
        self, account: int, collection: str, draft: ResultSetDraft, now: datetime
    ) -> tuple[ResultSet, bool]:
        note = noted(Action.RESULT_SET_ANNOUNCED, collection, result_set=draft.id, files=len(draft.files))
        async with self.transaction() as session:
            known = await session.get(ResultSetRow, (account, collection, draft.id))
            if known:
                if known.fingerprint != draft.fingerprint:
                    raise ResultSetDiffers(
                        f"The collection has another result set with the id {draft.id}: send a new id, or the same "
                        "content as before."
                    )
                return _result_set(known), False
            name = await session.scalar(
                select(CollectionRow.name).where(CollectionRow.account_id == account, CollectionRow.id == collection)
            )
            if name is None:
                raise CollectionNotFound("There is no collection with this id in this account: PUT it first.")
            row = ResultSetRow(
                account_id=account, collection_id=collection, id=draft.id, fingerprint=draft.fingerprint,
                collection_name=name, files=len(draft.files), started_at=draft.started_at, ended_at=draft.ended_at,
                created_at=now,
            )  # fmt: skip
            session.add(row)
            await session.flush()
            await _insert_deliveries(session, row, draft)
            await session.run_sync(lambda sync: note(sync.connection(), account))
            return _result_set(row), True

    async def get(self, account: int, collection: str, result_set: int) -> ResultSet:
        """Raises ResultSetNotFound."""
        async with self.reading() as session:
            row = await session.get(ResultSetRow, (account, collection, result_set))
        if row is None:
            raise ResultSetNotFound("There is no result set with this id in this collection.")
        return _result_set(row)

    async def page(self, account: int, collection: str, page: int) -> tuple[list[ResultSet], int]:
        """A page of the collection's result sets, the newest first, and how many it has."""
        which = (ResultSetRow.account_id == account, ResultSetRow.collection_id == collection)
        rows = select(ResultSetRow).where(*which).order_by(ResultSetRow.created_at.desc(), ResultSetRow.id.desc())
        async with self.reading() as session:
            count = await session.scalar(select(func.count()).select_from(ResultSetRow).where(*which)) or 0
            found = await session.scalars(rows.limit(PAGE_SIZE).offset((page - 1) * PAGE_SIZE))
            return [_result_set(row) for row in found], count

    async def statuses(
        self, account: int, collection: str, result_sets: Sequence[int]
    ) -> dict[int, dict[str, DestinationStatus]]:
        """What has become of each of `result_sets` at each of its destinations."""
        states: dict[int, dict[str, dict[DeliveryState, int]]] = {each: {} for each in result_sets}
        logs: dict[tuple[int, str], list[Entry]] = {}
        if not result_sets:
            return {}
        async with self.reading() as session:
            for number, destination, state, count in await session.execute(_counts(account, collection, result_sets)):
                states[number].setdefault(destination, {})[DeliveryState(state)] = count
            for number, destination, at, text in await session.execute(_lines(account, collection, result_sets)):
                logs.setdefault((number, destination), []).append(Entry(at, text))
        return {
            number: {
                destination: DestinationStatus(overall(counts), tuple(logs.get((number, destination), ())))
                for destination, counts in sorted(of_set.items())
            }
            for number, of_set in states.items()
        }

    async def deliveries_of(self, account: int, collection: str, result_set: int) -> list[Delivery]:
        """Every file and destination of the result set, in the order of the files."""
        which = (
            DeliveryRow.account_id == account,
            DeliveryRow.collection_id == collection,
            DeliveryRow.result_set_id == result_set,
        )
        rows = _deliveries().where(*which).order_by(DeliveryRow.number, DeliveryRow.destination_id)
        async with self.reading() as session:
            return [_delivery(*row) for row in await session.execute(rows)]

    async def delivery(self, identity: str, account: int | None) -> Delivery:
        """One delivery, of `account` where it is given. Raises DeliveryNotFound."""
        mine = DeliveryRow.account_id == account if account is not None else true()
        row = None
        if _ID.fullmatch(identity):
            async with self.reading() as session:
                row = (await session.execute(_deliveries().where(DeliveryRow.id == identity, mine))).one_or_none()
        if row is None:
            raise DeliveryNotFound("There is no delivery with this id in this account.")
        return _delivery(*row)

    async def listing(self, query: DeliveryQuery) -> tuple[list[Delivery], Position | None]:
        """The deliveries that `query` asks for, and where the next page begins; None where there is none."""
        order = (DeliveryRow.created_at.desc(), DeliveryRow.id.desc())
        rows = _deliveries().where(*_matching(query)).order_by(*order).limit(query.limit + 1)
        async with self.reading() as session:
            found = [_delivery(*row) for row in await session.execute(rows)]
        if len(found) <= query.limit:
            return found, None
        last = found[query.limit - 1]
        return found[: query.limit], Position.after(last.created_at, last.id)

    async def counts(self) -> dict[DeliveryState, int]:
        """How many deliveries wait, are under way and have failed, on all accounts; each COUNTED at most."""
        states = (DeliveryState.PENDING, DeliveryState.UPLOADING, DeliveryState.FAILED)
        found = {}
        async with self.reading() as session:
            for state in states:
                some = select(DeliveryRow.state).where(DeliveryRow.state == state).limit(COUNTED).subquery()
                found[state] = await session.scalar(select(func.count()).select_from(some)) or 0
        return found

    async def redeliver(
        self, account: int, collection: str, result_set: int, asked: Redelivery, now: datetime
    ) -> Redelivered:
        """Let deliveries of the result set be made again, of those that have ended, at the destinations that its
        collection uses now and that are enabled. Raises InvalidParameters where the result set does not go to one of
        the destinations asked for."""
        of_set = (
            DeliveryRow.account_id == account,
            DeliveryRow.collection_id == collection,
            DeliveryRow.result_set_id == result_set,
        )
        note = noted(Action.RESULT_SET_REDELIVERED, collection, result_set=result_set, **_told(asked))
        async with self.transaction() as session:
            if asked.destinations is not None:
                known = set(await session.scalars(select(DeliveryRow.destination_id).where(*of_set).distinct()))
                if unknown := [each for each in asked.destinations if each not in known]:
                    message = f"destination_ids has {', '.join(unknown)}, to which this result set does not go."
                    raise InvalidParameters([ParameterFault("destination_ids", Fault.INVALID_PARAMETER, message)])
            return await _redelivered(session, account, asked, of_set, _USED, now, note)

    async def redeliver_to(self, account: int, destination: str, asked: Redelivery, now: datetime) -> Redelivered:
        """Let what was announced for the destination be delivered again, as far as that has ended, if it is enabled."""
        to_it = (DeliveryRow.account_id == account, DeliveryRow.destination_id == destination)
        note = noted(Action.DESTINATION_REDELIVERED, destination, **_told(asked))
        async with self.transaction() as session:
            return await _redelivered(session, account, asked, to_it, true(), now, note)

    async def remove_old(self, before: datetime, most: int) -> int:
        """Remove result sets in which nothing is to happen, and nothing has happened since `before`: about `most` rows
        of them, the oldest first, and how many those were. Of a large set the first rows may go before the last."""
        return await self.write(lambda connection: _remove_old(connection, before, most))


def _remove_old(connection: Connection, before: datetime, most: int) -> int:
    removed = 0
    for which in connection.execute(_OLD, {"before": before, "most": most}).all():
        removed += _remove(connection, which, before, most - removed)
        if removed >= most:
            break
    return removed


def _remove(connection: Connection, which: Row[int, str, int], before: datetime, most: int) -> int:
    """Remove at most `most` deliveries and lines of an old set, and then the set with its files."""
    account, collection, result_set = which

    def of(table: Any) -> tuple[ColumnElement[bool], ...]:
        return table.account_id == account, table.collection_id == collection, table.result_set_id == result_set

    removed = 0
    tables: tuple[tuple[Any, tuple[Any, ...]], ...] = ((DeliveryRow, (~_LIVES,)), (DeliveryLogRow, ()))
    for table, also in tables:
        some = select(table.id).where(*of(table), *also).limit(most - removed)
        # Once more, since what is asked for again at this moment is looked at anew when that has been stored.
        gone = delete(table).where(table.id.in_(some), *also)
        removed += rows_changed(connection.execute(gone, {"before": before}))
        if removed >= most:
            return removed
    if connection.scalar(select(DeliveryRow.id).where(*of(DeliveryRow)).limit(1)):
        return removed
    removed += rows_changed(connection.execute(delete(ResultFileRow).where(*of(ResultFileRow))))
    mine = (ResultSetRow.account_id == account, ResultSetRow.collection_id == collection)
    return removed + rows_changed(connection.execute(delete(ResultSetRow).where(*mine, ResultSetRow.id == result_set)))


_LIVES = or_(
    DeliveryRow.state.in_((DeliveryState.PENDING, DeliveryState.UPLOADING)),
    DeliveryRow.changed_at >= bindparam("before"),
)
_OLD = (
    select(ResultSetRow.account_id, ResultSetRow.collection_id, ResultSetRow.id)
    .where(ResultSetRow.created_at < bindparam("before"), ~exists().where(SET_OF_DELIVERY, _LIVES))
    .order_by(ResultSetRow.created_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)


_USED = exists().where(
    CollectionDestinationRow.account_id == DeliveryRow.account_id,
    CollectionDestinationRow.collection_id == DeliveryRow.collection_id,
    CollectionDestinationRow.destination_id == DeliveryRow.destination_id,
)


async def _redelivered(
    session: AsyncSession,
    account: int,
    asked: Redelivery,
    within: Iterable[ColumnElement[bool]],
    used: ColumnElement[bool],
    now: datetime,
    note: Note,
) -> Redelivered:
    """What is `asked` for, of the deliveries `within`; `used` says of one that its collection lets it be made again."""
    which = and_(*within, *_asked(asked))
    text = "It is delivered again, as asked for."

    def again(connection: Connection) -> Redelivered:
        left = _left(connection, which, used)
        count = redeliver(connection, and_(which, used), now, text)
        if count:
            note(connection, account, deliveries=count)
        return Redelivered(count, left, asked.only_failed)

    return await session.run_sync(lambda sync: again(sync.connection()))


def _left(connection: Connection, which: ColumnElement[bool], used: ColumnElement[bool]) -> dict[str, str]:
    """By destination, why those of the deliveries `which` that go to it are not made again."""
    found = (
        select(DeliveryRow.destination_id, DestinationRow.enabled, used.label("used"))
        .outerjoin(DestinationRow, DestinationRow.id == DeliveryRow.destination_id)
        .where(which, or_(DestinationRow.id.is_(None), ~DestinationRow.enabled, ~used))
        .distinct()
        .order_by(DeliveryRow.destination_id)
    )
    left = {}
    for destination, enabled, is_used in connection.execute(found):
        if enabled is None:
            left[destination] = "it was deleted"
        else:
            left[destination] = "it is disabled" if is_used else "its collection does not use it any more"
    return left


async def _insert_deliveries(session: AsyncSession, row: ResultSetRow, draft: ResultSetDraft) -> None:
    """One delivery for each file of `draft` and each destination that its collection uses at this moment."""
    of_set = {"account_id": row.account_id, "collection_id": row.collection_id, "result_set_id": row.id}
    files = [{**of_set, "number": number, **asdict(file)} for number, file in enumerate(draft.files)]
    await session.execute(insert(ResultFileRow), files)
    used = (
        select(DestinationRow.id, DestinationRow.enabled)
        .join(CollectionDestinationRow, CollectionDestinationRow.destination_id == DestinationRow.id)
        .where(
            CollectionDestinationRow.account_id == row.account_id,
            CollectionDestinationRow.collection_id == row.collection_id,
        )
    )
    deliveries: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for destination, enabled in (await session.execute(used)).all():
        state = DeliveryState.PENDING if enabled else DeliveryState.SKIPPED
        at = {"created_at": row.created_at, "changed_at": row.created_at, "due_at": row.created_at}
        common = {**of_set, **at, "destination_id": destination, "state": state, "attempts": 0, "sent": 0}
        common["ended_at"] = None if enabled else row.created_at
        deliveries += [{**common, "id": new_delivery_id(), "number": number} for number in range(len(draft.files))]
        if not enabled:
            lines.append({**of_set, "destination_id": destination, "at": row.created_at, "text": _DISABLED})
    if deliveries:
        await session.execute(insert(DeliveryRow), deliveries)
    if lines:
        await session.execute(insert(DeliveryLogRow), lines)


def new_delivery_id() -> str:
    """An id that no delivery has yet: 64 random bits."""
    return secrets.token_hex(8).upper()


def _counts(account: int, collection: str, result_sets: Iterable[int]) -> Select[int, str, str, int]:
    columns = (DeliveryRow.result_set_id, DeliveryRow.destination_id, DeliveryRow.state)
    return (
        select(*columns, func.count())
        .where(
            DeliveryRow.account_id == account,
            DeliveryRow.collection_id == collection,
            DeliveryRow.result_set_id.in_(result_sets),
        )
        .group_by(*columns)
    )


def _lines(account: int, collection: str, result_sets: Iterable[int]) -> Select[Any]:
    """The last lines of each log, the oldest first."""
    row = DeliveryLogRow
    newest = func.row_number().over(partition_by=(row.result_set_id, row.destination_id), order_by=row.id.desc())
    numbered = (
        select(row.id, row.result_set_id, row.destination_id, row.at, row.text, newest.label("nth"))
        .where(row.account_id == account, row.collection_id == collection, row.result_set_id.in_(result_sets))
        .subquery()
    )
    columns = (numbered.c.result_set_id, numbered.c.destination_id, numbered.c.at, numbered.c.text)
    return select(*columns).where(numbered.c.nth <= LOG_LINES).order_by(numbered.c.id)


def _asked(asked: Redelivery) -> list[ColumnElement[bool]]:
    which = [DeliveryRow.state == DeliveryState.FAILED if asked.only_failed else ended()]
    if asked.destinations is not None:
        which.append(DeliveryRow.destination_id.in_(asked.destinations))
    if asked.since:
        which.append(DeliveryRow.created_at >= asked.since)
    if asked.until:
        which.append(DeliveryRow.created_at < asked.until)
    return which


def _told(asked: Redelivery) -> dict[str, Any]:
    """What was asked to be delivered again, for the audit log."""
    told: dict[str, Any] = {"only_failed": asked.only_failed}
    if asked.destinations is not None:
        told["destination_ids"] = list(asked.destinations)
    times = {"from": asked.since, "to": asked.until}
    return told | {name: timestamp(at) for name, at in times.items() if at}


def _matching(query: DeliveryQuery) -> list[ColumnElement[bool]]:
    asked = {
        DeliveryRow.account_id: query.account,
        DeliveryRow.state: query.state,
        DeliveryRow.destination_id: query.destination,
        DeliveryRow.collection_id: query.collection,
        DeliveryRow.fault: query.fault,
    }
    which: list[ColumnElement[bool]] = [column == value for column, value in asked.items() if value is not None]
    if query.since:
        which.append(DeliveryRow.created_at >= query.since)
    if query.until:
        which.append(DeliveryRow.created_at < query.until)
    if query.cursor:
        at, identity = query.cursor.time, query.cursor.id
        same = and_(DeliveryRow.created_at == at, DeliveryRow.id < identity)
        which.append(or_(DeliveryRow.created_at < at, same))
    return which


def _deliveries() -> Select[DeliveryRow, ResultFileRow]:
    return select(DeliveryRow, ResultFileRow).join(ResultFileRow, FILE_OF_DELIVERY)


def _result_set(row: ResultSetRow) -> ResultSet:
    return ResultSet(
        row.account_id, row.collection_id, row.id, row.collection_name, row.started_at, row.ended_at, row.created_at,
        row.files,
    )  # fmt: skip


def _delivery(row: DeliveryRow, file: ResultFileRow) -> Delivery:
    return Delivery(
        id=row.id,
        account=row.account_id,
        destination=row.destination_id,
        collection=row.collection_id,
        result_set=row.result_set_id,
        file=file.name,
        bytes=file.bytes,
        sha256=file.sha256,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        sent=row.sent,
        created_at=row.created_at,
        changed_at=row.changed_at,
        due_at=row.due_at if row.state == DeliveryState.PENDING else None,
        began_at=row.began_at,
        ended_at=row.ended_at,
        fault=row.fault,
        message=row.message,
        refusal=row.refusal,
        key=row.key,
        etag=row.etag,
        version=row.version,
        request_id=row.request_id,
        delivered_at=row.ended_at if row.state == DeliveryState.OK else row.delivered_at,
        worker=row.worker,
    )
