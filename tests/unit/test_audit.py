"""The audit log on a real database: written with the change or not at all, and followed without a gap."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.audit import Action, AuditQuery, Author, AuthorKind, act_as
from app.domain.delivery import DeliveryState, Redelivery
from app.domain.destination import Destination
from app.domain.errors import (
    AccountExists,
    DestinationChanged,
    DestinationLimitReached,
    InvalidParameters,
    KeyInUse,
    KeyNotFound,
    ResultSetDiffers,
    Unauthorized,
)
from app.domain.notification import EventType
from app.store.accounts import Accounts, key_id
from app.store.audit import SETTLED, AuditLog
from app.store.destinations import DestinationRepository
from app.store.engine import migrate, open_engine
from app.store.leftovers import Leftovers
from app.store.tables import AccountRow, AuditRow
from tests.servers.postgres import Postgres
from tests.unit.test_leftovers import leftover
from tests.unit.test_notifications import Told
from tests.unit.test_outbox import LEASE, ONE, THREE, Shelf, drafted
from tests.unit.test_outbox import NOW as THEN
from tests.unit.test_outbox import noted as outcome

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
    with pytest.raises(KeyNotFound):
        await accounts.revoke_key("b", "0" * 12)
    await accounts.remove_key("no-key")
    await accounts.ensure_key("a", "a-key")
    assert await actions(log) == before
    assert before == ["account_created", "destination_created", "key_created", "account_created", "key_created"]


async def test_a_result_set_is_in_the_log_as_often_as_it_was_announced_and_redelivered(
    engine: AsyncEngine, log: AuditLog
) -> None:
    shelf = Shelf(engine)
    await shelf.fill()
    await shelf.destination(ONE)
    await shelf.announce(2)
    latest = (await log.page(AuditQuery())).latest
    # The same once more, another under its id, and one that two calls announce at once.
    await shelf.result_sets.add(shelf.mine, "c", drafted(2), THEN)
    with pytest.raises(ResultSetDiffers):
        await shelf.result_sets.add(shelf.mine, "c", drafted(3), THEN)
    await asyncio.gather(*(shelf.result_sets.add(shelf.mine, "c", drafted(1, 2), THEN) for _ in range(2)))

    async def again(**asked: Any) -> int:
        return (await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(**asked), THEN)).count

    assert await again() == 0, "nothing of it has ended"
    claimed = [each for each in await shelf.claim() if each.result_set == 1]
    await shelf.outbox.settle([outcome(each, DeliveryState.OK) for each in claimed])
    assert await again(only_failed=True) == 0
    with pytest.raises(InvalidParameters):
        await again(destinations=(ONE, THREE))
    assert await again(destinations=(ONE,)) == 2
    claimed = [each for each in await shelf.claim("second", THEN + LEASE) if each.result_set == 1]
    await shelf.outbox.settle([outcome(each, DeliveryState.OK) for each in claimed])
    asked = Redelivery(since=THEN, until=THEN + LEASE)
    assert (await shelf.result_sets.redeliver_to(shelf.mine, ONE, asked, THEN)).count == 2
    assert (await shelf.result_sets.redeliver_to(shelf.theirs, ONE, asked, THEN)).count == 0
    entries = (await log.page(AuditQuery(after=latest))).entries
    assert [(each.action, each.object, each.details) for each in entries] == [
        ("result_set_announced", "c", {"result_set": 2, "files": 1}),
        (
            "result_set_redelivered",
            "c",
            {"result_set": 1, "destination_ids": [ONE], "only_failed": False, "deliveries": 2},
        ),
        (
            "destination_redelivered",
            ONE,
            {"only_failed": False, "from": "2026-03-01T12:00:00Z", "to": "2026-03-01T12:00:20Z", "deliveries": 2},
        ),
    ]
    assert {each.account for each in entries} == {shelf.mine}


async def test_what_an_operator_does_about_a_leftover_is_in_the_log_and_what_is_done_by_itself_is_not(
    engine: AsyncEngine, log: AuditLog, account: int
) -> None:
    store = Leftovers(engine)
    for number in (1, 2):
        await store.add(leftover(number, account, destination=ONE), "sealed")
    await store.postpone("job-1", NOW, "timeout", "m")
    await store.keep("job-1", None, None)
    await store.remove("job-2")
    assert await store.retry("job-1", NOW)
    assert await store.forget("job-1")
    assert not await store.forget("job-1")
    assert not await store.retry("job-2", NOW)
    entries = (await log.page(AuditQuery(object="job-1"))).entries
    about = {"destination": ONE, "file": "k"}
    assert [(each.action, each.account_name, each.details) for each in entries] == [
        ("leftover_forgotten", "a", about),
        ("leftover_retried", "a", about),
    ]
    assert await actions(log) == ["account_created", "leftover_retried", "leftover_forgotten"]


async def test_what_an_operator_does_about_notifications_is_in_the_log_of_each_account(
    engine: AsyncEngine, log: AuditLog
) -> None:
    told = Told(engine)
    await told.fill()
    for n in range(3):
        await told.happen(f"{n:012X}", n=n)
    told.mine, mine = told.theirs, told.mine
    await told.happen(THREE)
    told.mine = mine
    first, *others = await told.notifications.claim(THEN, THEN, 9)
    await told.notifications.taken(first)
    for each in others:
        await told.notifications.keep(each, "answered 500")
    latest = (await log.page(AuditQuery())).latest
    assert await told.notifications.retry(THEN, "msg_other") == 0
    assert await told.notifications.retry(THEN, others[0].id) == 1
    assert await told.notifications.retry(THEN) == 2
    assert await told.notifications.retry(THEN) == 0
    assert await told.notifications.forget(others[0].id)
    assert not await told.notifications.forget(others[0].id)
    entries = (await log.page(AuditQuery(after=latest))).entries
    assert [(each.action, each.account_name, each.object, each.details) for each in entries] == [
        ("notification_retried", "mine", others[0].id, {"notifications": 1}),
        ("notification_retried", "mine", None, {"notifications": 1}),
        ("notification_retried", "theirs", None, {"notifications": 1}),
        ("notification_forgotten", "mine", others[0].id, {"type": EventType.DELIVERY_FAILED}),
    ]


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
