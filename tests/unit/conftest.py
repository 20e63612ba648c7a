"""Databases with the schema of this release, on each kind that the product runs on."""

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.store.engine import migrate, open_engine


@pytest.fixture(scope="session", autouse=True)
def _patient_with_databases() -> Iterator[None]:
    """No database here is away because the machine was slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.store.engine.ANSWER_SECONDS", 60.0)
        patch.setattr("app.store.sqlite.BUSY_SECONDS", 60.0)
        yield


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An empty one for each test."""
    async with open_engine(database_url) as opened:
        await migrate(opened)
        yield opened


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def shared_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncEngine]:
    """One of each kind that all tests of a file share."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('shared')}/d.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    async with open_engine(url) as opened:
        await migrate(opened)
        yield opened
