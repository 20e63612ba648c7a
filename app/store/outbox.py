"""The outbox of deliveries: which are due, who has which, and what became of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.dml import ReturningUpdate

from app.domain.delivery import ATTEMPTS, Claimed, DeliveryState, Outcome, SourceFault
from app.domain.destination import timestamp
from app.domain.faults import Fault
from app.domain.notification import EventType
from app.domain.result_set import ResultFile
from app.store.engine import Transactions, rows_changed
from app.store.notifications import SetKey, delivered_sets, destination_event, failed_deliveries, record
from app.store.tables import (
    FILE_OF_DELIVERY,
    SET_OF_DELIVERY,
    AccountRow,
    DeliveryLogRow,
    DeliveryRow,
    DestinationRow,
    ResultFileRow,
    ResultSetRow,
    UtcDateTime,
)

_ENDED = (DeliveryState.OK, DeliveryState.FAILED, DeliveryState.SKIPPED)
_SET = (DeliveryRow.account_id, DeliveryRow.collection_id, DeliveryRow.result_set_id)
_THESE = DeliveryRow.id.in_(bindparam("ids", expanding=True))
_DESTINATION = (DestinationRow.id == DeliveryRow.destination_id, DestinationRow.account_id == DeliveryRow.account_id)

_Rows = Mapping[str, Row[*tuple[Any, ...]]]


class Outbox(Transactions):
    """What dispatchers do with deliveries, any number of them at once. Every method raises Unavailable while the
    database does not answer; each may be repeated."""

    def __init__(self, engine: AsyncEngine, *, notify: bool = False) -> None:
        """`notify` says that the platform is told of what happens."""
        super().__init__(engine)
        self._notify = notify

    async def claim(
        self,
        lease: str,
        now: datetime,
        until: datetime,
        key_of: Callable[[Claimed], str | None],
        *,
        room: int,
        per_destination: int,
        per_account: int,
    ) -> list[Claimed]:
        """Take up to `room` deliveries that are due, for the dispatch `lease`, which ends at `until`. One that has no
        key yet gets that of `key_of`, and keeps it.

        No destination and no account has more than its bound under way, those that are taken before included; accounts
        take turns, so do the destinations of one, and of a destination's the one that is due longest comes first.
        """
        bounds = {"room": room, "per_destination": per_destination, "per_account": per_account}
        taking = {"now": now, "until": until, "dispatch": lease, **bounds}

        def claim(connection: Connection) -> list[Claimed]:
            ids = connection.scalars(_TAKE, taking).all()
            if not ids:
                return []
            claimed = [_claimed(row) for row in connection.execute(_WHOLE, {"ids": ids})]
            keys = {each.id: key for each in claimed if each.key is None and (key := key_of(each))}
            if keys:
                rows = [{"delivery": delivery, "chosen": key} for delivery, key in keys.items()]
                connection.execute(_CHOOSE_KEY, rows)
            return [replace(each, key=keys.get(each.id, each.key)) for each in claimed]

        return await self.write(claim)

    async def under_way(self) -> int:
        """How many deliveries are dispatched and have not ended."""
        return await self.read(lambda connection: connection.scalar(_UNDER_WAY) or 0)

    async def unended(self) -> dict[DeliveryState, int]:
        """How many have not ended, by state."""
        states = (DeliveryState.PENDING, DeliveryState.UPLOADING)
        counted = (
            select(DeliveryRow.state, func.count()).where(DeliveryRow.state.in_(states)).group_by(DeliveryRow.state)
        )
        found = await self.read(lambda connection: {row[0]: row[1] for row in connection.execute(counted)})
        return {state: found.get(state, 0) for state in states}

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Note what became of dispatches, in order, and return those that were noted: one whose delivery another
        dispatch has by now says nothing any more."""
        return await self.write(lambda connection: self._note(connection, outcomes))

    def _note(self, connection: Connection, outcomes: Sequence[Outcome]) -> list[Outcome]:
        _lock_destinations(connection, [each.delivery for each in outcomes if each.failing])
        told = {"ids": list({each.delivery for each in outcomes})}
        rows: _Rows = {row.id: row for row in connection.execute(_TOLD_OF, told)}
        noted = _noted(outcomes, rows)
        for kind, some in groupby(noted, key=_kind):
            connection.execute(_NOTING[kind], [_values(each) for each in some])
        failing = [
            each
            for each in sorted((each for each in noted if each.failing), key=lambda one: one.at)
            if mark_failing(
                connection, rows[each.delivery].destination_id, each.at, each.fault or "", each.message or ""
            )
        ]
        lines = [{**_place(rows[each.delivery]), "at": each.at, "text": each.text} for each in noted if each.text]
        if lines:
            connection.execute(_ADD_LINES, lines)
        if self._notify and noted:
            _tell(connection, [each for each in noted if each.state in _ENDED], failing, rows)
        return noted

    async def expire(self, now: datetime) -> tuple[int, list[Outcome]]:
        """End the leases that were not renewed: how many deliveries are due again at once, and what became of those
        that were given up, since that was their last attempt."""
        over = (DeliveryRow.state == DeliveryState.UPLOADING, DeliveryRow.leased_until < now)
        # What is locked is told of at this moment.
        last = _whole(DeliveryRow.attempts >= ATTEMPTS, *over).with_for_update(of=DeliveryRow, skip_locked=True)
        again = update(DeliveryRow).where(*over, DeliveryRow.attempts < ATTEMPTS)

        def expire(connection: Connection) -> tuple[int, list[Outcome]]:
            given_up = self._note(connection, [_given_up(row, now) for row in connection.execute(last).all()])
            due = again.values(state=DeliveryState.PENDING, due_at=now, changed_at=now)
            return rows_changed(connection.execute(due)), given_up

        return await self.write(expire)


