"""What is kept: the repository's promises on a real database, and the schema that the migrations make."""

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, column, insert, inspect, select, table, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from app.domain.deletes import DeletePolicy
from app.domain.destination import Destination, Page, Query, SortBy
from app.domain.errors import (
    AccountNotFound,
    DestinationChanged,
    DestinationLimitReached,
    DestinationNotFound,
    KeyNotFound,
    KeyReused,
    StillUnderWay,
    Unavailable,
)
from app.domain.verification import Report
from app.messages.sealing import NotSealedByUs, Sealer, new_key
from app.store import engine as engines
from app.store.accounts import Accounts, key_hash
from app.store.destinations import DestinationRepository
from app.store.engine import (
    ANSWER_SECONDS,
    Database,
    SchemaMismatch,
    Transactions,
    _config,
    _head,
    migrate,
    open_engine,
    require_schema,
)
from app.store.idempotency import IdempotencyKeys, IdempotencyRecord
from app.store.rotation import Progress, Rotation
from app.store.tables import IdempotencyRow, Table, UtcDateTime
from tests.servers.postgres import Postgres
from tests.stack import account_of

LIMIT = 50
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LATER = BEGAN + timedelta(days=1)
PASSED = Report(ok=True, message="m", type="s3", host="h", object="o", duration_ms=1, job="1", steps=())
FAILED = PASSED.model_copy(update={"ok": False, "job": "2"})


@pytest.fixture
def repository(engine: AsyncEngine) -> DestinationRepository:
    return DestinationRepository(engine)


@pytest.fixture
async def accounts(engine: AsyncEngine) -> Accounts:
    opened = Accounts(engine)
    await opened.ensure_key("first", "key-1")
    await opened.ensure_key("second", "key-2")
    return opened


@pytest.fixture
async def first(accounts: Accounts) -> int:
    account = await account_of(accounts, "key-1")
    assert account
    return account


@pytest.fixture
async def second(accounts: Accounts) -> int:
    account = await account_of(accounts, "key-2")
    assert account
    return account


def destination(account: int, number: int, **changes: Any) -> Destination:
    at = BEGAN + timedelta(seconds=number)
    values: dict[str, Any] = {
        "id": f"{number:012X}", "account": account, "name": f"name {number}", "type": "s3", "enabled": True,
        "parameters": {"s3_bucket_name": "b"}, "version": 1, "created_at": at, "updated_at": at,
    }  # fmt: skip
    return Destination(**{**values, **changes})


async def test_the_migrations_make_the_schema_that_the_tables_describe(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), Table.metadata)
        )
    assert differences == []


async def test_the_migrations_name_keys_and_indexes_as_the_tables_do(engine: AsyncEngine) -> None:
    """A comparison of metadata does not look at the names of keys, which later migrations go by."""

    def names(connection: Connection) -> dict[str, set[str | None]]:
        inspector = inspect(connection)
        return {
            name: {
                inspector.get_pk_constraint(name)["name"],
                *(each["name"] for each in inspector.get_foreign_keys(name)),
                *(each["name"] for each in inspector.get_indexes(name) if not each["unique"]),
                *(each["name"] for each in inspector.get_unique_constraints(name)),
            }
            for name in Table.metadata.tables
        }

    described = {
        name: {str(each.name) for each in (*known.constraints, *known.indexes)}
        for name, known in Table.metadata.tables.items()
    }
    async with engine.connect() as connection:
        assert await connection.run_sync(names) == described


