"""Sealing everything anew, after a new first key was added."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.store.engine import Transactions
from app.store.sealing import NotSealedByUs, Sealer
from app.store.tables import DestinationRow

BATCH = 200


@dataclass
class Progress:
    """How far it is: `resealed` by the first key now, `left` to look at; `unreadable` are the ids of those that none
    of the keys opens, and which stay as they are."""

    resealed: int = 0
    left: int = 0
    unreadable: list[str] = field(default_factory=list)


class Rotation(Transactions):
    """Re-seals every destination's credentials while the service runs."""

    async def run(self, sealer: Sealer, batch: int = BATCH) -> AsyncIterator[Progress]:
        """Yields after each batch, of which each is a transaction. It may be interrupted and run again: what the
        first key opens already is left alone. Raises Unavailable."""
        progress, last = Progress(), ""
        while True:
            page = select(DestinationRow.id, DestinationRow.sealed).where(DestinationRow.id > last)
            async with self.transaction() as session:
                rows = (await session.execute(page.order_by(DestinationRow.id).limit(batch))).all()
                for identity, sealed in rows:
                    await _reseal(session, sealer, identity, sealed, progress)
                    last = identity
                behind = select(func.count()).select_from(DestinationRow).where(DestinationRow.id > last)
                progress.left = await session.scalar(behind) or 0
            yield progress
            if not progress.left:
                return


async def _reseal(session: AsyncSession, sealer: Sealer, identity: str, sealed: str, progress: Progress) -> None:
    try:
        anew = sealer.resealed(sealed)
    except NotSealedByUs:
        progress.unreadable.append(identity)
        return
    if anew is None:
        return
    # An update that came in between has been sealed by a running process: it is looked at again, not overwritten.
    which = (DestinationRow.id == identity, DestinationRow.sealed == sealed)
    if (await session.execute(update(DestinationRow).where(*which).values(sealed=anew))).rowcount:  # type: ignore[attr-defined]
        progress.resealed += 1
        return
    now = await session.scalar(select(DestinationRow.sealed).where(DestinationRow.id == identity))
    if now is not None:
        await _reseal(session, sealer, identity, now, progress)
