"""Notifications in the database: each is stored with the change that it tells of, and stays until it was taken."""

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    Update,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import aliased

from app.domain.audit import Action
from app.domain.delivery import DeliveryState
from app.domain.destination import timestamp
from app.domain.notification import Event, EventType, Notification, NotificationState, is_notification_id
from app.store.audit import noted
from app.store.engine import Transactions, rows_changed
from app.store.tables import (
    FILE_OF_DELIVERY,
    SET_OF_DELIVERY,
    AccountRow,
    DeliveryRow,
    DestinationRow,
    NotificationDestinationRow,
    NotificationRow,
    ResultFileRow,
    ResultSetRow,
)

SetKey = tuple[int, str, int]
"""A result set, by its account, its collection and its id."""
_SET_KEY = (ResultSetRow.account_id, ResultSetRow.collection_id, ResultSetRow.id)
_THESE_SETS = tuple_(*_SET_KEY).in_(bindparam("sets", expanding=True))
_UNDELIVERED = (DeliveryState.PENDING, DeliveryState.UPLOADING, DeliveryState.FAILED)


# Of the changes that are told. Each is called in the transaction that makes the change.


def record(connection: Connection, events: Sequence[Event]) -> None:
    """Have the platform told of `events`, which happened in this order."""
    if not events:
        return
    # So many bits that no two are the same, and no `.`, which separates what is signed.
    rows = [
        {
            "id": f"msg_{secrets.token_hex(16)}", "type": event.type, "account_id": event.account,
            "destinations": event.destinations, "payload": event.payload(), "state": NotificationState.WAITING,
            "attempts": 0, "created_at": event.at, "due_at": event.at,
        }
        for event in events
    ]  # fmt: skip
    added = insert(NotificationRow).returning(NotificationRow.number, sort_by_parameter_order=True)
    numbers = connection.execute(added, rows).scalars().all()
    links = [
        {"destination_id": destination, "number": number}
        for number, event in zip(numbers, events, strict=True)
        for destination in event.destinations
    ]
    connection.execute(insert(NotificationDestinationRow), links)


def failed_deliveries(connection: Connection, failed: Mapping[str, datetime]) -> list[Event]:
    """That the deliveries with these ids have failed for good, each at its time."""
    columns = (
        *(DeliveryRow.id, DeliveryRow.account_id, AccountRow.name.label("account_name"), DeliveryRow.destination_id),
        *(DestinationRow.name.label("destination_name"), DeliveryRow.collection_id, ResultSetRow.collection_name),
        *(DeliveryRow.result_set_id, ResultFileRow.name, ResultFileRow.bytes, DeliveryRow.key, DeliveryRow.attempts),
        *(DeliveryRow.fault, DeliveryRow.message, DeliveryRow.refusal),
    )
    found = (
        select(*columns)
        .join(AccountRow, AccountRow.id == DeliveryRow.account_id)
        .join(ResultSetRow, SET_OF_DELIVERY)
        .join(ResultFileRow, FILE_OF_DELIVERY)
        .outerjoin(DestinationRow, DestinationRow.id == DeliveryRow.destination_id)
        .where(DeliveryRow.id.in_(failed))
        .order_by(DeliveryRow.number, DeliveryRow.id)
    )
    return [
        Event(
            EventType.DELIVERY_FAILED, failed[row.id], row.account_id, (row.destination_id,),
            {
                "id": row.id, **_account(row), **_destination(row),
                "collection_id": row.collection_id, "collection_name": row.collection_name,
                "result_set_id": row.result_set_id, "name": row.name, "bytes": row.bytes, "key": row.key,
                "attempts": row.attempts, "fault": row.fault, "message": row.message, "refusal": row.refusal,
            },
        )
        for row in (connection.execute(found).all() if failed else ())
    ]  # fmt: skip


