"""Idempotency keys in the database: who claimed one, and what was answered."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, exc, insert, select, update

from app.domain.errors import KeyReused, StillUnderWay
from app.store.engine import Transactions
from app.store.tables import ClaimRow

KEPT = timedelta(hours=24)


@dataclass(frozen=True)
class Claim:
    """What became of claiming a key: with an `answer`, that is to be repeated; else the request is the caller's to
    carry out. `destination` is the id to create; `again` says that an earlier caller who died may have done so."""

    destination: str
    again: bool = False
    status: int | None = None
    answer: str | None = None


class Claims(Transactions):
    """The only way to the table of claims. Every method raises Unavailable while the database does not answer."""

    async def claim(
        self, account: int, key: str, fingerprints: Sequence[str], destination: str, seconds: float
    ) -> Claim:
        """Claim `key` for `seconds`, for a request that has one of `fingerprints`, the first being the one to keep.

        Raises KeyReused where the key came with another request, StillUnderWay where this one is worked on.
        """
        now = datetime.now(UTC)
        until = now + timedelta(seconds=seconds)
        row = {"account_id": account, "key": _hash(key), "fingerprint": fingerprints[0], "destination": destination}
        try:
            async with self.transaction() as session:
                await session.execute(delete(ClaimRow).where(ClaimRow.created_at < now - KEPT))
                await session.execute(insert(ClaimRow).values(**row, until=until, created_at=now))
        except exc.IntegrityError:
            return await self._earlier(account, key, fingerprints, now, until)
        return Claim(destination)

    async def _earlier(
        self, account: int, key: str, fingerprints: Sequence[str], now: datetime, until: datetime
    ) -> Claim:
        which = (ClaimRow.account_id == account, ClaimRow.key == _hash(key))
        async with self.transaction() as session:
            row = await session.scalar(select(ClaimRow).where(*which))
            if row is None:
                raise StillUnderWay(_UNDER_WAY)
            if row.fingerprint not in fingerprints:
                raise KeyReused("This Idempotency-Key was used with another request: use a new key for each request.")
            if row.answer is not None:
                return Claim(row.destination, status=row.status, answer=row.answer)
            # Whoever had it is gone; of several that find out, one takes it over.
            take = update(ClaimRow).where(*which, ClaimRow.answer.is_(None), ClaimRow.until <= now).values(until=until)
            if (await session.execute(take)).rowcount == 0:  # type: ignore[attr-defined]
                raise StillUnderWay(_UNDER_WAY)
            return Claim(row.destination, again=True)

    async def answered(self, account: int, key: str, status: int, answer: str) -> None:
        """Keep what was answered, for everybody who asks again within KEPT."""
        await self._set(account, key, status=status, answer=answer)

    async def let_go(self, account: int, key: str) -> None:
        """Let the next one with the same request carry it out: this time there was no answer that would last."""
        await self._set(account, key, until=datetime.now(UTC))

    async def _set(self, account: int, key: str, **values: object) -> None:
        which = (ClaimRow.account_id == account, ClaimRow.key == _hash(key))
        async with self.transaction() as session:
            await session.execute(update(ClaimRow).where(*which).values(**values))


_UNDER_WAY = "The request with this Idempotency-Key is still being worked on: ask again shortly."


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
