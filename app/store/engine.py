"""The database's engine and its schema."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, exc, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.domain.errors import Unavailable

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


ANSWER_SECONDS = 5.0
POOL_SIZE = 10
# Any number, as long as nobody else uses it in this database.
_MIGRATION_LOCK = 0x44524F50


class SchemaMismatch(Exception):
    """The database's schema is not the one this release was written for."""


@asynccontextmanager
async def open_engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine for `url`, disposed of at the end. A SQLite file is kept in WAL mode and every commit is on disk
    when it returns; a PostgreSQL that does not answer is given up after ANSWER_SECONDS."""
    if url.startswith("sqlite"):
        engine = create_async_engine(url)
        if file := engine.url.database:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    else:
        bounds = {"timeout": ANSWER_SECONDS, "command_timeout": ANSWER_SECONDS}
        engine = create_async_engine(
            url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=ANSWER_SECONDS, pool_pre_ping=True,
            connect_args=bounds,
        )  # fmt: skip
    try:
        yield engine
    finally:
        await engine.dispose()


class Transactions:
    """What keeps things in the database builds on this."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Committed when the block ends. Raises Unavailable where the database does not answer."""
        try:
            async with self._sessions.begin() as session:
                yield session
        except exc.IntegrityError:
            raise
        except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
            raise Unavailable("The database does not answer: nothing was changed, try again shortly.") from error


def _prepare_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Bring the schema to `revision`, this release's by default; does nothing where it is there already. Two at once
    go one by one."""
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), revision))


async def require_schema(engine: AsyncEngine) -> None:
    """Raise SchemaMismatch, with what to do, unless the schema is this release's."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    async with engine.connect() as connection:
        found = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    if found != head:
        raise SchemaMismatch(
            f"the database has schema {found or 'none'} and this release needs {head}: run `dropoff migrate`"
        )
