"""Accounts and the API keys that open them, in the database."""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    bindparam,
    delete,
    exc,
    func,
    insert,
    or_,
    select,
    update,
)

from app.domain.account import (
    KEY_ID_LENGTH,
    PAGE_SIZE,
    Account,
    AccountPage,
    AccountQuery,
    Key,
    is_key_id,
)
from app.domain.audit import Action
from app.domain.deletes import DeletePolicy
from app.domain.destination import is_name
from app.domain.errors import AccountExists, AccountInUse, AccountNotFound, KeyInUse, KeyNotFound
from app.store.audit import Note, noted
from app.store.engine import Transactions, rows_changed
from app.store.tables import AccountRow, CollectionRow, KeyRow

_ACCOUNTS, _KEYS = cast(Table, AccountRow.__table__), cast(Table, KeyRow.__table__)
_OPENED = (
    select(_KEYS.c.hash, _ACCOUNTS.c.id, _ACCOUNTS.c.name)
    .join(_ACCOUNTS, _ACCOUNTS.c.id == _KEYS.c.account_id)
    .where(_KEYS.c.hash == bindparam("hashed"))
)
_THERE = _ACCOUNTS.c.deleted_at.is_(None)
_NAMED = select(_ACCOUNTS).where(_ACCOUNTS.c.name == bindparam("named"), _THERE)
_NOTHING_OF_ITS_OWN = {"destination_limit": None, "verification_limit": None, "delete_policy": None}


def new_key() -> str:
    """An API key that nobody has."""
    return secrets.token_urlsafe(32)


class Owner(NamedTuple):
    """The account that a key opens; the operator gave it its name, and it is never renamed."""

    account: int
    name: str