def _chosen() -> Select[str]:
    """The deliveries to dispatch at `now`, in turn."""
    order = (DeliveryRow.due_at, DeliveryRow.number, DeliveryRow.id)
    due = (
        select(
            *(DeliveryRow.id, DeliveryRow.account_id, DeliveryRow.destination_id, DeliveryRow.due_at),
            func.row_number().over(partition_by=DeliveryRow.destination_id, order_by=order).label("nth"),
        )
        .where(DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.due_at <= bindparam("now"))
        .subquery()
    )
    busy = select(DeliveryRow.destination_id, func.count().label("n")).where(
        DeliveryRow.state == DeliveryState.UPLOADING
    )
    at_destination = busy.group_by(DeliveryRow.destination_id).subquery()
    turn = due.c.nth + func.coalesce(at_destination.c.n, 0)
    admitted = (
        select(due.c.id, due.c.account_id, due.c.due_at, turn.label("turn"))
        .outerjoin(at_destination, at_destination.c.destination_id == due.c.destination_id)
        .where(turn <= bindparam("per_destination"))
        .subquery()
    )
    of_account = (
        select(DeliveryRow.account_id, func.count().label("n"))
        .where(DeliveryRow.state == DeliveryState.UPLOADING)
        .group_by(DeliveryRow.account_id)
        .subquery()
    )
    ranks = func.row_number().over(
        partition_by=admitted.c.account_id, order_by=(admitted.c.turn, admitted.c.due_at, admitted.c.id)
    )
    rank = (ranks + func.coalesce(of_account.c.n, 0)).label("rank")
    ranked = (
        select(admitted.c.id, admitted.c.due_at, rank)
        .outerjoin(of_account, of_account.c.account_id == admitted.c.account_id)
        .subquery()
    )
    admitted_too = ranked.c.rank <= bindparam("per_account")
    in_turn = (ranked.c.rank, ranked.c.due_at, ranked.c.id)
    return select(ranked.c.id).where(admitted_too).order_by(*in_turn).limit(bindparam("room"))


