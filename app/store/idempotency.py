"""Idempotency keys in the database: which request has a key, and what it was answered."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import Connection, Table, bindparam, delete, exc, insert, select, update

from app.domain.errors import KeyReused, StillUnderWay
from app.store.engine import Transactions, rows_changed
from app.store.tables import IdempotencyRow

RETENTION = timedelta(hours=24)
"""How long a key is known after its first request."""

_KEYS = cast(Table, IdempotencyRow.__table__)
_THE_ONE = (_KEYS.c.account_id == bindparam("account"), _KEYS.c.key == bindparam("hashed"))
_GET = select(_KEYS).where(*_THE_ONE)
_DESTINATION = select(_KEYS.c.destination).where(*_THE_ONE)
_LOCK_LEASE = select(_KEYS.c.leased_until).where(*_THE_ONE).with_for_update()
_INSERT = insert(_KEYS)
_DELETE_OLD = delete(_KEYS).where(_KEYS.c.created_at < bindparam("before"))
_RENEW = (
    update(_KEYS)
    .where(*_THE_ONE, _KEYS.c.answer.is_(None), _KEYS.c.leased_until <= bindparam("now"))
    .values(leased_until=bindparam("until"))
)

_UNDER_WAY = "The request with this Idempotency-Key is still being worked on: ask again shortly."


@dataclass(frozen=True)
class IdempotencyRecord:
    """What is known of a key. With an `answer`, that is to be given once more; without one, the caller has the lease
    and carries the request out. `destination` is the id of what that creates, which every attempt shares; `may_exist`
    says that an earlier attempt ended without an answer, so that it may have been created already."""

    destination: str
    may_exist: bool = False
    status: int | None = None
    answer: str | None = None


class IdempotencyKeys(Transactions):
    """The only way to the table of idempotency keys. Every method raises Unavailable while the database does not
    answer; where that is OutcomeUnknown, it is about the key alone."""

    async def acquire(
        self, account: int, key: str, fingerprints: Sequence[str], destination: str, lease_seconds: float
    ) -> IdempotencyRecord:
        """Lease `key` to the caller for `lease_seconds`, or say what its request was answered.

        `fingerprints` identify the request, one by each sealing key; the first is stored, any of them is recognised.
        `destination` is the id to use if the key is new. Raises KeyReused where the key came with another request,
        StillUnderWay where somebody else has the lease.
        """
        now = datetime.now(UTC)
        leased_until = now + timedelta(seconds=lease_seconds)
        which = _which(account, key)
        new = {
            "account_id": account, "key": which["hashed"], "fingerprint": fingerprints[0], "destination": destination,
            "leased_until": leased_until, "created_at": now,
        }  # fmt: skip

        def insert(connection: Connection) -> None:
            connection.execute(_DELETE_OLD, {"before": now - RETENTION})
            connection.execute(_INSERT, new)

        def inserted(connection: Connection) -> bool:
            # Nobody else gives this id. An insert that ends later is a lease that nobody uses, and it runs out.
            return connection.scalar(_DESTINATION, which) == destination

        try:
            await self.write(insert, inserted)
        except exc.IntegrityError:
            return await self._existing(which, fingerprints, now, leased_until)
        return IdempotencyRecord(destination)

    async def _existing(
        self, which: Mapping[str, Any], fingerprints: Sequence[str], now: datetime, leased_until: datetime
    ) -> IdempotencyRecord:
        def renew(connection: Connection) -> IdempotencyRecord:
            row = connection.execute(_GET, which).first()
            if row is None:
                raise StillUnderWay(_UNDER_WAY)
            if row.fingerprint not in fingerprints:
                raise KeyReused("This Idempotency-Key was used with another request: use a new key for each request.")
            if row.answer is not None:
                return IdempotencyRecord(row.destination, status=row.status, answer=row.answer)
            # An expired lease without an answer: its process has died. Of several that find it, one gets it.
            if rows_changed(connection.execute(_RENEW, {**which, "now": now, "until": leased_until})) == 0:
                raise StillUnderWay(_UNDER_WAY)
            return IdempotencyRecord(row.destination, may_exist=True)

        def renewed(connection: Connection) -> bool:
            return connection.scalar(_LOCK_LEASE, which) == leased_until

        return await self.write(renew, renewed)

    async def store_answer(self, account: int, key: str, status: int, answer: str) -> None:
        """Answer every repeat of the request with this from now on."""
        await self._set(account, key, status=status, answer=answer)

    async def release(self, account: int, key: str) -> None:
        """End the lease without an answer: the next one who sends the request carries it out."""
        await self._set(account, key, leased_until=datetime.now(UTC))

    async def _set(self, account: int, key: str, **values: object) -> None:
        change = update(_KEYS).where(*_THE_ONE).values(**values)

        def set_values(connection: Connection) -> None:
            connection.execute(change, _which(account, key))

        await self.write(set_values)


def _which(account: int, key: str) -> dict[str, Any]:
    """The parameters of _THE_ONE."""
    return {"account": account, "hashed": _hash(key)}


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
