"""Sealing all credentials again, after a new first key was added."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.messages.sealing import NotSealedByUs, Sealer
from app.store.engine import Transactions, rows_changed
from app.store.tables import DestinationRow, LeftoverRow

Sealed = type[DestinationRow] | type[LeftoverRow]


@dataclass
class Progress:
    """How many rows, destinations and leftovers, were `resealed` by the first key, and how many are `left` to look at.
    `unreadable` are the ids of those that none of the keys opens; they stay as they are."""

    resealed: int = 0
    left: int = 0
    unreadable: list[str] = field(default_factory=list)


class Rotation(Transactions):
    """Re-seals the credentials of every destination and leftover while the service runs."""

    async def run(self, sealer: Sealer, batch: int) -> AsyncIterator[Progress]:
        """Yields after each batch, which is one transaction. It may be interrupted and run again: what the first key
        opens already is left alone. Raises Unavailable."""
        progress = Progress()
        for table in (DestinationRow, LeftoverRow):
            async for _ in self._run(table, sealer, batch, progress):
                yield progress

    async def _run(self, table: Sealed, sealer: Sealer, batch: int, progress: Progress) -> AsyncIterator[None]:
        last = ""
        while True:
            page = select(table.id, table.sealed).where(table.id > last)
            async with self.transaction() as session:
                rows = (await session.execute(page.order_by(table.id).limit(batch))).all()
                for identity, sealed in rows:
                    await _reseal(session, table, sealer, identity, sealed, progress)
                    last = identity
                behind = select(func.count()).select_from(table).where(table.id > last)
                progress.left = await session.scalar(behind) or 0
            yield
            if not progress.left:
                return


async def _reseal(
    session: AsyncSession, table: Sealed, sealer: Sealer, identity: str, sealed: str, progress: Progress
) -> None:
    try:
        resealed = sealer.resealed(sealed)
    except NotSealedByUs:
        progress.unreadable.append(identity)
        return
    if resealed is None:
        return
    # Another process may have updated the row since it was read: then it is read again, not overwritten.
    unchanged = (table.id == identity, table.sealed == sealed)
    if rows_changed(await session.execute(update(table).where(*unchanged).values(sealed=resealed))):
        progress.resealed += 1
        return
    now = await session.scalar(select(table.sealed).where(table.id == identity))
    if now is not None:
        await _reseal(session, table, sealer, identity, now, progress)