def _take() -> ReturningUpdate[str]:
    """Dispatch those that are chosen. Whoever else dispatches at this moment has chosen the same: what it has locked is
    passed over."""
    locked = select(DeliveryRow.id).where(DeliveryRow.id.in_(_chosen()), DeliveryRow.state == DeliveryState.PENDING)
    now: Any = bindparam("now")
    return (
        update(DeliveryRow)
        .where(DeliveryRow.id.in_(locked.with_for_update(skip_locked=True)))
        .values(
            state=DeliveryState.UPLOADING, lease=bindparam("dispatch"), leased_until=bindparam("until"),
            attempts=DeliveryRow.attempts + 1, began_at=now, changed_at=now, ended_at=None, sent=0, worker=None,
        )
        .returning(DeliveryRow.id)
    )  # fmt: skip


_CHOOSE_KEY = update(DeliveryRow).where(DeliveryRow.id == bindparam("delivery")).values(key=bindparam("chosen"))


def _whole(*which: Any) -> Select[*tuple[Any, ...]]:
    """The deliveries `which`, with their files and sets, and their destinations where they are still there."""
    own = (
        *(DeliveryRow.id, DeliveryRow.lease, DeliveryRow.attempts, DeliveryRow.account_id, DeliveryRow.destination_id),
        *(DeliveryRow.collection_id, DeliveryRow.result_set_id, DeliveryRow.key, DeliveryRow.upload),
        DeliveryRow.worker,
    )
    of_file = (
        *(ResultFileRow.name, ResultFileRow.source, ResultFileRow.bytes, ResultFileRow.sha256),
        ResultFileRow.content_type,
    )
    of_destination = (
        *(DestinationRow.id.label("found"), DestinationRow.enabled, DestinationRow.type, DestinationRow.parameters),
        *(DestinationRow.sealed, DestinationRow.verification),
    )
    return (
        select(*own, *of_file, ResultSetRow.collection_name, AccountRow.name.label("account_name"), *of_destination)
        .select_from(DeliveryRow)
        .join(AccountRow, AccountRow.id == DeliveryRow.account_id)
        .join(ResultFileRow, FILE_OF_DELIVERY)
        .join(ResultSetRow, SET_OF_DELIVERY)
        .outerjoin(DestinationRow, and_(*_DESTINATION))
        .where(*which)
    )


_LOST = "The workers that carried this delivery out have ended before it did, again and again."


def _given_up(row: Row[*tuple[Any, ...]], at: datetime) -> Outcome:
    """What becomes of the delivery of `row`, whose last attempt nobody has told of."""
    return Outcome(
        row.id, row.lease, DeliveryState.FAILED, at, text=f"{row.name}: {_LOST}", message=_LOST,
        fault=Fault.INTERNAL_ERROR, upload=row.upload, worker=row.worker, account=row.account_name,
    )  # fmt: skip


def _claimed(row: Row[*tuple[Any, ...]]) -> Claimed:
    claimed = Claimed(
        id=row.id,
        lease=row.lease,
        attempt=row.attempts,
        account=row.account_id,
        account_name=row.account_name,
        destination=row.destination_id,
        collection=row.collection_id,
        collection_name=row.collection_name,
        result_set=row.result_set_id,
        file=ResultFile(row.name, row.source, row.bytes, row.sha256, row.content_type),
        key=row.key,
        upload=row.upload,
        repeated=row.key is not None,
    )
    if row.found is None:
        return claimed
    return replace(
        claimed,
        enabled=row.enabled,
        type=row.type,
        parameters=row.parameters,
        sealed=row.sealed,
        verification=row.verification,
    )


def _noted(outcomes: Sequence[Outcome], rows: _Rows) -> list[Outcome]:
    """Those of `outcomes` whose deliveries are still their dispatches', each as those before it leave them."""
    states = {delivery: row.state for delivery, row in rows.items()}
    noted = []
    for each in outcomes:
        # One whose lease has ended is told of all the same, as long as it was not dispatched again.
        renews = each.state is DeliveryState.UPLOADING
        states_before = (DeliveryState.UPLOADING,) if renews else (DeliveryState.UPLOADING, DeliveryState.PENDING)
        row = rows.get(each.delivery)
        if row is not None and row.lease == each.lease and states[each.delivery] in states_before:
            states[each.delivery] = each.state
            noted.append(each)
    return noted


def _kind(outcome: Outcome) -> tuple[DeliveryState, bool]:
    """Which of _NOTING notes it."""
    return outcome.state, outcome.returned


