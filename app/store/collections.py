"""Collections in the database; every query names the account, so none sees another's."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exc, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.audit import Action
from app.domain.collection import PAGE_SIZE, Collection, CollectionDraft, CollectionPage, CollectionQuery
from app.domain.errors import CollectionNotFound, InvalidParameters, ParameterFault
from app.domain.faults import Fault
from app.store.audit import noted
from app.store.engine import Transactions, rows_changed
from app.store.tables import CollectionDestinationRow, CollectionRow, DestinationRow

_NOT_FOUND = "There is no collection with this id in this account."


class CollectionRepository(Transactions):
    """The only way to the collections. Every method raises Unavailable while the database does not answer, and those
    that change something OutcomeUnknown where it does not answer from the commit on: each may simply be repeated."""

    async def put(self, account: int, collection: str, draft: CollectionDraft, now: datetime) -> Collection:
        """Create or replace the collection. Raises InvalidParameters where the account has no such destination."""
        for _ in range(2):
            try:
                await self._put(account, collection, draft, now)
                break
            except exc.IntegrityError:
                # Another call was faster: it created the collection, or deleted one of the destinations, which the
                # second attempt finds out.
                continue
        return await self.get(account, collection)

    async def _put(self, account: int, collection: str, draft: CollectionDraft, now: datetime) -> None:
        which = _is(account, collection)
        note = noted(Action.COLLECTION_STORED, collection, name=draft.name, destination_ids=list(draft.destinations))
        values = {"name": draft.name, "folded": draft.name.casefold(), "updated_at": now}
        async with self.transaction() as session:
            await self._require(session, account, draft.destinations)
            if rows_changed(await session.execute(update(CollectionRow).where(*which).values(**values))) == 0:
                row = {**values, "account_id": account, "id": collection, "created_at": now}
                await session.execute(insert(CollectionRow).values(**row))
            await session.execute(delete(CollectionDestinationRow).where(*_uses(account, collection)))
            rows = [
                {"account_id": account, "collection_id": collection, "destination_id": each}
                for each in draft.destinations
            ]
            if rows:
                await session.execute(insert(CollectionDestinationRow), rows)
            await session.run_sync(lambda sync: note(sync.connection(), account))

    async def _require(self, session: AsyncSession, account: int, destinations: Sequence[str]) -> None:
        mine = select(DestinationRow.id).where(
            DestinationRow.account_id == account, DestinationRow.id.in_(destinations)
        )
        found = set(await session.scalars(mine)) if destinations else set()
        if unknown := [each for each in destinations if each not in found]:
            message = f"destination_ids has {', '.join(unknown)}: this account has no such destination."
            raise InvalidParameters([ParameterFault("destination_ids", Fault.INVALID_PARAMETER, message)])

    async def get(self, account: int, collection: str) -> Collection:
        """Raises CollectionNotFound."""
        async with self.reading() as session:
            row = await session.scalar(select(CollectionRow).where(*_is(account, collection)))
            if row is None:
                raise CollectionNotFound(_NOT_FOUND)
            return (await _with_destinations(session, [row]))[0]

    async def page(self, account: int, query: CollectionQuery) -> CollectionPage:
        """The page of the account's collections that `query` asks for; empty past the end."""
        matching: list[ColumnElement[bool]] = [CollectionRow.account_id == account]
        if query.search_term:
            matching.append(CollectionRow.folded.contains(query.search_term.casefold(), autoescape=True))
        if query.destination:
            using = select(CollectionDestinationRow.collection_id).where(
                CollectionDestinationRow.account_id == account,
                CollectionDestinationRow.destination_id == query.destination,
            )
            matching.append(CollectionRow.id.in_(using))
        rows = (
            select(CollectionRow)
            .where(*matching)
            .order_by(CollectionRow.created_at, CollectionRow.id)
            .limit(PAGE_SIZE)
            .offset((query.page - 1) * PAGE_SIZE)
        )
        async with self.reading() as session:
            count = await session.scalar(select(func.count()).select_from(CollectionRow).where(*matching)) or 0
            found = (await session.scalars(rows)).all()
            return CollectionPage(tuple(await _with_destinations(session, found)), count)

    async def delete(self, account: int, collection: str) -> None:
        """Raises CollectionNotFound. What was announced for it before is delivered all the same."""
        note = noted(Action.COLLECTION_DELETED, collection)
        async with self.transaction() as session:
            if rows_changed(await session.execute(delete(CollectionRow).where(*_is(account, collection)))) == 0:
                raise CollectionNotFound(_NOT_FOUND)
            await session.run_sync(lambda sync: note(sync.connection(), account))


async def _with_destinations(session: AsyncSession, rows: Iterable[CollectionRow]) -> list[Collection]:
    found = list(rows)
    used: dict[str, list[str]] = {row.id: [] for row in found}
    if found:
        links = (
            select(CollectionDestinationRow)
            .where(
                CollectionDestinationRow.account_id == found[0].account_id,
                CollectionDestinationRow.collection_id.in_(list(used)),
            )
            .order_by(CollectionDestinationRow.destination_id)
        )
        for link in await session.scalars(links):
            used[link.collection_id].append(link.destination_id)
    return [
        Collection(row.account_id, row.id, row.name, tuple(used[row.id]), row.created_at, row.updated_at)
        for row in found
    ]


def _is(account: int, collection: str) -> tuple[ColumnElement[bool], ...]:
    return CollectionRow.account_id == account, CollectionRow.id == collection


def _uses(account: int, collection: str) -> tuple[ColumnElement[bool], ...]:
    return CollectionDestinationRow.account_id == account, CollectionDestinationRow.collection_id == collection