def destination_event(
    connection: Connection, type_: EventType, destination: str, at: datetime, **more: Any
) -> list[Event]:
    """That `destination` began to fail, or ended it; empty where it is gone."""
    columns = (
        *(DestinationRow.account_id, AccountRow.name.label("account_name"), DestinationRow.id.label("destination_id")),
        *(DestinationRow.name.label("destination_name"), DestinationRow.type),
    )
    joined = select(*columns).join(AccountRow, AccountRow.id == DestinationRow.account_id)
    row = connection.execute(joined.where(DestinationRow.id == destination)).one_or_none()
    if row is None:
        return []
    data = {**_account(row), **_destination(row), "type": row.type, **more}
    return [Event(type_, at, row.account_id, (destination,), data)]


def delivered_sets(connection: Connection, changed: Mapping[SetKey, datetime]) -> list[Event]:
    """That result sets are delivered: those of `changed` of which every file has ended well at every destination, and
    one somewhere, each at its time. What was skipped, since its destination was disabled or deleted, is waited for by
    nobody."""
    sets = sorted(changed)
    if not sets:
        return []
    # Of two that note the last files of a set at the same moment, the second must see what the first has noted.
    connection.execute(_LOCK_SETS, {"sets": sets})
    return [
        _delivered(row, _reached(connection, row), changed[row.account_id, row.collection_id, row.id])
        for row in connection.execute(_DELIVERED_SETS, {"sets": sets}).all()
    ]


def _delivered_sets() -> Select[*tuple[Any, ...]]:
    left = exists().where(SET_OF_DELIVERY, DeliveryRow.state.in_(_UNDELIVERED))
    some = exists().where(SET_OF_DELIVERY, DeliveryRow.state == DeliveryState.OK)
    columns = (*_SET_KEY, ResultSetRow.collection_name, ResultSetRow.files, ResultSetRow.started_at)
    return (
        select(*columns, ResultSetRow.ended_at, AccountRow.name.label("account_name"))
        .join(AccountRow, AccountRow.id == ResultSetRow.account_id)
        .where(_THESE_SETS, ~left, some)
        .order_by(*_SET_KEY)
    )


# Made once: to make one takes longer than to carry it out.
_LOCK_SETS = select(ResultSetRow.id).where(_THESE_SETS).order_by(*_SET_KEY).with_for_update(key_share=True)
_DELIVERED_SETS = _delivered_sets()


