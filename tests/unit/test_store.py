"""What is kept: the repository's promises on a real database, and the schema that the migrations make."""

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, inspect, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.destination import Destination, Page, Query, SortBy
from app.domain.errors import (
    DestinationChanged,
    DestinationLimitReached,
    DestinationNotFound,
    KeyReused,
    StillUnderWay,
    Unavailable,
)
from app.domain.verification import Report
from app.store.claims import Claim, Claims
from app.store.engine import ANSWER_SECONDS, SchemaMismatch, _config, migrate, open_engine, require_schema
from app.store.repository import Repository, key_hash
from app.store.rotation import Progress, Rotation
from app.store.sealing import NotSealedByUs, Sealer, new_key
from app.store.tables import ClaimRow, Table
from tests.servers.postgres import Postgres

LIMIT = 50
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LATER = BEGAN + timedelta(days=1)
PASSED = Report(ok=True, message="m", provider="s3", host="h", object="o", duration_ms=1, job="1", steps=())
FAILED = PASSED.model_copy(update={"ok": False, "job": "2"})


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(database_url) as opened:
        await migrate(opened)
        yield opened


@pytest.fixture
async def repository(engine: AsyncEngine) -> Repository:
    kept = Repository(engine)
    await kept.ensure_key("first", "key-1")
    await kept.ensure_key("second", "key-2")
    return kept


@pytest.fixture
async def first(repository: Repository) -> int:
    account = await repository.account_of("key-1")
    assert account
    return account


@pytest.fixture
async def second(repository: Repository) -> int:
    account = await repository.account_of("key-2")
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


async def test_migrating_twice_changes_nothing_and_an_empty_database_is_refused(database_url: str) -> None:
    async with open_engine(database_url) as opened:
        with pytest.raises(SchemaMismatch, match="dropoff migrate"):
            await require_schema(opened)
        await migrate(opened)
        await migrate(opened)
        await require_schema(opened)


async def test_migrating_at_once_is_migrating_once(postgres: Postgres) -> None:
    """As when two machines of a deployment start together."""
    url = postgres.new_database()

    async def once() -> None:
        async with open_engine(url) as opened:
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
            for table, row in values.items():
                await connection.execute(insert(Table.metadata.tables[table]).values(**row))
        await migrate(opened)
        await require_schema(opened)
        account = await Repository(opened).account_of("old")
        assert account == 1
        assert await Repository(opened).get(1, f"{1:012X}") == destination(
            1, 1, name="n", created_at=BEGAN, updated_at=BEGAN
        )


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


async def test_what_was_added_is_read_back_as_it_was(repository: Repository, first: int) -> None:
    added = destination(first, 1, name="Größe", verified_at=BEGAN)
    await repository.add(added, "sealed", LIMIT)
    assert await repository.get(first, added.id) == added


async def test_an_account_never_sees_anothers_destination(repository: Repository, first: int, second: int) -> None:
    await repository.add(destination(first, 1), "sealed", LIMIT)
    for call in (repository.get, repository.delete):
        with pytest.raises(DestinationNotFound):
            await call(second, f"{1:012X}")
    assert await repository.page(second, Query()) == Page((), matching=0, used=0)
    assert (await repository.get(first, f"{1:012X}")).account == first


async def test_deleting_one_leaves_its_neighbours(repository: Repository, first: int, second: int) -> None:
    for account, number in ((first, 1), (first, 2), (second, 3)):
        await repository.add(destination(account, number), "sealed", LIMIT)
    await repository.delete(first, f"{1:012X}")
    assert [d.id for d in (await repository.page(first, Query())).destinations] == [f"{2:012X}"]
    assert [d.id for d in (await repository.page(second, Query())).destinations] == [f"{3:012X}"]
    with pytest.raises(DestinationNotFound):
        await repository.delete(first, f"{1:012X}")
    assert (await repository.used(first), await repository.used(second)) == (1, 1)


async def test_the_limit_holds_when_many_arrive_at_once(repository: Repository, first: int) -> None:
    added = await asyncio.gather(
        *(repository.add(destination(first, n), "sealed", 3) for n in range(8)), return_exceptions=True
    )
    assert sum(result is None for result in added) == 3
    assert sum(isinstance(result, DestinationLimitReached) for result in added) == 5
    assert await repository.used(first) == 3


