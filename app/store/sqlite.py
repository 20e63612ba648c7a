"""SQLite without a thread for each call: reads in passing, and one writer that commits together what waits together."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long a lock of another process is waited for."""
TOGETHER = 200
"""How many changes one commit may store."""
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def prepare(connection: Any, _: object) -> None:
    """Set a new connection up: WAL, so that who reads waits for nobody, and a commit is on disk when it returns."""
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000:.0f}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    ends = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Where several make a new file WAL at once, SQLite refuses all but one without waiting.
            if error.sqlite_errorcode & 0xFF not in _LOCKED or time.monotonic() > ends:
                raise
            time.sleep(0.02)
    cursor.close()


def error_code(error: exc.DBAPIError) -> int:
    """The error of SQLite's behind `error`, without its details, which are above the low byte; 0 where it is another
    database's."""
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF


class Change:
    """One transaction's worth of `work`: its `result` or its `error`, and whether its commit was begun."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: Exception | None = None
        self.committing = False
        self.ended: asyncio.Future[None] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it still."""
        return self.ended is not None and not self.ended.cancelled()


class SQLite:
    """The database in the file of `url`; raises what SQLAlchemy does."""

    def __init__(self, url: URL) -> None:
        self._engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True)
        event.listen(self._engine, "connect", prepare)
        self._reader: Connection | None = None
        self._opening = asyncio.Lock()
        self._writer = _Writer(self._engine)

    async def read(self, work: Callable[[Connection], T], *, brief: bool) -> T:
        """What `work` finds. A `brief` one, which looks at some rows by their key, is done at once, in the caller's
        thread: a hop to another costs more than it. One that may take longer is done beside the loop, and so is one
        that meets a lock."""
        if not brief:
            return await asyncio.to_thread(self._read_beside, work)
        try:
            return work(self._reader or await self._opened())
        except exc.DBAPIError as error:
            self._drop_reader()
            if error_code(error) not in _LOCKED:
                raise
        return await asyncio.to_thread(self._read_beside, work)

    async def _opened(self) -> Connection:
        """The reader, opened by one of those who find none."""
        async with self._opening:
            if self._reader is None:
                self._reader = await asyncio.to_thread(self._open_reader)
            return self._reader

    def _open_reader(self) -> Connection:
        # With a transaction for each statement nothing is left open that would keep the log from being checkpointed.
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
        return connection

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.invalidate()
            reader.close()

    def _read_beside(self, work: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            return work(connection)

    async def carry_out(self, change: Change) -> None:
        """Store `change`; raises its error. Where the caller goes away, it is stored or it is not."""
        await self._writer.carry_out(change)

    async def close(self) -> None:
        """Store what waits, and let go of the file."""
        await asyncio.to_thread(self._writer.close)
        self._drop_reader()
        self._engine.dispose()


class _Writer:
    """A thread that takes all the changes that wait, and stores them with one commit, for which the disk is waited for
    once. A change that fails takes nothing of the others with it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: SimpleQueue[Change | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def carry_out(self, change: Change) -> None:
        change.ended = asyncio.get_running_loop().create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
            self._thread.start()
        self._waiting.put(change)
        await change.ended
        if change.error:
            raise change.error

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread:
            self._waiting.put(None)
            thread.join()

    def _run(self) -> None:
        while True:
            batch = list(self._next())
            changes = [change for change in batch if change and change.is_wanted]
            if changes:
                self._store(changes)
                _tell(changes)
            if None in batch:
                return

    def _next(self) -> Iterator[Change | None]:
        """At least one, and what waits beside it."""
        yield self._waiting.get()
        with contextlib.suppress(Empty):
            for _ in range(TOGETHER - 1):
                yield self._waiting.get_nowait()

    def _store(self, changes: Sequence[Change]) -> None:
        try:
            with self._engine.connect() as connection:
                try:
                    self._together(connection, changes)
                except BaseException:
                    # What state it is in is not known.
                    connection.invalidate()
                    raise
        except Exception as error:  # noqa: BLE001 -- each who waits is given it
            for change in changes:
                change.error = change.error or error

    def _together(self, connection: Connection, changes: Sequence[Change]) -> None:
        # Who begins by reading, and then finds that another process wrote, would have to begin again.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for change in changes:
            _try(connection, change)
        stored = [change for change in changes if change.error is None]
        if not stored:
            connection.rollback()
            return
        for change in stored:
            change.committing = True
        connection.commit()


def _try(connection: Connection, change: Change) -> None:
    """Do the work of `change`; where it fails, nothing of it stays."""
    connection.exec_driver_sql("SAVEPOINT change")
    try:
        change.result = change.work(connection)
    except Exception as error:  # noqa: BLE001 -- who waits is given it
        change.error = error
        try:
            connection.exec_driver_sql("ROLLBACK TO change")
        except exc.DBAPIError:
            # Some errors, as of a full disk, end the whole transaction.
            raise error from None
    connection.exec_driver_sql("RELEASE change")


def _tell(changes: Sequence[Change]) -> None:
    """Wake those who wait, each loop once. One that has been closed meanwhile has nobody who waits."""
    loops = {change.ended.get_loop() for change in changes if change.ended}
    for loop in loops:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_wake, [c.ended for c in changes if c.ended and c.ended.get_loop() is loop])


def _wake(waiting: Sequence["asyncio.Future[None]"]) -> None:
    for each in waiting:
        if not each.done():
            each.set_result(None)