def _values(outcome: Outcome) -> dict[str, Any]:
    """What that is given of it; the names are not those of columns, which SQLAlchemy would take for more to be set."""
    refusal = asdict(outcome.refusal) if outcome.refusal else None
    return {f"its_{name}": getattr(outcome, name) for name in _OF_OUTCOME} | {"its_refusal": refusal}


_OF_OUTCOME = (
    *("delivery", "at", "worker", "upload", "sent", "leased_until", "due_at", "fault", "message"),
    *("refusal", "etag", "version", "request_id"),
)


def _noting(state: DeliveryState, *, returned: bool) -> Update:
    """The update that notes such an outcome."""
    its: dict[str, Any] = {name: bindparam(f"its_{name}") for name in _OF_OUTCOME}
    values: dict[str, Any] = {"state": state, "changed_at": its["at"]}
    names: tuple[str, ...] = ("worker", "upload")
    match state:
        case DeliveryState.UPLOADING:
            names += ("sent", "leased_until")
        case DeliveryState.PENDING:
            names += ("due_at", "fault", "message", "refusal")
            values["sent"] = 0
            if returned:
                values["attempts"] = DeliveryRow.attempts - 1
        case DeliveryState.SKIPPED:
            values |= _unsent()
        case DeliveryState.FAILED:
            names += ("fault", "message", "refusal")
            values["ended_at"] = its["at"]
        case DeliveryState.OK:
            names += ("fault", "message", "refusal", "sent", "etag", "version", "request_id")
            values["ended_at"] = its["at"]
    values |= {name: its[name] for name in names}
    return update(DeliveryRow).where(DeliveryRow.id == its["delivery"]).values(**values)


def _unsent() -> dict[str, Any]:
    """What is noted of one for which nothing was sent: where a copy had arrived before, the receipt is that copy's."""
    arrived = DeliveryRow.delivered_at.is_not(None)
    size = select(ResultFileRow.bytes).where(FILE_OF_DELIVERY).correlate(DeliveryRow).scalar_subquery()
    return {
        "state": case((arrived, DeliveryState.OK), else_=DeliveryState.SKIPPED),
        "sent": case((arrived, size), else_=DeliveryRow.sent),
        "began_at": case((arrived, null()), else_=DeliveryRow.began_at),
        "ended_at": func.coalesce(DeliveryRow.delivered_at, bindparam("its_at", type_=UtcDateTime)),
        "fault": None,
        "refusal": None,
        "message": case((arrived, null()), else_=bindparam("its_message", type_=Text)),
    }


# Made once: to make one takes longer than to carry it out.
_UNDER_WAY = select(func.count()).select_from(DeliveryRow).where(DeliveryRow.state == DeliveryState.UPLOADING)
_TAKE = _take()
_WHOLE = _whole(_THESE)
_TOLD_OF = (
    select(DeliveryRow.id, DeliveryRow.lease, DeliveryRow.state, *_SET, DeliveryRow.destination_id)
    .where(_THESE)
    .order_by(DeliveryRow.id)
    .with_for_update()
)
_NOTING = {
    (state, returned): _noting(state, returned=returned)
    for state in DeliveryState
    for returned in ((False, True) if state is DeliveryState.PENDING else (False,))
}
_ADD_LINES = insert(DeliveryLogRow)