def _reached(connection: Connection, of_set: Row[*tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The destinations that have a result set of which nothing is under way, and those that were skipped."""
    ok = func.max(case((DeliveryRow.state == DeliveryState.OK, 1), else_=0))
    found = (
        select(DeliveryRow.destination_id, DestinationRow.name, ok.label("ok"))
        .outerjoin(DestinationRow, DestinationRow.id == DeliveryRow.destination_id)
        .where(
            DeliveryRow.account_id == of_set.account_id,
            DeliveryRow.collection_id == of_set.collection_id,
            DeliveryRow.result_set_id == of_set.id,
        )
        .group_by(DeliveryRow.destination_id, DestinationRow.name)
        .order_by(DeliveryRow.destination_id)
    )
    return [
        {"id": row.destination_id, "name": row.name, "status": DeliveryState.OK if row.ok else DeliveryState.SKIPPED}
        for row in connection.execute(found)
    ]


def _delivered(row: Row[*tuple[Any, ...]], destinations: list[dict[str, Any]], at: datetime) -> Event:
    data = {
        **_account(row),
        "collection_id": row.collection_id,
        "collection_name": row.collection_name,
        "result_set_id": row.id,
        "started_at": timestamp(row.started_at),
        "ended_at": timestamp(row.ended_at),
        "file_count": row.files,
        "destinations": destinations,
    }
    ids = tuple(each["id"] for each in destinations if each["status"] == DeliveryState.OK)
    return Event(EventType.RESULT_SET_DELIVERED, at, row.account_id, ids, data)


def _account(row: Row[*tuple[Any, ...]]) -> Mapping[str, Any]:
    return {"account": row.account_id, "account_name": row.account_name}


def _destination(row: Row[*tuple[Any, ...]]) -> Mapping[str, Any]:
    return {"destination": row.destination_id, "destination_name": row.destination_name}


class Notifications(Transactions):
    """What those who tell the platform do, any number of them at once. Every method raises Unavailable while the
    database does not answer; each may be repeated."""

    async def claim(self, now: datetime, until: datetime, most: int) -> list[Notification]:
        """At most `most` notifications that are due, each the first of all its destinations: nobody else gets one of
        them, or a later one of the same destination, before it is settled or `until` has come."""
        first = await self.read(
            lambda connection: connection.scalars(_DUE, {"now": now, "most": most}).all(), brief=False
        )
        if not first:
            return []
        due = (NotificationRow.state == NotificationState.WAITING, NotificationRow.due_at <= now)
        # What another process has locked or taken meanwhile is passed over.
        mine = select(NotificationRow.number).where(NotificationRow.number.in_(first), *due)
        taken = (
            update(NotificationRow)
            .where(NotificationRow.number.in_(mine.with_for_update(skip_locked=True)))
            .values(due_at=until, attempts=NotificationRow.attempts + 1)
            .returning(*_COLUMNS)
        )
        return await self.write(lambda connection: [_notification(row) for row in connection.execute(taken)])

    async def taken(self, notification: Notification) -> None:
        """The platform has it."""
        which = NotificationRow.number == notification.number
        await self._write(delete(NotificationRow).where(which, NotificationRow.id == notification.id))

    async def postpone(self, notification: Notification, due_at: datetime, reason: str) -> None:
        """The platform did not take it, for this `reason`; the next attempt is due then."""
        await self._write(_attempt(notification).values(due_at=due_at, reason=reason))

    async def keep(self, notification: Notification, reason: str) -> None:
        """Give it up, and let those behind it go on."""
        change = _attempt(notification).values(state=NotificationState.KEPT, reason=reason)

        def keep(connection: Connection) -> None:
            if rows_changed(connection.execute(change)):
                links = NotificationDestinationRow.number == notification.number
                connection.execute(delete(NotificationDestinationRow).where(links))

        await self.write(keep)

    async def counts(self) -> dict[NotificationState, int]:
        """How many there are in each state."""
        counted = select(NotificationRow.state, func.count()).group_by(NotificationRow.state)
        found = await self.read(lambda connection: {row[0]: row[1] for row in connection.execute(counted)}, brief=False)
        return {state: found.get(state, 0) for state in NotificationState}

    async def page(self, after: int, most: int, state: NotificationState | None = None) -> list[Notification]:
        """At most `most`, in the order of their numbers, from the one after the number `after` on; in any state, or in
        this one."""
        which = [NotificationRow.number > after, *([NotificationRow.state == state] if state else [])]
        rows = select(*_COLUMNS).where(*which).order_by(NotificationRow.number).limit(most)
        return await self.read(lambda connection: [_notification(row) for row in connection.execute(rows)], brief=False)

    async def retry(self, now: datetime, identity: str | None = None) -> int:
        """An operator has those that were given up, or the one with this id, told from `now` on as if they had just
        happened, and before what happened to their destinations later. How many that are."""
        which = [NotificationRow.state == NotificationState.KEPT]
        if identity is not None:
            if not is_notification_id(identity):
                return 0
            which.append(NotificationRow.id == identity)
        columns = (NotificationRow.number, NotificationRow.account_id, NotificationRow.destinations)
        found = select(*columns).where(*which).with_for_update()
        again = {"state": NotificationState.WAITING, "attempts": 0, "created_at": now, "due_at": now}
        note = noted(Action.NOTIFICATION_RETRIED, identity)

        def retry(connection: Connection) -> int:
            kept = connection.execute(found).all()
            links = [{"destination_id": each, "number": row.number} for row in kept for each in row.destinations]
            if links:
                connection.execute(update(NotificationRow).where(*which).values(**again))
                connection.execute(insert(NotificationDestinationRow), links)
            for account, count in sorted(Counter(row.account_id for row in kept).items()):
                note(connection, account, notifications=count)
            return len(kept)

        return await self.write(retry)

    async def forget(self, identity: str) -> bool:
        """An operator takes it off the record, whether it waits or was given up; whether there was one."""
        note = noted(Action.NOTIFICATION_FORGOTTEN, identity)
        one = delete(NotificationRow).where(NotificationRow.id == identity)

        def forget(connection: Connection) -> bool:
            row = connection.execute(one.returning(NotificationRow.account_id, NotificationRow.type)).one_or_none()
            if row:
                note(connection, row.account_id, type=row.type)
            return row is not None

        return is_notification_id(identity) and await self.write(forget)

    async def remove_kept(self, before: datetime, most: int) -> int:
        """Take at most `most` that were given up off the record, of those that happened before then; how many."""
        which = (NotificationRow.state == NotificationState.KEPT, NotificationRow.created_at < before)
        old = select(NotificationRow.number).where(*which).order_by(NotificationRow.due_at).limit(most)
        change = delete(NotificationRow).where(NotificationRow.number.in_(old.with_for_update(skip_locked=True)))
        return await self.write(lambda connection: rows_changed(connection.execute(change)))

    async def _write(self, change: Any) -> None:
        await self.write(lambda connection: connection.execute(change))


def _due() -> Select[int]:
    """The notifications that are due, and the first of all their destinations. Each destination is looked at once, by
    its index, however many wait behind its first: they are many when the platform has been away."""
    link, other, mine = (aliased(NotificationDestinationRow) for _ in range(3))
    waiting = select(func.min(link.destination_id).label("id")).cte("waiting", recursive=True)
    after = select(func.min(other.destination_id)).where(other.destination_id > waiting.c.id).scalar_subquery()
    waiting = waiting.union_all(select(after).where(waiting.c.id.is_not(None)))
    head = select(func.min(link.number)).where(link.destination_id == waiting.c.id).scalar_subquery()
    heads = select(head.label("number")).where(waiting.c.id.is_not(None)).subquery()
    of_all = select(func.count()).where(mine.number == heads.c.number).scalar_subquery()
    # As a subquery, and not a join, which PostgreSQL may begin with all that are due.
    is_due = (NotificationRow.state == NotificationState.WAITING, NotificationRow.due_at <= bindparam("now"))
    due_at = select(NotificationRow.due_at).where(NotificationRow.number == heads.c.number, *is_due).scalar_subquery()
    first = select(heads.c.number, due_at.label("due_at")).group_by(heads.c.number).having(func.count() == of_all)
    found = first.subquery()
    return select(found.c.number).where(found.c.due_at.is_not(None)).order_by(found.c.due_at).limit(bindparam("most"))


_DUE = _due()
_COLUMNS = (
    *(NotificationRow.number, NotificationRow.id, NotificationRow.type, NotificationRow.payload),
    *(NotificationRow.attempts, NotificationRow.created_at, NotificationRow.state, NotificationRow.reason),
    NotificationRow.due_at,
)


def _attempt(notification: Notification) -> Update:
    """The update of `notification` by who makes this attempt, and not by one whose attempt was taken over."""
    which = (NotificationRow.number == notification.number, NotificationRow.id == notification.id)
    waits = NotificationRow.state == NotificationState.WAITING
    return update(NotificationRow).where(*which, waits, NotificationRow.attempts == notification.attempts)


def _notification(row: Row[*tuple[Any, ...]]) -> Notification:
    return Notification(
        number=row.number,
        id=row.id,
        type=EventType(row.type),
        payload=row.payload,
        attempts=row.attempts,
        created_at=row.created_at,
        due_at=row.due_at,
        state=NotificationState(row.state),
        reason=row.reason,
    )
