"""Test files that may have been left behind, in the database."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Delete, Update, delete, exc, func, insert, select, update

from app.domain.audit import Action
from app.domain.leftover import PAGE_SIZE, Leftover, LeftoverPage, LeftoverState, is_job_id
from app.store.audit import noted
from app.store.engine import Transactions, rows_changed
from app.store.tables import LeftoverRow

PER_ACCOUNT = 5
"""Of those that are due at once: a bucket that refuses every delete must not keep others waiting."""


class Leftovers(Transactions):
    """The only way to the table of leftovers. Every method raises Unavailable while the database does not answer; each
    that changes something may be called again."""

    async def add(self, leftover: Leftover, sealed: str) -> None:
        """Put it on record, unless it is there already."""
        row = {
            "id": leftover.id,
            "account_id": leftover.account,
            "destination": leftover.destination,
            "type": leftover.type,
            "parameters": dict(leftover.parameters),
            "object": leftover.object,
            "sealed": sealed,
            "state": leftover.state,
            "reason": leftover.reason,
            "message": leftover.message,
            "tries": leftover.tries,
            "created_at": leftover.created_at,
            "due_at": leftover.due_at,
        }
        try:
            async with self.transaction() as session:
                await session.execute(insert(LeftoverRow).values(**row))
        except exc.IntegrityError:
            async with self.reading() as session:
                if await session.scalar(select(LeftoverRow.id).where(LeftoverRow.id == leftover.id)) is None:
                    raise

    async def due(self, now: datetime, lease: timedelta, most: int) -> list[tuple[Leftover, str]]:
        """At most `most` that wait and are due `now`, each with its sealed job, for the caller alone until the `lease`
        is over; of one account, PER_ACCOUNT."""
        number = func.row_number().over(partition_by=LeftoverRow.account_id, order_by=LeftoverRow.due_at)
        waiting = (LeftoverRow.state == LeftoverState.WAITING, LeftoverRow.due_at <= now)
        ranked = select(LeftoverRow.id, number.label("number")).where(*waiting).subquery()
        first = select(ranked.c.id).where(ranked.c.number <= PER_ACCOUNT).limit(most)
        async with self.reading() as session:
            found = (await session.scalars(select(LeftoverRow).where(LeftoverRow.id.in_(first)))).all()
        return [(_leftover(row), row.sealed) for row in found if await self._leased(row, now + lease)]

    async def _leased(self, row: LeftoverRow, until: datetime) -> bool:
        unchanged = (LeftoverRow.id == row.id, LeftoverRow.due_at == row.due_at, LeftoverRow.state == row.state)
        async with self.transaction() as session:
            lease = update(LeftoverRow).where(*unchanged).values(due_at=until)
            return rows_changed(await session.execute(lease)) == 1

    async def postpone(self, leftover: str, due_at: datetime, reason: str, message: str) -> None:
        """A delete was tried and not confirmed; the next is due then."""
        tries = LeftoverRow.tries + 1
        await self._set(leftover, due_at=due_at, reason=reason, message=message, tries=tries)

    async def keep(self, leftover: str, reason: str | None, message: str | None) -> None:
        """Leave it to an operator; what was the reason stays where none is given."""
        given = {"reason": reason, "message": message} if reason else {}
        await self._set(leftover, state=LeftoverState.KEPT, **given)

    async def _set(self, leftover: str, **values: Any) -> None:
        async with self.transaction() as session:
            await session.execute(update(LeftoverRow).where(LeftoverRow.id == leftover).values(**values))

    async def remove(self, leftover: str) -> None:
        """Take it off the record, since it is gone."""
        async with self.transaction() as session:
            await session.execute(delete(LeftoverRow).where(LeftoverRow.id == leftover))

    async def retry(self, leftover: str, now: datetime) -> bool:
        """An operator has it tried again from now on, as if it were new; whether there is one."""
        again = {"state": LeftoverState.WAITING, "created_at": now, "due_at": now, "tries": 0}
        return await self._settle(leftover, Action.LEFTOVER_RETRIED, update(LeftoverRow).values(**again))

    async def forget(self, leftover: str) -> bool:
        """An operator takes it off the record; whether there was one."""
        return await self._settle(leftover, Action.LEFTOVER_FORGOTTEN, delete(LeftoverRow))

    async def _settle(self, leftover: str, action: Action, change: Update | Delete) -> bool:
        if not is_job_id(leftover):
            return False
        note = noted(action, leftover)
        columns = (LeftoverRow.account_id, LeftoverRow.destination, LeftoverRow.object)
        one = change.where(LeftoverRow.id == leftover).returning(*columns)

        def settle(connection: Connection) -> bool:
            row = connection.execute(one).one_or_none()
            if row:
                note(connection, row.account_id, destination=row.destination, file=row.object)
            return row is not None

        return await self.write(settle)

    async def page(self, account: int | None, number: int, state: LeftoverState | None = None) -> LeftoverPage:
        """The page of this number, from 1, of the account's; of all accounts' where `account` is None."""
        wanted: list[ColumnElement[bool]] = []
        if account is not None:
            wanted.append(LeftoverRow.account_id == account)
        if state:
            wanted.append(LeftoverRow.state == state)
        rows = select(LeftoverRow).where(*wanted).order_by(LeftoverRow.created_at, LeftoverRow.id)
        async with self.reading() as session:
            count = await session.scalar(select(func.count()).select_from(LeftoverRow).where(*wanted)) or 0
            found = (await session.scalars(rows.limit(PAGE_SIZE).offset((number - 1) * PAGE_SIZE))).all()
        return LeftoverPage(tuple(_leftover(row) for row in found), count)

    async def counts(self) -> dict[LeftoverState, int]:
        """How many there are in each state."""
        counted = select(LeftoverRow.state, func.count()).group_by(LeftoverRow.state)
        async with self.reading() as session:
            found = {row[0]: row[1] for row in await session.execute(counted)}
        return {state: found.get(state, 0) for state in LeftoverState}


def _leftover(row: LeftoverRow) -> Leftover:
    return Leftover(
        id=row.id,
        account=row.account_id,
        destination=row.destination,
        type=row.type,
        parameters=row.parameters,
        object=row.object,
        state=LeftoverState(row.state),
        created_at=row.created_at,
        due_at=row.due_at,
        reason=row.reason,
        message=row.message,
        tries=row.tries,
    )
