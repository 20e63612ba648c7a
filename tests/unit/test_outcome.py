"""What became of a commit that failed: it is looked for, and nothing is said that is not so."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from app.domain.destination import Destination
from app.domain.errors import DestinationChanged, DestinationNotFound, DropoffError, OutcomeUnknown, Unavailable
from app.domain.verification import Report
from app.store.accounts import Accounts
from app.store.destinations import DestinationRepository
from app.store.engine import POOL_SIZE, Transactions, migrate, open_engine
from app.store.idempotency import IdempotencyKeys
from tests.servers.postgres import Postgres
from tests.servers.proxy import Link, link
from tests.stack import account_of

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LATER = BEGAN + timedelta(days=1)
REPORT = Report(ok=True, message="m", type="s3", host="h", object="o", duration_ms=1, job="1", steps=())
LIMIT = 9
STORED = Destination(
    id="A" * 12, account=1, name="stored", type="s3", enabled=True, parameters={}, version=1, created_at=BEGAN,
    updated_at=BEGAN,
)  # fmt: skip
NEW = replace(STORED, id="B" * 12, name="new")
CHANGED = replace(STORED, name="changed", version=2, updated_at=LATER)
ANSWER_SECONDS = 1.0
"""How long a database that cannot be asked is asked."""
PATIENCE = 60.0


@dataclass
class Stage:
    """PostgreSQL by two ways: `ours` is through a `cable` that can be cut, `others` is not. It has STORED."""

    ours: AsyncEngine
    others: AsyncEngine
    gate: AsyncConnection
    cable: Link

    async def hold_commits(self, ends: str = "") -> None:
        """Each commit that changed `destinations` or a key is held from now on, and then does `ends`."""
        passes = "PERFORM pg_advisory_lock_shared(7); PERFORM pg_advisory_unlock_shared(7);"
        body = f"BEGIN {passes} {ends} RETURN NULL; END"
        async with self.others.begin() as connection:
            await connection.execute(text(f"CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"))
            for table in ("destinations", "idempotency_keys"):
                await connection.execute(
                    text(
                        f"CREATE CONSTRAINT TRIGGER held AFTER INSERT OR UPDATE OR DELETE ON {table} "
                        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held()"
                    )
                )
        await self.hold()

    async def hold(self) -> None:
        await self._at_gate("pg_advisory_lock")

    async def let_go(self) -> None:
        """Let the commits that are held end, and those that come."""
        await self._at_gate("pg_advisory_unlock")

    async def _at_gate(self, function: str) -> None:
        await self.gate.execute(text(f"SELECT {function}(7)"))
        await self.gate.commit()

    async def cut_in_commit(self) -> None:
        """Wait until a commit is held, and cut its connection."""
        await self._until("query LIKE 'COMMIT%' AND wait_event = 'advisory'", 1)
        await asyncio.to_thread(self.cable.cut)

    async def somebody_waits(self) -> None:
        """Return when somebody waits for what the commit that is held has locked."""
        await self._until("wait_event_type = 'Lock' AND wait_event <> 'advisory'", 1)

    async def commit_ended(self) -> None:
        await self._until("query LIKE 'COMMIT%' AND state = 'active'", 0)

    async def _until(self, condition: str, count: int) -> None:
        mine = "datname = current_database() AND pid <> pg_backend_pid()"
        query = text(f"SELECT count(*) FROM pg_stat_activity WHERE {mine} AND {condition}")
        async with asyncio.timeout(PATIENCE), self.others.connect() as connection:
            while await connection.scalar(query) != count:
                # What one transaction sees of the activity stays as it is.
                await connection.rollback()
                await asyncio.sleep(0.02)

    async def found(self, destination: Destination) -> Destination | None:
        with contextlib.suppress(DestinationNotFound):
            return await DestinationRepository(self.others).get(destination.account, destination.id)
        return None


@pytest.fixture
async def stage(postgres: Postgres) -> AsyncIterator[Stage]:
    url = make_url(postgres.new_database())
    assert url.port
    with link(url.port) as cable:
        through = url.set(port=cable.port)
        async with (
            open_engine(url.render_as_string(hide_password=False)) as others,
            open_engine(through.render_as_string(hide_password=False)) as ours,
            others.connect() as gate,
        ):
            await prepare(others)
            yield Stage(ours, others, gate, cable)


async def prepare(engine: AsyncEngine) -> None:
    await migrate(engine)
    accounts = Accounts(engine)
    await accounts.ensure_key("a", "key")
    assert await account_of(accounts, "key") == STORED.account
    await DestinationRepository(engine).add(STORED, "sealed", LIMIT)


Change = Callable[[DestinationRepository], Awaitable[object]]


def create(repository: DestinationRepository) -> Awaitable[object]:
    return repository.add(NEW, "sealed", LIMIT)


def rename(repository: DestinationRepository) -> Awaitable[object]:
    return repository.change(CHANGED, "sealed", expected_version=1, verified=False)


def keep_report(repository: DestinationRepository) -> Awaitable[object]:
    return repository.verified(1, STORED.id, REPORT, LATER, expected_version=1)


def remove(repository: DestinationRepository) -> Awaitable[object]:
    return repository.delete(1, STORED.id)


AFTER: dict[Change, tuple[Destination, Destination | None]] = {
    create: (NEW, NEW),
    rename: (STORED, CHANGED),
    keep_report: (STORED, replace(STORED, verification=REPORT.as_answer(), verified_at=LATER)),
    remove: (STORED, None),
}
"""By change, the destination that it is about, and that one afterwards."""
CHANGES = pytest.mark.parametrize("change", AFTER, ids=lambda change: change.__name__)


@CHANGES
async def test_what_was_committed_is_a_success_although_the_connection_was_cut(stage: Stage, change: Change) -> None:
    """The look must wait for the commit, which is still under way when it comes."""
    await stage.hold_commits()
    running = asyncio.ensure_future(change(DestinationRepository(stage.ours)))
    await stage.cut_in_commit()
    stage.cable.mend()
    await stage.somebody_waits()
    await stage.let_go()
    await running
    about, after = AFTER[change]
    assert await stage.found(about) == after


@CHANGES
async def test_what_was_not_committed_is_said_to_have_changed_nothing(stage: Stage, change: Change) -> None:
    await stage.hold_commits("RAISE EXCEPTION 'no';")
    about, _ = AFTER[change]
    before = await stage.found(about)
    running = asyncio.ensure_future(change(DestinationRepository(stage.ours)))
    await stage.cut_in_commit()
    stage.cable.mend()
    await stage.somebody_waits()
    await stage.let_go()
    with pytest.raises(Unavailable, match="nothing was changed") as caught:
        await running
    assert not isinstance(caught.value, OutcomeUnknown)
    assert await stage.found(about) == before


@CHANGES
async def test_nothing_is_promised_while_the_database_cannot_be_asked(
    stage: Stage, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.hold_commits()
    # From here on: it was connected to with more patience.
    monkeypatch.setattr("app.store.engine.ANSWER_SECONDS", ANSWER_SECONDS)
    running = asyncio.ensure_future(change(DestinationRepository(stage.ours)))
    await stage.cut_in_commit()
    began = asyncio.get_running_loop().time()
    with pytest.raises(OutcomeUnknown) as caught:
        await running
    assert asyncio.get_running_loop().time() - began < ANSWER_SECONDS + 10
    assert caught.value.code == "outcome_unknown"
    assert "nothing was" not in caught.value.message
    await stage.let_go()
    await stage.commit_ended()
    about, after = AFTER[change]
    assert await stage.found(about) == after


async def test_another_calls_version_is_not_taken_for_ones_own(stage: Stage) -> None:
    await stage.hold_commits("IF NEW.name = 'changed' THEN RAISE EXCEPTION 'no'; END IF;")
    running = asyncio.ensure_future(rename(DestinationRepository(stage.ours)))
    await stage.cut_in_commit()
    other = replace(CHANGED, name="of another", updated_at=LATER + timedelta(seconds=1))
    changing = DestinationRepository(stage.others).change(other, "sealed", expected_version=1, verified=False)
    theirs = asyncio.ensure_future(changing)
    await stage.somebody_waits()
    await stage.let_go()
    await theirs
    stage.cable.mend()
    with pytest.raises(DestinationChanged):
        await running
    assert await stage.found(STORED) == other


async def test_before_the_commit_nothing_was_changed(stage: Stage) -> None:
    await asyncio.to_thread(stage.cable.cut)
    with pytest.raises(Unavailable, match="nothing was changed") as caught:
        await create(DestinationRepository(stage.ours))
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_an_earlier_attempt_that_is_stored_late_is_not_stored_twice(stage: Stage) -> None:
    """Its repeat comes while the first commit is under way, also where that takes the account's last place."""
    await stage.hold_commits()
    for limit in (LIMIT, 2):
        attempt = replace(NEW, id=f"{limit:012X}")
        first = asyncio.ensure_future(DestinationRepository(stage.ours).add(attempt, "sealed", limit))
        await stage.cut_in_commit()
        again = replace(attempt, name="again")
        second = asyncio.ensure_future(DestinationRepository(stage.others).add(again, "sealed", limit))
        await stage.somebody_waits()
        await stage.let_go()
        assert await second == attempt
        stage.cable.mend()
        await first
        await DestinationRepository(stage.others).delete(1, attempt.id)
        await stage.hold()