def key_hash(key: str) -> str:
    """The SHA-256 of an API key. A key is 256 random bits, so its hash needs no slow function to be safe."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def key_id(key: str) -> str:
    """The id of an API key: the beginning of its hash, which opens nothing."""
    return key_hash(key)[:KEY_ID_LENGTH]


class Accounts(Transactions):
    """The only way to the accounts and their keys. Every method raises Unavailable while the database does not
    answer, and those that change something OutcomeUnknown where it does not from the commit on."""

    async def owner_of(self, key: str) -> Owner | None:
        """Whom `key` lets in; None both for a key that never was and for one that was revoked. The database is asked
        each time, so that a revoked key stops working at once on every process."""
        hashed = key_hash(key)
        row = await self.read(lambda connection: connection.execute(_OPENED, {"hashed": hashed}).first())
        return Owner(row.id, row.name) if row and hmac.compare_digest(row.hash, hashed) else None

    async def create(self, name: str, own: Mapping[str, Any]) -> Account:
        """A new account with what it has of its `own`. Raises AccountExists. One that was deleted is there again, with
        its number and without what it had."""
        note = noted(Action.ACCOUNT_CREATED, **own)

        def work(connection: Connection) -> Account:
            if connection.scalar(select(_ACCOUNTS.c.id).where(_ACCOUNTS.c.name == name, _THERE)) is not None:
                raise _exists(name)
            note(connection, _make(connection, name, own))
            return _get(connection, name)

        try:
            return await self.write(work)
        except exc.IntegrityError:
            raise _exists(name) from None

    async def change(self, name: str, own: Mapping[str, Any]) -> Account:
        """Give the account these of its `own`, or take those that are None. Raises AccountNotFound."""
        note = noted(Action.ACCOUNT_CHANGED, **own)

        def work(connection: Connection) -> Account:
            account = _lock(connection, name)
            if own:
                connection.execute(update(_ACCOUNTS).where(_ACCOUNTS.c.id == account.id).values(**own))
                note(connection, account.id)
            return _get(connection, name)

        return await self.write(work)

    async def delete(self, name: str) -> None:
        """Take the account away, with its keys. Raises AccountNotFound, and AccountInUse where it has destinations or
        collections."""
        note = noted(Action.ACCOUNT_DELETED)

        def work(connection: Connection) -> None:
            account = _lock(connection, name)
            collections = connection.scalar(
                select(func.count()).select_from(CollectionRow).where(CollectionRow.account_id == account.id)
            )
            if account.used or collections:
                raise AccountInUse(
                    f"The account has {account.used} destinations and {collections} collections: delete them first."
                )
            connection.execute(delete(_KEYS).where(_KEYS.c.account_id == account.id))
            gone = {**_NOTHING_OF_ITS_OWN, "deleted_at": datetime.now(UTC)}
            connection.execute(update(_ACCOUNTS).where(_ACCOUNTS.c.id == account.id).values(**gone))
            note(connection, account.id)

        await self.write(work)

    async def get(self, name: str) -> Account:
        """Raises AccountNotFound."""
        return await self.read(lambda connection: _get(connection, name))

    async def page(self, query: AccountQuery) -> AccountPage:
        """The page of all accounts that `query` asks for, in the order of their names; empty past the end."""
        matching: list[ColumnElement[bool]] = [_THERE]
        if query.search_term:
            # SQLite knows the other case of ASCII alone.
            name, term = _ACCOUNTS.c.name, query.search_term
            found_by = (func.lower(name).contains(term.lower(), autoescape=True), name.contains(term, autoescape=True))
            matching.append(or_(*found_by))
        rows = select(_ACCOUNTS).where(*matching).order_by(_ACCOUNTS.c.name, _ACCOUNTS.c.id)

        def look(connection: Connection) -> AccountPage:
            count = connection.scalar(select(func.count()).select_from(_ACCOUNTS).where(*matching)) or 0
            found = connection.execute(rows.limit(PAGE_SIZE).offset((query.page - 1) * PAGE_SIZE))
            return AccountPage(tuple(_account(row) for row in found), count)

        return await self.read(look, brief=False)

    async def named(self, name: str) -> int | None:
        """The account that is called `name`."""
        try:
            return (await self.get(name)).id
        except AccountNotFound:
            return None

    async def names(self, accounts: Collection[int]) -> dict[int, str]:
        """The names of `accounts`, by account."""
        rows = select(AccountRow.id, AccountRow.name).where(AccountRow.id.in_(accounts))
        async with self.reading() as session:
            return {row.id: row.name for row in await session.execute(rows)}

    async def ensure_key(self, account: str, key: str) -> None:
        """Let `key` open the account named `account`, which is created if it does not exist."""
        created, made = noted(Action.ACCOUNT_CREATED), noted(Action.KEY_CREATED, key_id(key), name=None)

        def work(connection: Connection) -> None:
            number = connection.scalar(select(_ACCOUNTS.c.id).where(_ACCOUNTS.c.name == account, _THERE))
            if number is None:
                number = _make(connection, account, {})
                created(connection, number)
            if connection.execute(_OPENED, {"hashed": key_hash(key)}).first() is None:
                _insert_key(connection, number, key, None)
                made(connection, number)

        await self.write(work)

    async def add_key(self, account: str, key: str, name: str | None, *, imported: bool) -> Key:
        """Let `key` open the account; `imported` says that it is one that the customer has already. One that opens this
        account is left as it is. Raises AccountNotFound, and KeyInUse where it opens another."""
        note = noted(Action.KEY_IMPORTED if imported else Action.KEY_CREATED, key_id(key), name=name)

        def work(connection: Connection) -> Key:
            number = _lock(connection, account).id
            found = connection.execute(select(_KEYS).where(_KEYS.c.hash == key_hash(key))).first()
            if found is None:
                _insert_key(connection, number, key, name)
                note(connection, number)
                found = connection.execute(select(_KEYS).where(_KEYS.c.hash == key_hash(key))).one()
            elif found.account_id != number:
                raise KeyInUse(_IN_USE)
            return _key(found)

        try:
            return await self.write(work)
        except exc.IntegrityError:
            # Another call was faster, for another account or for this one.
            raise KeyInUse(_IN_USE) from None

    async def keys_of(self, account: str) -> list[Key]:
        """The keys of the account, the oldest first. Raises AccountNotFound."""

        def look(connection: Connection) -> list[Key]:
            number = _get(connection, account).id
            rows = select(_KEYS).where(_KEYS.c.account_id == number).order_by(_KEYS.c.created_at, _KEYS.c.hash)
            return [_key(row) for row in connection.execute(rows)]

        return await self.read(look)

    async def keys(self) -> list[tuple[str, str, datetime]]:
        """The id, account name and time of creation of every key, oldest first. An id opens nothing."""
        rows = select(KeyRow.hash, AccountRow.name, KeyRow.created_at).join(AccountRow).order_by(KeyRow.created_at)
        async with self.reading() as session:
            return [(hashed[:KEY_ID_LENGTH], name, at) for hashed, name, at in await session.execute(rows)]

    async def revoke_key(self, account: str, identity: str) -> None:
        """Let the account's key with this id open nothing any more. Raises AccountNotFound and KeyNotFound."""

        note = noted(Action.KEY_REVOKED, identity)

        def work(connection: Connection) -> bool:
            number = _lock(connection, account).id
            return _revoke(connection, note, _KEYS.c.hash.startswith(identity), _KEYS.c.account_id == number)

        if not (is_key_id(identity) and await self.write(work)):
            raise KeyNotFound("This account has no key with this id: its keys are at /accounts/NAME/keys.")

    async def remove_key(self, key: str) -> None:
        """Remove `key`, if it is there."""
        note, which = noted(Action.KEY_REVOKED, key_id(key)), _KEYS.c.hash == key_hash(key)
        await self.write(lambda connection: _revoke(connection, note, which))


