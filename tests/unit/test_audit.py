"""The audit log on a real database: written with the change or not at all, and followed without a gap."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.audit import Action, AuditQuery, Author, AuthorKind, act_as
from app.domain.destination import Destination
from app.domain.errors import AccountExists, DestinationChanged, DestinationLimitReached, KeyInUse, Unauthorized
from app.store.accounts import Accounts, key_id
from app.store.audit import SETTLED, AuditLog
from app.store.destinations import DestinationRepository
from app.store.engine import migrate, open_engine
from app.store.tables import AccountRow, AuditRow
from tests.servers.postgres import Postgres

NOW = datetime.now(UTC)


@pytest.fixture
def log(engine: AsyncEngine) -> AuditLog:
    return AuditLog(engine)


@pytest.fixture
async def account(engine: AsyncEngine) -> int:
    return (await Accounts(engine).create("a", {})).id


def destination(account: int, number: int, version: int = 1) -> Destination:
    return Destination(
        id=f"{number:012X}", account=account, name="n", type="s3", enabled=False, parameters={}, version=version,
        created_at=NOW, updated_at=NOW,
    )  # fmt: skip


async def actions(log: AuditLog) -> list[str]:
    return [entry.action for entry in (await log.page(AuditQuery(after=0))).entries]


async def test_what_was_not_done_is_not_in_the_log(engine: AsyncEngine, log: AuditLog, account: int) -> None:
    accounts, repository = Accounts(engine), DestinationRepository(engine)
    await repository.add(destination(account, 1), "sealed", 1)
    await accounts.ensure_key("a", "a-key")
    await accounts.ensure_key("b", "b-key")
    before = await actions(log)
    with pytest.raises(AccountExists):
        await accounts.create("a", {})
    with pytest.raises(DestinationLimitReached):
        await repository.add(destination(account, 2), "sealed", 1)
    with pytest.raises(DestinationChanged):
        await repository.change(
            destination(account, 1, 9), "sealed", expected_version=8, verified=False, changed=["name"]
        )
    with pytest.raises(KeyInUse):
        await accounts.add_key("b", "a-key", None, imported=True)
    assert not await accounts.revoke("0" * 12)
    await accounts.remove_key("no-key")
    await accounts.ensure_key("a", "a-key")
    assert await actions(log) == before
    assert before == ["account_created", "destination_created", "key_created", "account_created", "key_created"]


async def test_enabling_and_disabling_are_told_by_name(engine: AsyncEngine, log: AuditLog, account: int) -> None:
    repository = DestinationRepository(engine)
    await repository.add(destination(account, 1), "sealed", 1)
    for version, enabled in ((2, True), (3, False)):
        changed = Destination(**{**vars(destination(account, 1, version)), "enabled": enabled})
        await repository.change(
            changed, "sealed", expected_version=version - 1, verified=False, changed={"name", "enabled"}
        )
    entries = (await log.page(AuditQuery(limit=2))).entries
    assert [(each.action, each.details) for each in entries] == [
        (Action.DESTINATION_DISABLED, {"changed": ["enabled", "name"]}),
        (Action.DESTINATION_ENABLED, {"changed": ["enabled", "name"]}),
    ]


async def test_a_change_is_put_down_to_who_makes_it_and_a_command_to_nobody(engine: AsyncEngine, log: AuditLog) -> None:
    accounts = Accounts(engine)

    async def as_somebody() -> None:
        act_as(Author(AuthorKind.ACCOUNT, key_id("k"), "a-request"))
        await accounts.create("theirs", {})

    await asyncio.create_task(as_somebody())
    await accounts.create("ours", {})
    ours, theirs = (await log.page(AuditQuery())).entries
    assert (theirs.account_name, theirs.author) == ("theirs", Author(AuthorKind.ACCOUNT, key_id("k"), "a-request"))
    assert (ours.account_name, ours.author) == ("ours", Author(AuthorKind.COMMAND))


async def test_the_log_outlives_what_it_is_about(engine: AsyncEngine, log: AuditLog) -> None:
    accounts = Accounts(engine)
    await accounts.create("a", {})
    await accounts.delete("a")
    assert [each.account_name for each in (await log.page(AuditQuery(account="a"))).entries] == ["a", "a"]


async def test_who_follows_waits_for_an_id_that_may_still_come_and_not_for_one_that_will_not(
    engine: AsyncEngine, log: AuditLog
) -> None:
    accounts = Accounts(engine)
    for name in "abcd":
        await accounts.create(name, {})
    whole = (await log.page(AuditQuery())).entries
    first, second, third, last = [each.id for each in whole[::-1]]
    assert (await log.page(AuditQuery())).latest == last
    async with engine.begin() as connection:
        await connection.execute(delete(AuditRow).where(AuditRow.id == second))
    page = await log.page(AuditQuery(after=first))
    assert (page.entries, page.latest) == ((), first)
    assert (await log.page(AuditQuery())).latest == first
    async with engine.begin() as connection:
        old = update(AuditRow).where(AuditRow.id == third).values(at=datetime.now(UTC) - 2 * SETTLED)
        await connection.execute(old)
    page = await log.page(AuditQuery(after=first))
    assert ([each.id for each in page.entries], page.latest) == ([third, last], last)
    assert (await log.page(AuditQuery())).latest == last


async def test_an_entry_that_is_committed_after_a_later_one_is_followed_all_the_same(postgres: Postgres) -> None:
    """SQLite has one writer, so that it cannot happen there."""
    row = {"at": datetime.now(UTC), "action": "key_created", "account_id": 1, "account": "a", "author": "operator"}
    async with open_engine(postgres.new_database()) as engine:
        await migrate(engine)
        log = AuditLog(engine)
        await Accounts(engine).create("a", {})
        (first,) = (await log.page(AuditQuery(after=0))).entries
        async with engine.connect() as late:
            await late.execute(insert(AuditRow).values(**row, details={}))
            await Accounts(engine).create("b", {})
            page = await log.page(AuditQuery(after=first.id))
            assert (page.entries, page.latest) == ((), first.id)
            await late.commit()
        assert await actions(log) == ["account_created", "key_created", "account_created"]


async def test_a_create_that_ends_after_its_account_was_deleted_stores_nothing(
    engine: AsyncEngine, account: int
) -> None:
    await Accounts(engine).delete("a")
    with pytest.raises(Unauthorized, match="deleted meanwhile"):
        await DestinationRepository(engine).add(destination(account, 1), "sealed", 5)
    async with engine.connect() as connection:
        assert await connection.scalar(AccountRow.__table__.select().with_only_columns(AccountRow.used)) == 0


async def test_the_newest_come_first_and_a_span_of_time_leaves_out_its_end(engine: AsyncEngine, log: AuditLog) -> None:
    for name in "abc":
        await Accounts(engine).create(name, {})
    c, b, a = (await log.page(AuditQuery())).entries
    assert [each.account_name for each in (c, b, a)] == ["c", "b", "a"]
    assert (await log.page(AuditQuery(since=a.at, until=b.at))).entries == (a,)
    assert (await log.page(AuditQuery(since=b.at + timedelta(microseconds=1)))).entries == (c,)
    page = await log.page(AuditQuery(limit=2))
    assert (page.entries, page.before) == ((c, b), b.id)
    assert (await log.page(AuditQuery(limit=2, before=page.before))).entries == (a,)