@pytest.mark.parametrize("sort_by", SortBy)
@pytest.mark.parametrize("descending", [False, True])
async def test_pages_neither_repeat_nor_skip(
    repository: Repository, first: int, second: int, sort_by: SortBy, descending: bool
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


async def test_oldest_come_first_unless_asked_otherwise(repository: Repository, first: int) -> None:
    for number in (3, 1, 2):
        await repository.add(destination(first, number, name=f"{9 - number}"), "sealed", LIMIT)
    listed = (await repository.page(first, Query())).destinations
    assert [d.id for d in listed] == [f"{n:012X}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("term", "found"),
    [("gröSSE", ["Größe"]), ("100%", ["100% sure"]), ("_", ["a_b"]), ("", ["100% sure", "Größe", "a_b"]), ("x", [])],
)
async def test_a_search_finds_the_name_in_any_case_and_nothing_is_a_wildcard(
    repository: Repository, first: int, term: str, found: list[str]
) -> None:
    for number, name in enumerate(["Größe", "100% sure", "a_b"]):
        await repository.add(destination(first, number, name=name), "sealed", LIMIT)
    page = await repository.page(first, Query(search_term=term, sort_by=SortBy.NAME))
    assert [d.name for d in page.destinations] == sorted(found, key=str.casefold)
    assert (page.matching, page.used) == (len(found), 3)


async def test_a_key_is_kept_as_its_hash_and_removed_at_once(
    engine: AsyncEngine, repository: Repository, first: int
) -> None:
    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM keys"))).all()
    assert "key-1" not in str(rows)
    assert await repository.account_of("key-3") is None
    await repository.ensure_key("first", "key-3")
    assert await repository.account_of("key-3") == first
    await repository.remove_key("key-3")
    assert await repository.account_of("key-3") is None
    assert await repository.account_of("key-1") == first


async def test_an_update_is_stored_over_the_version_that_was_read(repository: Repository, first: int) -> None:
    before = destination(first, 1)
    await repository.add(before, "sealed", LIMIT)
    after = replace(before, name="after", version=2, verified_at=BEGAN)
    await repository.change(after, "sealed anew", was=1, verified=True)
    assert await repository.whole(first, before.id) == (after, "sealed anew")
    with pytest.raises(DestinationChanged):
        await repository.change(replace(before, name="late", version=2), "late", was=1, verified=True)
    assert await repository.whole(first, before.id) == (after, "sealed anew")
    await repository.delete(first, before.id)
    with pytest.raises(DestinationNotFound):
        await repository.change(replace(after, version=3), "gone", was=2, verified=True)


async def test_of_many_updates_at_once_one_is_stored(repository: Repository, first: int) -> None:
    before = destination(first, 1)
    await repository.add(before, "sealed", LIMIT)
    results = await asyncio.gather(
        *(repository.change(replace(before, name=f"{n}", version=2), f"{n}", was=1, verified=True) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(result is None for result in results) == 1
    after, sealed = await repository.whole(first, before.id)
    assert after.name == sealed == str(results.index(None))


async def test_a_verification_is_kept_with_the_version_that_it_is_about(repository: Repository, first: int) -> None:
    before, neighbour = destination(first, 1), destination(first, 2)
    for each in (before, neighbour):
        await repository.add(each, "sealed", LIMIT)
    await repository.verified(first, before.id, PASSED, LATER, was=1)
    kept = replace(before, verified_at=LATER, verification=PASSED)
    assert await repository.whole(first, before.id) == (kept, "sealed")
    await repository.verified(first, before.id, FAILED, LATER + timedelta(hours=1), was=1)
    assert await repository.get(first, before.id) == replace(kept, verification=FAILED)
    with pytest.raises(DestinationChanged):
        await repository.verified(first, before.id, PASSED, LATER, was=2)
    for nobodys in (f"{9:012X}", ""):
        with pytest.raises(DestinationNotFound):
            await repository.verified(first, nobodys, PASSED, LATER, was=1)
    assert await repository.get(first, before.id) == replace(kept, verification=FAILED)
    assert await repository.get(first, neighbour.id) == neighbour


async def test_a_change_that_verified_nothing_leaves_the_verification_that_was_kept_meanwhile(
    repository: Repository, first: int
) -> None:
    before = destination(first, 1)
    await repository.add(before, "sealed", LIMIT)
    await repository.verified(first, before.id, PASSED, LATER, was=1)
    renamed = replace(before, name="renamed", version=2)
    await repository.change(renamed, "sealed", was=1, verified=False)
    assert await repository.get(first, before.id) == replace(renamed, verified_at=LATER, verification=PASSED)


async def test_another_account_changes_nothing(repository: Repository, first: int, second: int) -> None:
    before = destination(first, 1)
    await repository.add(before, "sealed", LIMIT)
    with pytest.raises(DestinationNotFound):
        await repository.change(replace(before, account=second, version=2), "stolen", was=1, verified=True)
    with pytest.raises(DestinationNotFound):
        await repository.verified(second, before.id, PASSED, LATER, was=1)
    assert await repository.whole(first, before.id) == (before, "sealed")


async def test_keys_are_listed_by_an_id_and_revoked_by_it(repository: Repository, first: int) -> None:
    await repository.ensure_key("first", "key-3")
    listed = await repository.keys()
    assert [name for _, name, _ in listed] == ["first", "second", "first"]
    assert all(re.fullmatch("[0-9a-f]{12}", key_id) for key_id, _, _ in listed)
    assert await repository.revoke(listed[2][0])
    assert await repository.account_of("key-3") is None
    assert await repository.account_of("key-1") == first
    for nothing in (listed[2][0], "", "%", "_" * 12, "0" * 12, listed[0][0][:11]):
        assert not await repository.revoke(nothing)


class TestClaims:
    PRINTS = ("by the new key", "by the old key")

    async def claim(self, engine: AsyncEngine, account: int, seconds: float = 60, **changes: Any) -> Claim:
        arguments = {"key": "k", "fingerprints": self.PRINTS, "destination": "D" * 12, **changes}
        return await Claims(engine).claim(account, seconds=seconds, **arguments)

    async def test_one_has_it_and_the_others_wait(self, engine: AsyncEngine, first: int, second: int) -> None:
        results = await asyncio.gather(*(self.claim(engine, first) for _ in range(6)), return_exceptions=True)
        assert [result for result in results if not isinstance(result, StillUnderWay)] == [Claim("D" * 12)]
        assert await self.claim(engine, second) == Claim("D" * 12)

    async def test_the_answer_is_for_who_asks_the_same(self, engine: AsyncEngine, first: int) -> None:
        await self.claim(engine, first, fingerprints=["by the old key"])
        await Claims(engine).answered(first, "k", 200, "the answer")
        assert await self.claim(engine, first) == Claim("D" * 12, status=200, answer="the answer")
        with pytest.raises(KeyReused):
            await self.claim(engine, first, fingerprints=["another"])

    async def test_what_was_let_go_or_left_goes_to_one(self, engine: AsyncEngine, first: int) -> None:
        await self.claim(engine, first)
        await Claims(engine).let_go(first, "k")
        assert await self.claim(engine, first, seconds=0, destination="E" * 12) == Claim("D" * 12, again=True)
        results = await asyncio.gather(*(self.claim(engine, first) for _ in range(6)), return_exceptions=True)
        assert [r for r in results if not isinstance(r, StillUnderWay)] == [Claim("D" * 12, again=True)]

    async def test_a_day_later_the_key_is_free(self, engine: AsyncEngine, first: int) -> None:
        await self.claim(engine, first)
        await Claims(engine).answered(first, "k", 200, "the answer")
        old = update(ClaimRow).values(created_at=datetime.now(UTC) - timedelta(hours=24, seconds=1))
        async with engine.begin() as connection:
            await connection.execute(old)
        assert await self.claim(engine, first, fingerprints=["another"], destination="F" * 12) == Claim("F" * 12)


class TestRotation:
    async def rotated(self, engine: AsyncEngine, *keys: str, batch: int = 2) -> Progress:
        return [progress async for progress in Rotation(engine).run(Sealer(keys), batch)][-1]

    async def test_everything_is_sealed_anew_and_the_unreadable_is_named(
        self, engine: AsyncEngine, repository: Repository, first: int
    ) -> None:
        old, new, lost = new_key(), new_key(), new_key()
        for number, key in enumerate([old, old, lost, new, old]):
            await repository.add(destination(first, number), Sealer([key]).seal({"n": number}), LIMIT)
        progress = await self.rotated(engine, new, old)
        assert (progress.resealed, progress.left, progress.unreadable) == (3, 0, [f"{2:012X}"])
        for number in (0, 1, 3, 4):
            _, sealed = await repository.whole(first, f"{number:012X}")
            assert Sealer([new]).open(sealed) == {"n": number}
        _, kept = await repository.whole(first, f"{2:012X}")
        assert Sealer([lost]).open(kept) == {"n": 2}
        assert (await self.rotated(engine, new, old)).resealed == 0

    async def test_it_may_be_interrupted_and_run_again(
        self, engine: AsyncEngine, repository: Repository, first: int
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


async def test_a_postgresql_that_stops_answering_is_unavailable_in_time_and_then_works_again() -> None:
    with Postgres() as server:
        async with open_engine(server.new_database()) as opened:
            await migrate(opened)
            repository = Repository(opened)
            await repository.ensure_key("a", "key")
            server.signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await repository.account_of("key")
            assert time.monotonic() - began < 2 * ANSWER_SECONDS + 1
            server.signal(signal.SIGCONT)
            assert await repository.account_of("key")


async def test_a_database_that_is_gone_is_said_to_be_unavailable(tmp_path: Path) -> None:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as opened:
        with pytest.raises(Unavailable):
            await Repository(opened).account_of("key")


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