_IN_USE = "The key opens another account already: an account's keys are its own."


def _exists(name: str) -> AccountExists:
    return AccountExists(f"There is an account that is called {name} already.")


def _make(connection: Connection, name: str, own: Mapping[str, Any]) -> int:
    """The number of a new account, or of one that was deleted and is there again."""
    values = {**_NOTHING_OF_ITS_OWN, **own, "created_at": datetime.now(UTC), "deleted_at": None}
    again = update(_ACCOUNTS).where(_ACCOUNTS.c.name == name, _ACCOUNTS.c.deleted_at.is_not(None)).values(**values)
    if rows_changed(connection.execute(again)) == 0:
        connection.execute(insert(_ACCOUNTS).values(name=name, used=0, **values))
    return int(connection.execute(select(_ACCOUNTS.c.id).where(_ACCOUNTS.c.name == name)).scalar_one())


def _get(connection: Connection, name: str) -> Account:
    return _account(_row(connection, name, _NAMED))


def _lock(connection: Connection, name: str) -> Row[Any]:
    """The account's row, which stays as it is until the transaction ends. Raises AccountNotFound."""
    return _row(connection, name, _NAMED.with_for_update())


def _row(connection: Connection, name: str, rows: Select[Any]) -> Row[Any]:
    # Not every text can be sent to a database.
    row = connection.execute(rows, {"named": name}).first() if is_name(name) else None
    if row is None:
        raise AccountNotFound("There is no account of this name: the accounts are at /accounts.")
    return row


def _revoke(connection: Connection, note: Note, *which: ColumnElement[bool]) -> bool:
    """Delete the key that `which` says; whether there is one."""
    row = connection.execute(select(_KEYS).where(*which)).first()
    if row is None or rows_changed(connection.execute(delete(_KEYS).where(_KEYS.c.hash == row.hash))) == 0:
        return False
    note(connection, row.account_id)
    return True


def _insert_key(connection: Connection, account: int, key: str, name: str | None) -> None:
    row = {"hash": key_hash(key), "account_id": account, "name": name, "created_at": datetime.now(UTC)}
    connection.execute(insert(_KEYS).values(**row))


def _account(row: Row[Any]) -> Account:
    return Account(
        id=row.id,
        name=row.name,
        destinations=row.used,
        created_at=row.created_at,
        destination_limit=row.destination_limit,
        verification_limit=row.verification_limit,
        delete_policy=DeletePolicy(row.delete_policy) if row.delete_policy else None,
    )


def _key(row: Row[Any]) -> Key:
    return Key(row.hash[:KEY_ID_LENGTH], row.name, row.created_at)