async def test_this_release_s_schema_is_that_of_the_last_migration(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        scripts = await connection.run_sync(lambda sync: ScriptDirectory.from_config(_config(sync)))
    assert _head() == scripts.get_current_head()


async def test_migrating_twice_changes_nothing_and_an_empty_database_is_refused(database_url: str) -> None:
    async with open_engine(database_url) as opened:
        with pytest.raises(SchemaMismatch, match="dropoff migrate"):
            await require_schema(opened)
        await migrate(opened)
        await migrate(opened)
        await require_schema(opened)


async def test_migrating_at_once_is_migrating_once(database_url: str) -> None:
    """As when two machines of a deployment start together."""

    async def once() -> None:
        async with open_engine(database_url) as opened:
            await migrate(opened)
            await require_schema(opened)

    await asyncio.gather(*(once() for _ in range(4)))


@pytest.mark.parametrize("revision", ["0001"])
async def test_an_earlier_schema_is_brought_up_with_its_data(database_url: str, revision: str) -> None:
    values = {
        "accounts": {"id": 1, "name": "a", "used": 1, "created_at": BEGAN},
        "keys": {"hash": key_hash("old"), "account_id": 1, "created_at": BEGAN},
        "destinations": {
            "id": f"{1:012X}", "account_id": 1, "name": "n", "folded": "n", "type": "s3", "enabled": True,
            "parameters": {"s3_bucket_name": "b"}, "sealed": "sealed", "version": 1, "created_at": BEGAN,
            "updated_at": BEGAN,
        },
    }  # fmt: skip
    async with open_engine(database_url) as opened:
        await migrate(opened, revision)
        with pytest.raises(SchemaMismatch, match=f"schema {revision}.*dropoff migrate"):
            await require_schema(opened)
        async with opened.begin() as connection:
            for name, row in values.items():
                await connection.execute(insert(Table.metadata.tables[name]).values(**row))
        await migrate(opened)
        await require_schema(opened)
        assert await account_of(Accounts(opened), "old") == 1
        assert await DestinationRepository(opened).get(1, f"{1:012X}") == destination(
            1, 1, name="n", created_at=BEGAN, updated_at=BEGAN
        )


CLAIM = {
    "account_id": 1, "key": "k" * 64, "fingerprint": "f" * 64, "destination": f"{1:012X}", "until": LATER,
    "status": 200, "answer": "the answer", "created_at": BEGAN,
}  # fmt: skip
CLAIMS = table("claims", *(column(name, UtcDateTime() if name in ("until", "created_at") else None) for name in CLAIM))


async def with_a_claim(engine: AsyncEngine) -> None:
    """Bring `engine` to the schema that called idempotency keys claims, with one of them."""
    await migrate(engine, "0002")
    async with engine.begin() as connection:
        account = {"id": 1, "name": "a", "used": 1, "created_at": BEGAN}
        await connection.execute(insert(Table.metadata.tables["accounts"]).values(**account))
        await connection.execute(insert(CLAIMS).values(**CLAIM))


async def test_an_idempotency_key_outlives_the_renaming_of_its_table_and_the_way_back(database_url: str) -> None:
    async with open_engine(database_url) as opened:
        await with_a_claim(opened)
        await migrate(opened)
        async with opened.begin() as connection:
            (row,) = (await connection.execute(select(Table.metadata.tables["idempotency_keys"]))).mappings()
            assert dict(row) == {("leased_until" if name == "until" else name): each for name, each in CLAIM.items()}
            await connection.run_sync(lambda sync: command.downgrade(_config(sync), "0002"))
            (row,) = (await connection.execute(select(CLAIMS))).mappings()
            assert dict(row) == CLAIM
        await migrate(opened)
        await require_schema(opened)


async def test_a_migration_that_fails_leaves_the_schema_and_the_data_as_they_were(database_url: str) -> None:
    """Its last statement fails, since the name of the index is taken."""
    async with open_engine(database_url) as opened:
        await with_a_claim(opened)
        async with opened.begin() as connection:
            await connection.execute(text("CREATE INDEX ix_idempotency_keys_created_at ON claims (status)"))
        with pytest.raises(DBAPIError, match="ix_idempotency_keys_created_at"):
            await migrate(opened)
        with pytest.raises(SchemaMismatch, match="schema 0002"):
            await require_schema(opened)
        async with opened.begin() as connection:
            await connection.execute(text("DROP INDEX ix_idempotency_keys_created_at"))
        await migrate(opened)
        await require_schema(opened)
        async with opened.connect() as connection:
            rows = (await connection.execute(select(Table.metadata.tables["idempotency_keys"]))).all()
        assert len(rows) == 1


async def test_going_back_and_forth_ends_where_it_began(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(_config(sync), "base"))
        left = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    assert left == ["alembic_version"]
    await migrate(engine)
    await require_schema(engine)


async def test_sqlite_writes_ahead_and_to_the_disk(tmp_path: Path) -> None:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as engine, engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar() == 2
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar() == 1


async def test_what_was_added_is_read_back_as_it_was(repository: DestinationRepository, first: int) -> None:
    added = destination(first, 1, name="Größe", verified_at=BEGAN)
    await repository.add(added, "sealed", LIMIT)
    assert await repository.get(first, added.id) == added


async def test_an_account_never_sees_anothers_destination(
    repository: DestinationRepository, first: int, second: int
) -> None:
    await repository.add(destination(first, 1), "sealed", LIMIT)
    for call in (repository.get, repository.delete):
        with pytest.raises(DestinationNotFound):
            await call(second, f"{1:012X}")
    assert await repository.page(second, Query()) == Page((), matching=0, used=0)
    assert (await repository.get(first, f"{1:012X}")).account == first


async def test_deleting_one_leaves_its_neighbours(repository: DestinationRepository, first: int, second: int) -> None:
    for account, number in ((first, 1), (first, 2), (second, 3)):
        await repository.add(destination(account, number), "sealed", LIMIT)
    await repository.delete(first, f"{1:012X}")
    assert [d.id for d in (await repository.page(first, Query())).destinations] == [f"{2:012X}"]
    assert [d.id for d in (await repository.page(second, Query())).destinations] == [f"{3:012X}"]
    with pytest.raises(DestinationNotFound):
        await repository.delete(first, f"{1:012X}")
    assert ((await repository.standing(first)).used, (await repository.standing(second)).used) == (1, 1)


async def test_the_limit_holds_when_many_arrive_at_once(repository: DestinationRepository, first: int) -> None:
    added = await asyncio.gather(
        *(repository.add(destination(first, n), "sealed", 3) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, Destination) for result in added) == 3
    assert sum(isinstance(result, DestinationLimitReached) for result in added) == 5
    assert (await repository.standing(first)).used == 3


@pytest.mark.parametrize("sort_by", SortBy)
@pytest.mark.parametrize("descending", [False, True])
async def test_pages_neither_repeat_nor_skip(
    repository: DestinationRepository, first: int, second: int, sort_by: SortBy, descending: bool
) -> None:
    """Many of one name, one type and one moment: only the tie-break tells them apart."""
    for number in range(25):
        same = {"name": f"n{number % 2}", "type": ("s3", "oss")[number % 2], "created_at": BEGAN}
        await repository.add(destination(first, number, **same), "sealed", LIMIT)
        await repository.add(destination(second, 100 + number), "sealed", LIMIT)
    pages = [
        await repository.page(first, Query(page=page, sort_by=sort_by, descending=descending)) for page in (1, 2, 3, 4)
    ]
    assert [len(page.destinations) for page in pages] == [10, 10, 5, 0]
    shown = [d for page in pages for d in page.destinations]
    assert len({d.id for d in shown}) == 25
    key: Callable[[Destination], Any] = {
        SortBy.CREATED: lambda d: (d.created_at, d.id),
        SortBy.NAME: lambda d: (d.name, d.id),
        SortBy.TYPE: lambda d: (d.type, d.id),
    }[sort_by]
    assert shown == sorted(shown, key=key, reverse=descending)


async def test_oldest_come_first_unless_asked_otherwise(repository: DestinationRepository, first: int) -> None:
    for number in (3, 1, 2):
        await repository.add(destination(first, number, name=f"{9 - number}"), "sealed", LIMIT)
    listed = (await repository.page(first, Query())).destinations
    assert [d.id for d in listed] == [f"{n:012X}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("term", "found"),
    [("gröSSE", ["Größe"]), ("100%", ["100% sure"]), ("_", ["a_b"]), ("", ["100% sure", "Größe", "a_b"]), ("x", [])],
)
async def test_a_search_finds_the_name_in_any_case_and_nothing_is_a_wildcard(
    repository: DestinationRepository, first: int, term: str, found: list[str]
) -> None:
    for number, name in enumerate(["Größe", "100% sure", "a_b"]):
        await repository.add(destination(first, number, name=name), "sealed", LIMIT)
    page = await repository.page(first, Query(search_term=term, sort_by=SortBy.NAME))
    assert [d.name for d in page.destinations] == sorted(found, key=str.casefold)
    assert (page.matching, page.used) == (len(found), 3)


async def test_a_key_is_kept_as_its_hash_and_removed_at_once(
    engine: AsyncEngine, accounts: Accounts, first: int
) -> None:
    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM keys"))).all()
    assert "key-1" not in str(rows)
    assert await account_of(accounts, "key-3") is None
    await accounts.ensure_key("first", "key-3")
    assert await account_of(accounts, "key-3") == first
    await accounts.remove_key("key-3")
    assert await account_of(accounts, "key-3") is None
    assert await account_of(accounts, "key-1") == first


async def test_an_update_is_stored_over_the_version_that_was_read(
    repository: DestinationRepository, first: int
) -> None:
    before = destination(first, 1)
    await repository.add(before, "sealed", LIMIT)
    after = replace(before, name="after", version=2, verified_at=BEGAN)
    await repository.change(after, "sealed anew", expected_version=1, verified=True)
    assert await repository.with_credentials(first, before.id) == (after, "sealed anew")
    with pytest.raises(DestinationChanged):
        await repository.change(replace(before, name="late", version=2), "late", expected_version=1, verified=True)
    assert await repository.with_credentials(first, before.id) == (after, "sealed anew")
    await repository.delete(first, before.id)
    with pytest.raises(DestinationNotFound):
        await repository.change(replace(after, version=3), "gone", expected_version=2, verified=True)


async def test_of_many_updates_at_once_one_is_stored(repository: DestinationRepository, first: int) -> None:
    before = destination(first, 1)
    await repository.add(before, "sealed", LIMIT)
    results = await asyncio.gather(
        *(
            repository.change(replace(before, name=f"{n}", version=2), f"{n}", expected_version=1, verified=True)
            for n in range(8)
        ),
        return_exceptions=True,
    )
    assert sum(result is None for result in results) == 1
    after, sealed = await repository.with_credentials(first, before.id)
    assert after.name == sealed == str(results.index(None))


async def test_a_verification_is_kept_with_the_version_that_it_is_about(
    repository: DestinationRepository, first: int
) -> None:
    before, neighbour = destination(first, 1), destination(first, 2)
    for each in (before, neighbour):
        await repository.add(each, "sealed", LIMIT)
    await repository.verified(first, before.id, PASSED, LATER, expected_version=1)
    kept = replace(before, verified_at=LATER, verification=PASSED.as_answer())
    assert await repository.with_credentials(first, before.id) == (kept, "sealed")
    await repository.verified(first, before.id, FAILED, LATER + timedelta(hours=1), expected_version=1)
    assert await repository.get(first, before.id) == replace(kept, verification=FAILED.as_answer())
    with pytest.raises(DestinationChanged):
        await repository.verified(first, before.id, PASSED, LATER, expected_version=2)
    for nobodys in (f"{9:012X}", ""):
        with pytest.raises(DestinationNotFound):
            await repository.verified(first, nobodys, PASSED, LATER, expected_version=1)
    assert await repository.get(first, before.id) == replace(kept, verification=FAILED.as_answer())
    assert await repository.get(first, neighbour.id) == neighbour


async def test_a_change_that_verified_nothing_leaves_the_verification_that_was_kept_meanwhile(
    repository: DestinationRepository, first: int
) -> None:
    before = destination(first, 1)
    await repository.add(before, "sealed", LIMIT)
    await repository.verified(first, before.id, PASSED, LATER, expected_version=1)
    renamed = replace(before, name="renamed", version=2)
    await repository.change(renamed, "sealed", expected_version=1, verified=False)
    assert await repository.get(first, before.id) == replace(
        renamed, verified_at=LATER, verification=PASSED.as_answer()
    )


async def test_another_account_changes_nothing(repository: DestinationRepository, first: int, second: int) -> None:
    before = destination(first, 1)
    await repository.add(before, "sealed", LIMIT)
    with pytest.raises(DestinationNotFound):
        await repository.change(replace(before, account=second, version=2), "stolen", expected_version=1, verified=True)
    with pytest.raises(DestinationNotFound):
        await repository.verified(second, before.id, PASSED, LATER, expected_version=1)
    assert await repository.with_credentials(first, before.id) == (before, "sealed")


async def test_keys_are_listed_by_an_id_and_revoked_by_it(accounts: Accounts, first: int) -> None:
    await accounts.ensure_key("first", "key-3")
    listed = await accounts.keys()
    assert [name for _, name, _ in listed] == ["first", "second", "first"]
    assert all(re.fullmatch("[0-9a-f]{12}", key_id) for key_id, _, _ in listed)
    await accounts.revoke_key("first", listed[2][0])
    assert await account_of(accounts, "key-3") is None
    assert await account_of(accounts, "key-1") == first
    for nothing in (listed[2][0], "", "%", "_" * 12, "0" * 12, listed[0][0][:11]):
        with pytest.raises(KeyNotFound):
            await accounts.revoke_key("first", nothing)


class TestIdempotencyKeys:
    FINGERPRINTS = ("by the new key", "by the old key")

    async def acquire(
        self, engine: AsyncEngine, account: int, lease_seconds: float = 60, **changes: Any
    ) -> IdempotencyRecord:
        arguments = {"key": "k", "fingerprints": self.FINGERPRINTS, "destination": "D" * 12, **changes}
        return await IdempotencyKeys(engine).acquire(account, lease_seconds=lease_seconds, **arguments)

    async def test_one_gets_the_lease_and_the_others_wait(self, engine: AsyncEngine, first: int, second: int) -> None:
        results = await asyncio.gather(*(self.acquire(engine, first) for _ in range(6)), return_exceptions=True)
        assert [result for result in results if not isinstance(result, StillUnderWay)] == [IdempotencyRecord("D" * 12)]
        assert await self.acquire(engine, second) == IdempotencyRecord("D" * 12)

    async def test_the_answer_is_for_who_asks_the_same(self, engine: AsyncEngine, first: int) -> None:
        await self.acquire(engine, first, fingerprints=["by the old key"])
        await IdempotencyKeys(engine).store_answer(first, "k", 200, "the answer")
        assert await self.acquire(engine, first) == IdempotencyRecord("D" * 12, status=200, answer="the answer")
        with pytest.raises(KeyReused):
            await self.acquire(engine, first, fingerprints=["another"])

    async def test_a_lease_that_was_released_or_has_expired_goes_to_one(self, engine: AsyncEngine, first: int) -> None:
        await self.acquire(engine, first)
        await IdempotencyKeys(engine).release(first, "k")
        assert await self.acquire(engine, first, lease_seconds=0, destination="E" * 12) == IdempotencyRecord(
            "D" * 12, may_exist=True
        )
        results = await asyncio.gather(*(self.acquire(engine, first) for _ in range(6)), return_exceptions=True)
        assert [r for r in results if not isinstance(r, StillUnderWay)] == [IdempotencyRecord("D" * 12, may_exist=True)]

    async def test_a_day_later_the_key_is_free(self, engine: AsyncEngine, first: int) -> None:
        await self.acquire(engine, first)
        await IdempotencyKeys(engine).store_answer(first, "k", 200, "the answer")
        old = update(IdempotencyRow).values(created_at=datetime.now(UTC) - timedelta(hours=24, seconds=1))
        async with engine.begin() as connection:
            await connection.execute(old)
        assert await self.acquire(engine, first, fingerprints=["another"], destination="F" * 12) == IdempotencyRecord(
            "F" * 12
        )


class TestRotation:
    async def rotated(self, engine: AsyncEngine, *keys: str, batch: int = 2) -> Progress:
        return [progress async for progress in Rotation(engine).run(Sealer(keys), batch)][-1]

    async def test_everything_is_sealed_anew_and_the_unreadable_is_named(
        self, engine: AsyncEngine, repository: DestinationRepository, first: int
    ) -> None:
        old, new, lost = new_key(), new_key(), new_key()
        for number, key in enumerate([old, old, lost, new, old]):
            await repository.add(destination(first, number), Sealer([key]).seal({"n": number}), LIMIT)
        progress = await self.rotated(engine, new, old)
        assert (progress.resealed, progress.left, progress.unreadable) == (3, 0, [f"{2:012X}"])
        for number in (0, 1, 3, 4):
            _, sealed = await repository.with_credentials(first, f"{number:012X}")
            assert Sealer([new]).open(sealed) == {"n": number}
        _, kept = await repository.with_credentials(first, f"{2:012X}")
        assert Sealer([lost]).open(kept) == {"n": 2}
        assert (await self.rotated(engine, new, old)).resealed == 0

    async def test_it_may_be_interrupted_and_run_again(
        self, engine: AsyncEngine, repository: DestinationRepository, first: int
    ) -> None:
        old, new = new_key(), new_key()
        for number in range(5):
            await repository.add(destination(first, number), Sealer([old]).seal({}), LIMIT)
        run = Rotation(engine).run(Sealer([new, old]), 2)
        progress = await anext(run)
        assert (progress.resealed, progress.left) == (2, 3)
        await run.aclose()
        assert (await self.rotated(engine, new, old)).resealed == 3

    async def test_an_empty_database_is_done(self, engine: AsyncEngine) -> None:
        await migrate(engine)
        assert (await self.rotated(engine, new_key())).left == 0


async def test_a_postgresql_that_stops_answering_is_unavailable_in_time_and_then_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Postgres() as server:
        url = server.new_database()
        async with open_engine(url) as opened:
            await migrate(opened)
            await Accounts(opened).ensure_key("a", "key")
        monkeypatch.setattr(engines, "ANSWER_SECONDS", ANSWER_SECONDS)
        async with open_engine(url) as opened:
            accounts = Accounts(opened)
            await answered(accounts)
            server.signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await account_of(accounts, "key")
            assert time.monotonic() - began < 2 * ANSWER_SECONDS + 10
            server.signal(signal.SIGCONT)
            await answered(accounts)


async def answered(accounts: Accounts) -> None:
    """Return when the database answers, which on a slow machine may take it longer than it has."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unavailable):
                assert await account_of(accounts, "key")
                return


@pytest.mark.parametrize(("patient", "seconds"), [(False, 60.0), (True, None)])
async def test_a_migration_may_take_its_time_and_a_request_may_not(
    postgres: Postgres, patient: bool, seconds: float | None
) -> None:
    async with open_engine(postgres.new_database(), patient=patient) as opened, opened.connect() as connection:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection
        assert raw.driver_connection._config.command_timeout == seconds


async def test_many_who_come_first_open_one_reader_and_are_stored_by_one_writer(tmp_path: Path) -> None:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as opened:
        await migrate(opened)
        await Accounts(opened).ensure_key("a", "key")
    many = 100
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as opened:
        assert isinstance(opened, Database) and opened.sqlite
        found = await asyncio.gather(*(account_of(Accounts(opened), "key") for _ in range(many)))
        assert set(found) == {1}
        repository = DestinationRepository(opened)
        adding = (repository.add(destination(1, n), "sealed", many - 10) for n in range(many))
        added = await asyncio.gather(*adding, return_exceptions=True)
        assert sum(isinstance(each, Destination) for each in added) == many - 10
        assert sum(isinstance(each, DestinationLimitReached) for each in added) == 10
        assert (await repository.standing(1)).used == many - 10
        pool = opened.sqlite._engine.pool
        assert isinstance(pool, QueuePool)
        # The reader's and the writer's.
        assert pool.checkedout() + pool.checkedin() == 2


async def test_a_database_that_cannot_be_opened_is_said_to_be_unavailable(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"no database" * 1000)
    for name in (".", "junk"):
        async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/{name}") as opened:
            with pytest.raises(Unavailable):
                await account_of(Accounts(opened), "key")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'too_many_connections'; END $$",
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$",
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction'; END $$",
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'deadlock_detected'; END $$",
    ],
)
async def test_a_postgresql_that_cannot_work_at_the_moment_is_unavailable(postgres: Postgres, statement: str) -> None:
    async with open_engine(postgres.new_database()) as opened:
        with pytest.raises(Unavailable):
            async with Transactions(opened).transaction() as session:
                await session.execute(text(statement))


async def test_a_login_that_postgresql_refuses_is_unavailable(postgres: Postgres) -> None:
    url = make_url(postgres.new_database()).set(username="nobody", password="wrong")
    async with open_engine(url.render_as_string(hide_password=False)) as opened:
        with pytest.raises(Unavailable):
            await account_of(Accounts(opened), "key")


@pytest.mark.parametrize("statement", ["SELEC 1", "SELECT * FROM nothing", "SELECT nothing FROM accounts"])
async def test_what_a_database_has_against_a_statement_is_no_outage(engine: AsyncEngine, statement: str) -> None:
    with pytest.raises(DBAPIError):
        async with Transactions(engine).transaction() as session:
            await session.execute(text(statement))


async def test_no_error_of_a_database_shows_what_was_to_be_stored(engine: AsyncEngine) -> None:
    """A traceback of it may be logged."""
    with pytest.raises(DBAPIError) as caught:
        async with Transactions(engine).transaction() as session:
            await session.execute(text("INSERT INTO nothing VALUES (:value)"), {"value": "SENTINEL"})
    assert "SENTINEL" not in str(caught.value)


@pytest.mark.parametrize("odd", ["\0", "a\0b", "\udcff", "é", "abcdefabcdef", "0" * 13])
async def test_what_is_no_id_is_no_destination(repository: DestinationRepository, first: int, odd: str) -> None:
    for call in (repository.get, repository.with_credentials, repository.delete):
        with pytest.raises(DestinationNotFound):
            await call(first, odd)
    with pytest.raises(DestinationNotFound):
        await repository.verified(first, odd, PASSED, LATER, expected_version=1)


def test_only_our_own_seals_open() -> None:
    old, new, other = new_key(), new_key(), new_key()
    sealed = Sealer([old]).seal({"secret": "SENTINEL"})
    assert "SENTINEL" not in sealed
    assert Sealer([new, old]).open(sealed) == {"secret": "SENTINEL"}
    for text_ in (sealed[:-2] + "xx", "", "é", json.dumps({"secret": "x"}), Sealer([other]).seal({})):
        with pytest.raises(NotSealedByUs):
            Sealer([new, old]).open(text_)
    with pytest.raises(ValueError, match="DROPOFF_SECRET_KEYS"):
        Sealer([])
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(["short"])


async def test_an_account_may_have_a_delete_policy_of_its_own(
    repository: DestinationRepository, accounts: Accounts, first: int, second: int
) -> None:
    (name,) = (await accounts.names({first})).values()
    assert (await repository.standing(first)).delete is None
    assert await accounts.change(name, {"delete_policy": DeletePolicy.LENIENT})
    assert (await repository.standing(first)).delete is DeletePolicy.LENIENT
    assert (await repository.standing(second)).delete is None
    assert await accounts.change(name, {"delete_policy": None})
    assert (await repository.standing(first)).delete is None
    with pytest.raises(AccountNotFound):
        await accounts.change("nobody", {"delete_policy": DeletePolicy.STRICT})
