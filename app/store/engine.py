"""The database's engine and its schema."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, column, event, exc, func, select, table
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.domain.errors import DropoffError, OutcomeUnknown, Unavailable
from app.store.sqlite import Change, SQLite, error_code, prepare

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
ANSWER_SECONDS = 5.0
POOL_SIZE = 10
LOOK_PAUSE_SECONDS = 0.2
"""Between two attempts to ask the database what became of a commit."""
# Any number, as long as nobody else uses it in this database.
_MIGRATION_LOCK = 0x44524F50
_ALEMBIC = table("alembic_version", column("version_num"))
# How an SQLSTATE of PostgreSQL begins where the statement is not at fault: the connection, the login, no such database,
# a server that has become a replica, a deadlock, resources, an operator, the system below.
_OUTAGES = ("08", "28", "3D", "25006", "40", "53", "57", "58")
_SQLITE_OUTAGES = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
    }
)


_NOTHING_CHANGED = "The database does not answer: nothing was changed, try again shortly."
_BUSY = "Too many requests wait for the database on this process: nothing was changed, try again shortly."
UNKNOWN = (
    "The connection to the database broke while the change was being stored, and it cannot be asked whether it was: "
    "look before you repeat the call, or repeat it with the Idempotency-Key that it had."
)

Committed = Callable[[Connection], bool]
"""Whether what a transaction was to store is there. It is asked in a transaction of its own while the first one may
still be under way, so it must first lock a row that the first one locked: then it sees how that one ended."""


class Database(AsyncEngine):
    """An engine; on a file of SQLite also the reader and the writer of that file."""

    sqlite: SQLite | None = None


class SchemaMismatch(DropoffError):
    """The database's schema is not the one this release was written for."""