def _place(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    """Whose log it is that tells of a delivery."""
    names = ("account_id", "collection_id", "result_set_id", "destination_id")
    return {name: getattr(row, name) for name in names}


def _tell(connection: Connection, ended: Sequence[Outcome], failing: Sequence[Outcome], rows: _Rows) -> None:
    """Have the platform told of deliveries that ended, and of the destinations that fail because of some, each at its
    time and in that order."""
    events = failed_deliveries(
        connection, {each.delivery: each.at for each in ended if each.state is DeliveryState.FAILED}
    )
    for each in failing:
        why = {"failing_since": timestamp(each.at), "fault": each.fault, "message": each.message}
        destination = rows[each.delivery].destination_id
        events += destination_event(connection, EventType.DESTINATION_FAILING, destination, each.at, **why)
    well: dict[SetKey, datetime] = {}
    for each in ended:
        if each.state is not DeliveryState.FAILED:
            row = rows[each.delivery]
            key = (row.account_id, row.collection_id, row.result_set_id)
            well[key] = max(each.at, well.get(key, each.at))
    events += delivered_sets(connection, well)
    record(connection, sorted(events, key=lambda event: event.at))


def _lock_destinations(connection: Connection, deliveries: Sequence[str]) -> None:
    """Keep the destinations of `deliveries` from passing a verification meanwhile: what is noted as failed is then seen
    by it, and made again, or marks the destination after it."""
    if not deliveries:
        return
    theirs = select(DeliveryRow.destination_id).where(DeliveryRow.id.in_(deliveries))
    locked = select(DestinationRow.id).where(DestinationRow.id.in_(theirs)).order_by(DestinationRow.id)
    connection.execute(locked.with_for_update(key_share=True))


def mark_failing(connection: Connection, destination: str, at: datetime, code: str, message: str) -> bool:
    """Note that `destination` fails since `at`, and why; whether it was not noted yet."""
    change = update(DestinationRow).where(DestinationRow.id == destination)
    why = {"code": code, "message": message}
    began = change.where(DestinationRow.failing_since.is_(None)).values(failing_since=at, failing=why)
    if rows_changed(connection.execute(began)):
        return True
    # One that began to fail before the reason was kept has that of the next failure.
    connection.execute(change.where(DestinationRow.failing.is_(None)).values(failing=why))
    return False


def mark_recovered(connection: Connection, destination: str) -> datetime | None:
    """Note that `destination` fails no more, by who has changed its row before; since when it did, if it did."""
    which = DestinationRow.id == destination
    since = connection.scalar(select(DestinationRow.failing_since).where(which))
    if since is not None:
        connection.execute(update(DestinationRow).where(which).values(failing_since=None, failing=None))
    return since


def recover(connection: Connection, destination: str, at: datetime, *, new_keys: bool) -> int:
    """Let what `destination` missed be delivered again from `at` on, the oldest first, and what waits for its next
    attempt at once; with `new_keys`, under keys that are chosen anew. How many that is: none while it is disabled."""
    missed = and_(DeliveryRow.state == DeliveryState.FAILED, DeliveryRow.fault.not_in(list(SourceFault)))
    waiting = and_(DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.attempts > 0)
    which = and_(DeliveryRow.destination_id == destination, or_(missed, waiting))
    return redeliver(connection, which, at, "The destination passed its verification.", new_keys=new_keys)


def redeliver(connection: Connection, which: Any, at: datetime, text: str, *, new_keys: bool = False) -> int:
    """Let those of the deliveries `which` that go to an enabled destination be made again, as if for the first time,
    with the line `text` in the log of each destination; the others stay as they are. How many that is."""
    which = and_(which, exists().where(*_DESTINATION, DestinationRow.enabled))
    columns = (*_SET, DeliveryRow.destination_id)
    lines = select(*columns, literal(at, UtcDateTime), literal(text)).where(which).distinct()
    names = ("account_id", "collection_id", "result_set_id", "destination_id", "at", "text")
    arrived = case((DeliveryRow.state == DeliveryState.OK, DeliveryRow.ended_at), else_=DeliveryRow.delivered_at)
    values: dict[str, Any] = {
        # Those that were announced first come first.
        "due_at": DeliveryRow.created_at, "state": DeliveryState.PENDING, "attempts": 0, "sent": 0, "lease": None,
        "changed_at": at, "ended_at": None, "fault": None, "message": None, "refusal": None,
        # The copy that is there stays there until the next has arrived.
        "delivered_at": arrived,
    }  # fmt: skip
    if new_keys:
        values |= dict.fromkeys(("key", "etag", "version", "request_id", "delivered_at"))
    connection.execute(insert(DeliveryLogRow).from_select(names, lines))
    return rows_changed(connection.execute(update(DeliveryRow).where(which).values(**values)))


def ended() -> Any:
    """That a delivery is neither waiting nor under way."""
    return DeliveryRow.state.in_(_ENDED)
