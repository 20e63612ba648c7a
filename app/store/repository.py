"""Accounts and destinations in the database; every query names the account, so none sees another's."""

import hashlib
import hmac
import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select, update

from app.domain.destination import PAGE_SIZE, Destination, Page, Query, SortBy
from app.domain.errors import DestinationChanged, DestinationLimitReached, DestinationNotFound
from app.domain.verification import Report
from app.store.engine import Transactions
from app.store.tables import AccountRow, DestinationRow, KeyRow

_SORTED = {
    SortBy.CREATED: DestinationRow.created_at,
    SortBy.NAME: DestinationRow.folded,
    SortBy.TYPE: DestinationRow.type,
}

KEY_ID_LENGTH = 12
_NOT_FOUND = "There is no destination with this id in this account."


def key_hash(key: str) -> str:
    """The SHA-256 of an API key. Keys are 256 random bits, so nothing slower is needed to keep them."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


class Repository(Transactions):
    """The only way to the tables. Every method raises Unavailable while the database does not answer."""

    async def account_of(self, key: str) -> int | None:
        """The account that `key` opens. Asked of the database each time, so that a revoked key opens nothing at
        once; a key that was never there and one that was revoked are the same here."""
        hashed = key_hash(key)
        async with self.transaction() as session:
            row = await session.scalar(select(KeyRow).where(KeyRow.hash == hashed))
        return row.account_id if row and hmac.compare_digest(row.hash, hashed) else None

    async def ensure_key(self, account: str, key: str) -> None:
        """Let `key` open the account named `account`, which is made where there is none yet."""
        now = datetime.now(UTC)
        async with self.transaction() as session:
            row = await session.scalar(select(AccountRow).where(AccountRow.name == account))
            if row is None:
                row = AccountRow(name=account, used=0, created_at=now)
                session.add(row)
                await session.flush()
            if await session.get(KeyRow, key_hash(key)) is None:
                session.add(KeyRow(hash=key_hash(key), account_id=row.id, created_at=now))

    async def keys(self) -> list[tuple[str, str, datetime]]:
        """Every key's id, account and time of creation, oldest first. An id tells keys apart and opens nothing."""
        rows = select(KeyRow.hash, AccountRow.name, KeyRow.created_at).join(AccountRow).order_by(KeyRow.created_at)
        async with self.transaction() as session:
            return [(hashed[:KEY_ID_LENGTH], name, at) for hashed, name, at in await session.execute(rows)]

    async def names(self, accounts: Collection[int]) -> dict[int, str]:
        """The names of `accounts`, by account."""
        rows = select(AccountRow.id, AccountRow.name).where(AccountRow.id.in_(accounts))
        async with self.transaction() as session:
            return {row.id: row.name for row in await session.execute(rows)}

    async def revoke(self, key_id: str) -> bool:
        """Let the key with this id open nothing any more; whether there was one."""
        if not re.fullmatch(f"[0-9a-f]{{{KEY_ID_LENGTH}}}", key_id):
            return False
        async with self.transaction() as session:
            return _rows(await session.execute(delete(KeyRow).where(KeyRow.hash.startswith(key_id)))) > 0

    async def remove_key(self, key: str) -> None:
        """Let `key` open nothing any more."""
        async with self.transaction() as session:
            await session.execute(delete(KeyRow).where(KeyRow.hash == key_hash(key)))

    async def used(self, account: int) -> int:
        """How many destinations the account has."""
        async with self.transaction() as session:
            return await session.scalar(select(AccountRow.used).where(AccountRow.id == account)) or 0

    async def add(self, destination: Destination, sealed: str, limit: int) -> None:
        """Store a new destination. Raises DestinationLimitReached where the account has `limit` already."""
        take = (
            update(AccountRow)
            .where(AccountRow.id == destination.account, AccountRow.used < limit)
            .values(used=AccountRow.used + 1)
        )
        async with self.transaction() as session:
            if _rows(await session.execute(take)) == 0:
                raise DestinationLimitReached(
                    f"This account has its {limit} destinations already: delete one, or ask for a higher limit."
                )
            await session.execute(insert(DestinationRow).values(**_columns(destination), sealed=sealed))

    async def get(self, account: int, destination: str) -> Destination:
        """Raises DestinationNotFound where this account has no such destination, whoever else may have it."""
        return (await self.whole(account, destination))[0]

    async def whole(self, account: int, destination: str) -> tuple[Destination, str]:
        """The destination, and its sealed credentials. Raises DestinationNotFound."""
        async with self.transaction() as session:
            row = await session.scalar(select(DestinationRow).where(*_is(account, destination)))
        if row is None:
            raise DestinationNotFound(_NOT_FOUND)
        return _destination(row), row.sealed

    async def change(self, destination: Destination, sealed: str, *, was: int, verified: bool) -> None:
        """Store `destination` over the one whose version was `was`; its verification only where it was `verified` by
        this change, since another may have been kept meanwhile.

        Raises DestinationNotFound where it is gone, DestinationChanged where it has another version by now.
        """
        values = {**_columns(destination), "sealed": sealed}
        if not verified:
            del values["verification"], values["verified_at"]
        await self._set(destination.account, destination.id, was, values)

    async def verified(self, account: int, destination: str, report: Report, at: datetime, *, was: int) -> None:
        """Keep `report` with the destination whose version is `was`, and where it passed the time `at` too; nothing
        else of it changes, nor its version. Raises what `change` does."""
        values: dict[str, Any] = {"verification": report.as_answer()}
        await self._set(account, destination, was, {**values, "verified_at": at} if report.ok else values)

    async def _set(self, account: int, destination: str, was: int, values: dict[str, Any]) -> None:
        which = _is(account, destination)
        change = update(DestinationRow).where(*which, DestinationRow.version == was).values(**values)
        async with self.transaction() as session:
            if _rows(await session.execute(change)):
                return
            if await session.scalar(select(DestinationRow.id).where(*which)) is None:
                raise DestinationNotFound(_NOT_FOUND)
        raise DestinationChanged(
            "The destination was changed by another call meanwhile: read it again, and make this call once more."
        )

    async def page(self, account: int, query: Query) -> Page:
        """The page of the account's destinations that `query` asks for; empty past the end."""
        matching = [DestinationRow.account_id == account]
        if query.search_term:
            matching.append(DestinationRow.folded.contains(query.search_term.casefold(), autoescape=True))
        column = _SORTED[query.sort_by]
        rows = (
            select(DestinationRow)
            .where(*matching)
            .order_by(*(c.desc() if query.descending else c.asc() for c in (column, DestinationRow.id)))
            .limit(PAGE_SIZE)
            .offset((query.page - 1) * PAGE_SIZE)
        )
        async with self.transaction() as session:
            used = await session.scalar(select(AccountRow.used).where(AccountRow.id == account)) or 0
            found = (await session.scalars(rows)).all()
            count = used
            if query.search_term:
                count = await session.scalar(select(func.count()).select_from(DestinationRow).where(*matching)) or 0
        return Page(tuple(_destination(row) for row in found), matching=count, used=used)

    async def delete(self, account: int, destination: str) -> None:
        """Raises DestinationNotFound where this account has no such destination."""
        give_back = update(AccountRow).where(AccountRow.id == account).values(used=AccountRow.used - 1)
        async with self.transaction() as session:
            if _rows(await session.execute(delete(DestinationRow).where(*_is(account, destination)))) == 0:
                raise DestinationNotFound(_NOT_FOUND)
            await session.execute(give_back)


def _is(account: int, destination: str) -> tuple[ColumnElement[bool], ...]:
    return DestinationRow.account_id == account, DestinationRow.id == destination


def _rows(result: Any) -> int:
    return int(result.rowcount)


def _columns(destination: Destination) -> dict[str, Any]:
    report = destination.verification
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
        "verification": report.as_answer() if report else None,
    }


def _destination(row: DestinationRow) -> Destination:
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
        verification=Report.model_validate(row.verification) if row.verification else None,
    )