@asynccontextmanager
async def open_engine(url: str, *, patient: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine for `url`, disposed of at the end. A SQLite file is kept in WAL mode and every commit is on disk
    when it returns; a PostgreSQL that does not answer is given up after ANSWER_SECONDS. A `patient` one lets each
    statement take its time, as a migration of large tables does."""
    if url.startswith("sqlite"):
        engine = Database(create_async_engine(url, hide_parameters=True).sync_engine)
        if engine.url.database:
            engine.sqlite = SQLite(engine.url)
        event.listen(engine.sync_engine, "connect", prepare)
    else:
        # Without a cache no statement has a name that a pooler would look for on another connection; each is still one
        # round trip.
        seconds = None if patient else ANSWER_SECONDS
        bounds = {"timeout": ANSWER_SECONDS, "command_timeout": seconds, "statement_cache_size": 0}
        made = create_async_engine(
            url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=ANSWER_SECONDS, pool_pre_ping=True,
            connect_args=bounds, hide_parameters=True,
        )  # fmt: skip
        engine = Database(made.sync_engine)
    try:
        yield engine
    finally:
        if engine.sqlite:
            await engine.sqlite.close()
        await engine.dispose()


def rows_changed(result: Any) -> int:
    """How many rows an UPDATE or a DELETE touched."""
    return int(result.rowcount)


class Transactions:
    """The base of the classes that read and write tables: it opens their transactions.

    What requests do is written once, as functions of a connection, for `read` and `write`; what commands and the like
    do, which nobody waits for, may have a session instead.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sqlite = engine.sqlite if isinstance(engine, Database) else None
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def read(self, work: Callable[[Connection], T], *, brief: bool = True) -> T:
        """What `work` finds; nothing that it does is stored. `brief` says that it looks at some rows by their key.
        Raises Unavailable where the database does not answer or cannot work; what it has against a statement is raised
        as it is."""
        with _outages():
            if self._sqlite:
                return await self._sqlite.read(work, brief=brief)
            async with self._engine.connect() as connection:
                return await connection.run_sync(work)

    async def write(self, work: Callable[[Connection], T], committed: Committed | None = None) -> T:
        """What `work` returns, when what it did is stored. Raises what `read` does, and what `work` does, and then
        nothing was changed.

        A commit that fails says nothing of its outcome: the server may have made it and not been heard. Then
        `committed` is asked: where it is so, the work has succeeded; where it is not, Unavailable is raised; and
        OutcomeUnknown where the database cannot be asked within ANSWER_SECONDS, or there is no `committed`.
        """
        change = Change(work)
        try:
            with _outages():
                await self._carry_out(change)
        except Unavailable as error:
            if not change.committing:
                raise
            if not await self._look(committed):
                raise Unavailable(_NOTHING_CHANGED) from error
        result: T = change.result
        return result

    async def _carry_out(self, change: Change) -> None:
        if self._sqlite:
            await self._sqlite.carry_out(change)
            return
        async with self._engine.connect() as connection:
            change.result = await connection.run_sync(change.work)
            change.committing = True
            await connection.commit()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """As `read`, for a block with a session."""
        with _outages():
            async with self._sessions() as session:
                yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """As `write`, for a block with a session: committed when it ends. Of a commit that fails nobody is asked."""
        committing = False
        try:
            with _outages():
                async with self._sessions() as session:
                    yield session
                    await session.flush()
                    committing = True
                    await session.commit()
        except Unavailable as error:
            if not committing:
                raise
            raise OutcomeUnknown(UNKNOWN) from error

    async def _look(self, committed: Committed | None) -> bool:
        """What `committed` says, as soon as the database can be asked. Raises OutcomeUnknown."""
        if committed is None:
            raise OutcomeUnknown(UNKNOWN)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while True:
                    try:
                        return await self.read(committed)
                    except OutcomeUnknown:
                        raise
                    except Unavailable:
                        await asyncio.sleep(LOOK_PAUSE_SECONDS)
        except TimeoutError:
            raise OutcomeUnknown(UNKNOWN) from None


@contextmanager
def _outages() -> Iterator[None]:
    """Raises Unavailable for what is not the fault of a statement."""
    try:
        yield
    except exc.TimeoutError as error:
        raise Unavailable(_BUSY) from error
    except (exc.DBAPIError, OSError) as error:
        if isinstance(error, exc.DBAPIError) and not _is_outage(error):
            raise
        raise Unavailable(_NOTHING_CHANGED) from error


def _is_outage(error: exc.DBAPIError) -> bool:
    """Whether the same statement may succeed later."""
    # The last is what PostgreSQL says once of a statement that was prepared before a migration.
    if error.connection_invalidated or isinstance(error, exc.NotSupportedError):
        return True
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    return sqlstate.startswith(_OUTAGES) or error_code(error) in _SQLITE_OUTAGES


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Bring the schema to `revision`, this release's by default; does nothing where it is there already. All of it in
    one transaction; two at once go one after the other. A file of SQLite, and its folder, are made where they are not
    there."""
    if file := _file(engine):
        file.parent.mkdir(parents=True, exist_ok=True)
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        else:
            # Python's sqlite3 begins no transaction for a statement that changes the schema.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        await connection.run_sync(partial(_upgrade, revision=revision))


def _upgrade(connection: Connection, revision: str) -> None:
    if revision == "head" and _revision(connection) == _head():
        return
    from alembic import command

    command.upgrade(_config(connection), revision)


def _config(connection: Connection) -> "Config":
    # Imported where something is to be done, which is once a release.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


@cache
def _head() -> str:
    """This release's schema: the last of its migrations, whose files begin with their numbers."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _revision(connection: Connection) -> str | None:
    """The schema that Alembic has noted in the database; None where it has made none."""
    if not connection.dialect.has_table(connection, _ALEMBIC.name):
        return None
    return connection.scalar(select(_ALEMBIC.c.version_num))


def _file(engine: AsyncEngine) -> Path | None:
    """Where a database of SQLite is; None for PostgreSQL."""
    return Path(engine.url.database) if engine.dialect.name == "sqlite" and engine.url.database else None


async def require_schema(engine: AsyncEngine) -> None:
    """Raise SchemaMismatch, with what to do, unless the schema is this release's."""
    head = _head()
    # To connect would be to make it.
    if (file := _file(engine)) and not file.exists():
        raise SchemaMismatch(
            f"there is no database at {file}: `dropoff migrate` makes one; DROPOFF_DATABASE_URL says where"
        )
    async with engine.connect() as connection:
        found = await connection.run_sync(_revision)
    if found != head:
        raise SchemaMismatch(
            f"the database has schema {found or 'none'} and this release needs {head}: run `dropoff migrate`"
        )


async def check_database(engine: AsyncEngine) -> None:
    """Raise SchemaMismatch as `require_schema` does, and Unavailable where the database does not answer."""
    try:
        await require_schema(engine)
    except (exc.DBAPIError, OSError) as error:
        raise Unavailable(f"does not answer ({type(error).__name__})") from error