async def test_a_lease_that_was_stored_is_had_although_the_connection_was_cut(stage: Stage) -> None:
    await stage.hold_commits()
    keys = IdempotencyKeys(stage.ours)
    renewal = keys.acquire(1, "key", ("f",), NEW.id, 0)
    for attempt in (renewal, keys.acquire(1, "key", ("f",), "C" * 12, 60)):
        running = asyncio.ensure_future(attempt)
        await stage.cut_in_commit()
        await stage.let_go()
        await stage.commit_ended()
        stage.cable.mend()
        assert (await running).destination == NEW.id
        await stage.hold()


async def test_a_request_that_waits_too_long_for_a_connection_is_told_so(stage: Stage) -> None:
    """The database answers: it is this process that has too much to ask of it."""

    async def occupy() -> None:
        async with Transactions(stage.ours).reading() as session:
            await session.execute(text("SELECT 1"))
            await asyncio.sleep(600)

    busy = [asyncio.create_task(occupy()) for _ in range(POOL_SIZE)]
    pool = stage.ours.pool
    assert isinstance(pool, QueuePool)
    pool._timeout = ANSWER_SECONDS
    async with asyncio.timeout(PATIENCE):
        while pool.checkedout() < POOL_SIZE:
            await asyncio.sleep(0.02)
    try:
        with pytest.raises(Unavailable, match="Too many requests") as caught:
            await create(DestinationRepository(stage.ours))
        assert "does not answer" not in caught.value.message
    finally:
        for each in busy:
            each.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may become, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_sqlite_without_room_for_a_commit_has_changed_nothing(
    tmp_path: Path, room: Callable[[int], None]
) -> None:
    """SQLite writes when it commits: it fails there, and can be asked at once."""
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as engine:
        await prepare(engine)
        repository = DestinationRepository(engine)
        for change, (about, after) in AFTER.items():
            stored = await state(repository, about)
            room((tmp_path / "d.db-wal").stat().st_size)
            with pytest.raises(DropoffError) as caught:
                await change(repository)
            room(2**30)
            assert (type(caught.value), "nothing was changed" in caught.value.message) == (Unavailable, True)
            assert await state(repository, about) == stored
            await change(repository)
            assert await state(repository, about) == after
            if change is not create:
                await restore(engine)


async def state(repository: DestinationRepository, about: Destination) -> Destination | None:
    with contextlib.suppress(DestinationNotFound):
        return await repository.get(about.account, about.id)
    return None


async def restore(engine: AsyncEngine) -> None:
    """STORED as it was."""
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM destinations WHERE id = :id"), {"id": STORED.id})
    await DestinationRepository(engine).add(STORED, "sealed", LIMIT)
