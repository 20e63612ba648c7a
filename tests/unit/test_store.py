"""What is kept: the repository's promises on a real database, and the schema that the migrations make."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.destination import Destination, Page, Query, SortBy
from app.domain.errors import DestinationLimitReached, DestinationNotFound, Unavailable
from app.store.engine import SchemaMismatch, migrate, open_engine, require_schema
from app.store.repository import Repository
from app.store.sealing import NotSealedByUs, Sealer, new_key
from app.store.tables import Table

LIMIT = 50
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/folder/d.db") as opened:
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


async def test_migrating_twice_changes_nothing_and_an_empty_database_is_refused(tmp_path: Path) -> None:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as opened:
        with pytest.raises(SchemaMismatch, match="dropoff migrate"):
            await require_schema(opened)
        await migrate(opened)
        await migrate(opened)
        await require_schema(opened)


async def test_sqlite_writes_ahead_and_to_the_disk(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
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
