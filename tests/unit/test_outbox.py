"""The outbox on a real database: what is announced, what is dispatched in which order, what is noted, and by whom."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.collection import CollectionDraft, CollectionQuery
from app.domain.delivery import (
    ATTEMPTS,
    Claimed,
    Delivery,
    DeliveryQuery,
    DeliveryState,
    Outcome,
    Redelivery,
    Refusal,
    SourceFault,
)
from app.domain.destination import Destination, Query
from app.domain.errors import (
    CollectionNotFound,
    DestinationInUse,
    InvalidParameters,
    ResultSetDiffers,
    ResultSetNotFound,
)
from app.domain.faults import Fault
from app.domain.result_set import ResultFile, ResultSetDraft
from app.domain.verification import Report, Step
from app.store.accounts import Accounts
from app.store.collections import CollectionRepository
from app.store.destinations import DestinationRepository
from app.store.engine import Transactions
from app.store.outbox import Outbox
from app.store.result_sets import LOG_LINES, ResultSetRepository
from app.store.tables import DeliveryRow, DestinationRow, Table
from tests.stack import account_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=20)
PASSED = Report(ok=True, message="m", type="s3", host="h", object="o", duration_ms=1, job="1", steps=())
ONE, TWO, THREE, FOUR = (f"00000000000{n}" for n in range(1, 5))


class Shelf(Transactions):
    """All that a test needs of one database, with two accounts."""

    def __init__(self, engine: AsyncEngine, *, notify: bool = False) -> None:
        super().__init__(engine)
        self.accounts = Accounts(engine)
        self.destinations = DestinationRepository(engine, notify=notify)
        self.collections = CollectionRepository(engine)
        self.result_sets = ResultSetRepository(engine)
        self.outbox = Outbox(engine, notify=notify)
        self.mine = self.theirs = 0

    async def empty(self) -> None:
        """Take out what others have left, and put in two accounts."""
        async with self.transaction() as session:
            for table in reversed(Table.metadata.sorted_tables):
                await session.execute(table.delete())
        await self.fill()

    async def fill(self) -> None:
        for name in ("mine", "theirs"):
            await self.accounts.ensure_key(name, name)
        mine, theirs = [await account_of(self.accounts, name) for name in ("mine", "theirs")]
        assert mine and theirs
        self.mine, self.theirs = mine, theirs

    async def destination(self, identity: str, account: int = 0, **changes: Any) -> None:
        values: dict[str, Any] = {
            "id": identity, "account": account or self.mine, "name": "n", "type": "s3", "enabled": True,
            "parameters": {"s3_bucket_name": "b"}, "version": 1, "created_at": NOW, "updated_at": NOW, **changes,
        }  # fmt: skip
        await self.destinations.add(Destination(**values), "sealed", 50)

    async def announce(self, files: int = 1, *, to: Sequence[str] = (ONE,), account: int = 0, **changes: Any) -> None:
        """A result set in the collection `c` of the account."""
        account = account or self.mine
        await self.collections.put(account, "c", CollectionDraft("Name", tuple(to)), NOW)
        await self.result_sets.add(account, "c", drafted(files, **changes), changes.get("at", NOW))

    async def claim(self, lease: str = "l", at: datetime = NOW, key: str = "k", **bounds: int) -> list[Claimed]:
        room = {"room": 100, "per_destination": 100, "per_account": 100, **bounds}
        return await self.outbox.claim(lease, at, at + LEASE, lambda each: f"{key}/{each.file.name}", **room)

    async def settle_all(self, state: DeliveryState, **changes: Any) -> None:
        """Have all that waits end so."""
        for each in await self.claim("settled", changes.get("at", NOW)):
            await self.outbox.settle([noted(each, state, **changes)])

    async def change(self, identity: str, **changes: Any) -> None:
        """Change the destination of my account, without a verification."""
        current = await self.destinations.get(self.mine, identity)
        after = Destination(**{**vars(current), "version": current.version + 1, **changes})
        await self.destinations.change(after, "sealed", expected_version=current.version, verified=False)

    async def disable(self, identity: str) -> None:
        await self.change(identity, enabled=False)

    async def seen(self) -> dict[str, list[Delivery]]:
        """The deliveries of my first result set, by their destination."""
        found: dict[str, list[Delivery]] = {}
        for each in await self.result_sets.deliveries_of(self.mine, "c", 1):
            found.setdefault(each.destination, []).append(each)
        return found

    async def states(self) -> Counter[str]:
        async with self.reading() as session:
            return Counter(await session.scalars(select(DeliveryRow.state)))

    async def failing_since(self, destination: str) -> datetime | None:
        async with self.reading() as session:
            which = DestinationRow.id == destination
            return await session.scalar(select(DestinationRow.failing_since).where(which))


def drafted(files: int, number: int = 1, **changes: Any) -> ResultSetDraft:
    content = changes.get("sha256", "0" * 64)
    return ResultSetDraft(
        number, NOW, NOW, tuple(ResultFile(f"f{n}.json", f"c/f{n}", 3, content, "text/plain") for n in range(files))
    )


def noted(claimed: Claimed, state: DeliveryState, **changes: Any) -> Outcome:
    return Outcome(claimed.id, claimed.lease, state, changes.pop("at", NOW), **changes)


@pytest.fixture
async def shelf(shared_engine: AsyncEngine) -> Shelf:
    """An empty database, with two accounts."""
    shelf = Shelf(shared_engine)
    await shelf.empty()
    return shelf


async def test_a_collection_is_replaced_by_the_next_put_and_seen_by_its_account_alone(shelf: Shelf) -> None:
    for each in (ONE, TWO):
        await shelf.destination(each)
    first = await shelf.collections.put(shelf.mine, "c", CollectionDraft("Ä", (ONE, TWO)), NOW)
    second = await shelf.collections.put(shelf.mine, "c", CollectionDraft("B", (TWO,)), NOW + LEASE)
    assert (first.destinations, second.destinations, second.name) == ((ONE, TWO), (TWO,), "B")
    assert (second.created_at, second.updated_at) == (NOW, NOW + LEASE)
    with pytest.raises(CollectionNotFound):
        await shelf.collections.get(shelf.theirs, "c")
    found = await shelf.collections.page(shelf.mine, CollectionQuery(search_term="b", destination=TWO))
    assert (found.collections, found.matching) == ((second,), 1)
    assert (await shelf.collections.page(shelf.mine, CollectionQuery(destination=ONE))).matching == 0
    assert (await shelf.collections.page(shelf.mine, CollectionQuery(page=2))).collections == ()


async def test_a_collection_takes_no_destination_of_another_account(shelf: Shelf) -> None:
    await shelf.destination(ONE, shelf.theirs)
    with pytest.raises(InvalidParameters, match=ONE):
        await shelf.collections.put(shelf.mine, "c", CollectionDraft("n", (ONE,)), NOW)
    with pytest.raises(CollectionNotFound):
        await shelf.collections.get(shelf.mine, "c")


async def test_a_destination_that_is_used_is_not_deleted_and_says_by_whom(shelf: Shelf) -> None:
    for each in (ONE, TWO):
        await shelf.destination(each)
    await shelf.collections.put(shelf.mine, "c", CollectionDraft("n", (ONE,)), NOW)
    with pytest.raises(DestinationInUse, match=r"\(c\)"):
        await shelf.destinations.delete(shelf.mine, ONE)
    assert [(await shelf.destinations.get(shelf.mine, each)).used_by for each in (ONE, TWO)] == [1, 0]
    assert (await shelf.destinations.standing(shelf.mine)).used == 2
    await shelf.collections.delete(shelf.mine, "c")
    await shelf.destinations.delete(shelf.mine, ONE)
    assert (await shelf.destinations.standing(shelf.mine)).used == 1


async def test_a_result_set_has_one_delivery_for_each_file_and_destination(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.destination(TWO, enabled=False)
    await shelf.destination(THREE)
    await shelf.announce(3, to=(ONE, TWO))
    of_set = await shelf.result_sets.deliveries_of(shelf.mine, "c", 1)
    assert [(each.file, each.destination, each.state) for each in of_set] == [
        (f"f{n}.json", destination, state)
        for n in range(3)
        for destination, state in ((ONE, DeliveryState.PENDING), (TWO, DeliveryState.SKIPPED))
    ]
    statuses = (await shelf.result_sets.statuses(shelf.mine, "c", [1]))[1]
    assert {destination: each.status for destination, each in statuses.items()} == {ONE: "pending", TWO: "skipped"}
    assert "disabled" in statuses[TWO].log[0].text


async def test_the_same_result_set_is_stored_once_and_another_under_its_id_is_refused(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.collections.put(shelf.mine, "c", CollectionDraft("n", (ONE,)), NOW)
    both = await asyncio.gather(*(shelf.result_sets.add(shelf.mine, "c", drafted(5), NOW) for _ in range(2)))
    assert sorted(new for _, new in both) == [False, True]
    assert await shelf.states() == {"pending": 5}
    with pytest.raises(ResultSetDiffers):
        await shelf.result_sets.add(shelf.mine, "c", drafted(5, sha256="1" * 64), NOW)
    with pytest.raises(CollectionNotFound):
        await shelf.result_sets.add(shelf.theirs, "c", drafted(5), NOW)
    with pytest.raises(ResultSetNotFound):
        await shelf.result_sets.get(shelf.theirs, "c", 1)
    assert await shelf.states() == {"pending": 5}


async def test_what_was_announced_is_delivered_although_its_collection_is_gone(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce()
    await shelf.collections.delete(shelf.mine, "c")
    assert [each.collection_name for each in await shelf.claim()] == ["Name"]


async def test_two_dispatchers_never_have_the_same_delivery(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce(40)
    claimed = [
        each.id
        for several in await asyncio.gather(*(shelf.claim(f"l{n}", room=15) for n in range(6)))
        for each in several
    ]
    assert len(claimed) == len(set(claimed)) >= 15
    assert (await shelf.states())["uploading"] == len(claimed)


async def test_what_has_not_ended_is_counted_of_all_accounts(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.destination(TWO, shelf.theirs)
    assert await shelf.outbox.unended() == {DeliveryState.PENDING: 0, DeliveryState.UPLOADING: 0}
    await shelf.announce(2)
    await shelf.announce(2, to=(TWO,), account=shelf.theirs)
    first, _ = await shelf.claim(room=2)
    await shelf.outbox.settle([noted(first, DeliveryState.OK)])
    assert await shelf.outbox.unended() == {DeliveryState.PENDING: 2, DeliveryState.UPLOADING: 1}


async def test_no_destination_and_no_account_has_more_than_its_bound(shelf: Shelf) -> None:
    for each in (ONE, TWO):
        await shelf.destination(each)
    await shelf.destination(THREE, shelf.theirs)
    await shelf.announce(20, to=(ONE, TWO))
    await shelf.announce(20, to=(THREE,), account=shelf.theirs)
    first = Counter(each.destination for each in await shelf.claim(per_destination=4, per_account=6))
    assert first == {ONE: 3, TWO: 3, THREE: 4}
    assert await shelf.claim(per_destination=4, per_account=6) == []
    more = await shelf.claim(per_destination=5, per_account=7)
    assert Counter(each.account for each in more) == {shelf.mine: 1, shelf.theirs: 1}


async def test_accounts_take_turns_however_much_one_has(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.destination(THREE, shelf.theirs)
    await shelf.announce(50)
    await shelf.announce(3, to=(THREE,), account=shelf.theirs, at=NOW + timedelta(seconds=5))
    claimed = await shelf.claim(at=NOW + LEASE, room=6)
    assert Counter(each.account for each in claimed) == {shelf.mine: 3, shelf.theirs: 3}


async def test_a_lease_that_nobody_renewed_makes_the_delivery_due_again(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce(2)
    lost, kept = await shelf.claim()
    later = NOW + LEASE + timedelta(seconds=1)
    renewed = noted(kept, DeliveryState.UPLOADING, sent=2, leased_until=later + LEASE, worker="w")
    assert await shelf.outbox.settle([renewed]) == [renewed]
    assert await shelf.outbox.expire(later) == (1, [])
    (again,) = await shelf.claim("second", later)
    assert (again.id, again.attempt) == (lost.id, 2)
    # The dead one was only slow: nothing that it says counts any more.
    assert await shelf.outbox.settle([noted(lost, DeliveryState.OK, text="delivered")]) == []
    assert await shelf.states() == {"uploading": 2}


async def test_a_receipt_that_comes_after_its_lease_counts_while_nobody_else_has_begun(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce()
    (late,) = await shelf.claim()
    await shelf.outbox.expire(NOW + LEASE * 2)
    receipt = noted(late, DeliveryState.OK, text="f0.json: delivered", sent=3, etag="e", version="v", request_id="r")
    assert await shelf.outbox.settle([receipt, receipt]) == [receipt]
    assert await shelf.claim("second", NOW + LEASE * 3) == []
    (delivery,) = await shelf.result_sets.deliveries_of(shelf.mine, "c", 1)
    assert (delivery.state, delivery.etag, delivery.version, delivery.request_id, delivery.sent) == (
        "ok", "e", "v", "r", 3,
    )  # fmt: skip
    status = (await shelf.result_sets.statuses(shelf.mine, "c", [1]))[1][ONE]
    assert (status.status, [line.text for line in status.log]) == ("ok", ["f0.json: delivered"])


async def test_workers_that_die_again_and_again_end_a_delivery(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce()
    at = NOW
    for number in range(ATTEMPTS):
        (claimed,) = await shelf.claim(str(number), at)
        assert claimed.attempt == number + 1
        begun = noted(claimed, DeliveryState.UPLOADING, leased_until=at + LEASE, worker="w", upload="sealed", sent=2)
        await shelf.outbox.settle([begun])
        at += LEASE * 2
        again, given_up = await shelf.outbox.expire(at)
        assert (again, len(given_up)) == ((1, 0) if number + 1 < ATTEMPTS else (0, 1))
    (end,) = given_up
    told = (end.delivery, end.account, end.state, end.fault, end.upload, end.at)
    assert told == (claimed.id, "mine", "failed", "internal_error", "sealed", at)
    (found,) = (await shelf.seen())[ONE]
    assert (found.state, found.worker, found.sent, found.ended_at) == ("failed", "w", 2, at)
    status = (await shelf.result_sets.statuses(shelf.mine, "c", [1]))[1][ONE]
    assert [line.text for line in status.log] == [f"f0.json: {found.message}"]


async def test_what_is_tried_again_waits_and_what_was_returned_does_not_count(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce(2)
    throttled, returned = await shelf.claim()
    await shelf.outbox.settle([
        noted(throttled, DeliveryState.PENDING, due_at=NOW + LEASE, fault=Fault.THROTTLED),
        noted(returned, DeliveryState.PENDING, due_at=NOW, returned=True),
    ])  # fmt: skip
    (now,) = await shelf.claim("second")
    (then,) = await shelf.claim("third", NOW + LEASE)
    assert [(each.id, each.attempt) for each in (now, then)] == [(returned.id, 1), (throttled.id, 2)]


async def test_what_the_store_said_is_that_of_the_last_failure(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce()

    async def told(state: DeliveryState, **changes: Any) -> Mapping[str, Any] | None:
        (claimed,) = await shelf.claim()
        await shelf.outbox.settle([noted(claimed, state, due_at=NOW, **changes)])
        (found,) = (await shelf.seen())[ONE]
        return found.refusal

    refusal = Refusal(Step.UPLOAD, "SlowDown", 503)
    said = {"step": "upload", "provider_code": "SlowDown", "status": 503, "request_id": None}
    assert await told(DeliveryState.PENDING, fault=Fault.THROTTLED, refusal=refusal) == said
    assert await told(DeliveryState.PENDING, fault=SourceFault.UNAVAILABLE) is None
    assert await told(DeliveryState.FAILED, fault=Fault.THROTTLED, refusal=refusal) == said
    assert (await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(), NOW)).count == 1
    assert (await shelf.seen())[ONE][0].refusal is None


async def test_the_key_that_was_chosen_first_stays(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce()
    assert [each.key for each in await shelf.claim(key="a")] == ["a/f0.json"]
    await shelf.outbox.expire(NOW + LEASE * 2)
    assert [each.key for each in await shelf.claim("second", NOW + LEASE * 2, "b")] == ["a/f0.json"]


async def test_a_destination_that_is_mended_gets_what_it_missed_oldest_first(shelf: Shelf) -> None:
    for each in (ONE, TWO):
        await shelf.destination(each)
    for number in range(3):
        await shelf.announce(2, to=(ONE, TWO), number=number, at=NOW + timedelta(seconds=number))
    at = NOW + LEASE
    denied, changed = (
        {"text": "refused", "fault": fault, "failing": fault is Fault.WRITE_DENIED, "at": at}
        for fault in (Fault.WRITE_DENIED, SourceFault.CHANGED)
    )
    claimed = await shelf.claim(at=at)
    await shelf.outbox.settle([
        noted(each, DeliveryState.FAILED, **(changed if each.result_set == 2 else denied)) for each in claimed
    ])  # fmt: skip
    assert [await shelf.failing_since(each) for each in (ONE, TWO)] == [at, at]
    failing = await shelf.destinations.page(shelf.mine, Query(failing=True))
    assert ([each.id for each in failing.destinations], failing.matching) == ([ONE, TWO], 2)
    await shelf.destinations.verified(shelf.mine, ONE, PASSED, at + LEASE, expected_version=1)
    well = await shelf.destinations.page(shelf.mine, Query(failing=False))
    assert ([each.id for each in well.destinations], well.matching, well.used) == ([ONE], 1, 2)
    assert [await shelf.failing_since(each) for each in (ONE, TWO)] == [None, at]
    again = [await shelf.claim("second", at + LEASE, "other", room=1) for _ in range(4)]
    assert [(each.destination, each.result_set, each.attempt) for (each,) in again] == [
        (ONE, 0, 1), (ONE, 0, 1), (ONE, 1, 1), (ONE, 1, 1),
    ]  # fmt: skip
    assert {each.key for (each,) in again} == {"k/f0.json", "k/f1.json"}
    assert await shelf.claim("third", at + LEASE) == []


async def test_a_destination_that_fails_says_why_until_it_passes(shelf: Shelf) -> None:
    await shelf.destination(ONE, verification=PASSED.as_answer())
    await shelf.destination(TWO)
    await shelf.announce(2)
    denied = {"code": "write_denied", "message": "The key may not write there."}
    mismatch = Report(**{**vars(PASSED), "ok": False, "code": Fault.SECRET_MISMATCH, "message": "Send it again."})

    async def told(identity: str = ONE) -> tuple[bool, Any]:
        shown = (await shelf.destinations.get(shelf.mine, identity)).as_answer()
        (listed,) = [
            each.as_answer() for each in (await shelf.destinations.page(shelf.mine, Query())).destinations
            if each.id == identity
        ]  # fmt: skip
        assert shown == listed
        return shown["failing_since"] is not None, shown["failing"]

    first, second = await shelf.claim()
    assert await told() == (False, None)
    why = {"fault": Fault.WRITE_DENIED, "message": denied["message"], "failing": True}
    await shelf.outbox.settle([noted(first, DeliveryState.FAILED, **why)])
    assert (await told(), await told(TWO)) == ((True, denied), (False, None))
    # What set it stays, whatever else is found out later.
    await shelf.outbox.settle([noted(second, DeliveryState.FAILED, fault=Fault.TIMEOUT, message="m", failing=True)])
    await shelf.destinations.verified(shelf.mine, ONE, mismatch, NOW, expected_version=1)
    assert await told() == (True, denied)
    await shelf.destinations.verified(shelf.mine, ONE, PASSED, NOW, expected_version=1)
    assert await told() == (False, None)
    await shelf.destinations.verified(shelf.mine, ONE, mismatch, NOW, expected_version=1)
    assert await told() == (True, {"code": "secret_mismatch", "message": "Send it again."})
    # One that began to fail before the reason was kept has that of the next failure.
    async with shelf.transaction() as session:
        await session.execute(update(DestinationRow).where(DestinationRow.id == ONE).values(failing=None))
    assert await told() == (True, None)
    await shelf.settle_all(DeliveryState.FAILED, **why)
    assert await told() == (True, denied)
    assert await shelf.failing_since(ONE) == NOW


async def test_a_destination_that_leads_elsewhere_gets_new_keys_and_a_failed_check_mends_nothing(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce()
    (claimed,) = await shelf.claim()
    await shelf.outbox.settle([noted(claimed, DeliveryState.FAILED, fault=Fault.BUCKET_NOT_FOUND, failing=True)])
    failed = PASSED.model_copy(update={"ok": False})
    await shelf.destinations.verified(shelf.mine, ONE, failed, NOW, expected_version=1)
    assert await shelf.failing_since(ONE) == NOW
    current = await shelf.destinations.get(shelf.mine, ONE)
    moved = Destination(**{**vars(current), "version": 2, "parameters": {"s3_bucket_name": "other"}})
    await shelf.destinations.change(moved, "sealed", expected_version=1, verified=True)
    assert [each.key for each in await shelf.claim("second", NOW + LEASE, "new")] == ["new/f0.json"]


async def test_redelivery_takes_what_has_ended_and_was_asked_for(shelf: Shelf) -> None:
    for each in (ONE, TWO):
        await shelf.destination(each)
    await shelf.announce(3, to=(ONE, TWO))
    claimed = sorted(await shelf.claim(), key=lambda each: (each.destination, each.file.name))
    ends = [DeliveryState.OK, DeliveryState.FAILED, DeliveryState.UPLOADING] * 2
    await shelf.outbox.settle([
        noted(each, end, leased_until=NOW + LEASE) for each, end in zip(claimed, ends, strict=True)
    ])  # fmt: skip

    async def again(**asked: Any) -> int:
        return (await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(**asked), NOW)).count

    assert await again(destinations=(TWO,), only_failed=True) == 1
    assert await shelf.states() == {"ok": 2, "failed": 1, "uploading": 2, "pending": 1}
    assert await again() == 3
    assert (await shelf.result_sets.redeliver(shelf.theirs, "c", 1, Redelivery(), NOW)).count == 0
    assert await shelf.states() == {"uploading": 2, "pending": 4}
    with pytest.raises(InvalidParameters, match=THREE):
        await again(destinations=(ONE, THREE))
    hour = timedelta(hours=1)
    for since, until, count in ((NOW + hour, None, 0), (None, NOW, 0), (NOW, NOW + hour, 2)):
        await shelf.outbox.settle([noted(each, DeliveryState.OK) for each in await shelf.claim("next")])
        done = await shelf.result_sets.redeliver_to(shelf.mine, ONE, Redelivery(None, False, since, until), NOW)
        assert done.count == count
    assert (await shelf.result_sets.redeliver_to(shelf.theirs, ONE, Redelivery(), NOW)).count == 0


async def test_redelivery_leaves_what_is_there_as_it_is_where_it_sends_nothing_and_says_why(shelf: Shelf) -> None:
    for each in (ONE, TWO, THREE, FOUR):
        await shelf.destination(each)
    await shelf.announce(2, to=(ONE, TWO, THREE, FOUR))
    await shelf.settle_all(DeliveryState.OK, etag="e", version="v", request_id="r", sent=3, text="delivered")
    await shelf.collections.put(shelf.mine, "c", CollectionDraft("Name", (ONE, TWO)), NOW)
    await shelf.disable(TWO)
    await shelf.destinations.delete(shelf.mine, FOUR)
    before = await shelf.seen()
    done = await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(), NOW + LEASE)
    assert (done.count, set(done.left)) == (2, {TWO, THREE, FOUR})
    for said in (
        "2 deliveries are made again.", f"{TWO} stay as they are, since it is disabled.",
        f"{THREE} stay as they are, since its collection does not use it any more.",
        f"{FOUR} stay as they are, since it was deleted.",
    ):  # fmt: skip
        assert said in done.message()
    after = await shelf.seen()
    assert [after[each] for each in (TWO, THREE, FOUR)] == [before[each] for each in (TWO, THREE, FOUR)]
    assert {each.destination for each in await shelf.claim("second", NOW + LEASE)} == {ONE}
    for only_failed in (True, False):
        asked = Redelivery(destinations=(TWO,), only_failed=only_failed)
        done = await shelf.result_sets.redeliver(shelf.mine, "c", 1, asked, NOW + LEASE)
        why = "Nothing of what was asked for has failed" if only_failed else "since it is disabled"
        assert (done.count, why in done.message()) == (0, True)
        assert (await shelf.seen())[TWO] == before[TWO]
    # A collection says nothing of what was announced for a destination, which is named here itself.
    done = await shelf.result_sets.redeliver_to(shelf.mine, TWO, Redelivery(), NOW + LEASE)
    assert (done.count, done.left) == (0, {TWO: "it is disabled"})
    assert (await shelf.seen())[TWO] == before[TWO]
    assert (await shelf.result_sets.redeliver_to(shelf.mine, THREE, Redelivery(), NOW + LEASE)).count == 2


async def test_what_was_skipped_or_failed_is_delivered_to_a_destination_that_is_enabled_now(shelf: Shelf) -> None:
    await shelf.destination(ONE, enabled=False)
    await shelf.announce(2)
    assert (await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(), NOW)).count == 0
    assert await shelf.states() == {"skipped": 2}
    await shelf.change(ONE, enabled=True)
    assert (await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(), NOW)).count == 2
    await shelf.settle_all(DeliveryState.FAILED, fault=Fault.WRITE_DENIED)
    assert (await shelf.result_sets.redeliver_to(shelf.mine, ONE, Redelivery(only_failed=True), NOW)).count == 2


async def test_a_copy_that_is_there_keeps_its_receipt_until_the_next_has_arrived(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce(1)
    await shelf.settle_all(DeliveryState.OK, etag="e1", version="v1", request_id="r1", sent=3)
    (first,) = (await shelf.seen())[ONE]
    assert first.delivered_at == first.ended_at == NOW

    async def again(state: DeliveryState, **changes: Any) -> Delivery:
        await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(), NOW + LEASE)
        await shelf.settle_all(state, at=NOW + LEASE, **changes)
        ((found,),) = (await shelf.seen()).values()
        assert found.key == first.key
        return found

    # It was disabled between the two, so that nothing was sent: the receipt is what it was.
    found = await again(DeliveryState.SKIPPED, message="It was disabled.", text="It was disabled.")
    assert (found.state, found.message, found.fault, found.sent) == ("ok", None, None, 3)
    assert (found.etag, found.version, found.request_id, found.ended_at) == ("e1", "v1", "r1", NOW)
    # It failed, and the copy that is there is the one before; what the store said of the failure is its own.
    refusal = Refusal(Step.UPLOAD, "AccessDenied", 403, "r0")
    found = await again(DeliveryState.FAILED, fault=Fault.WRITE_DENIED, message="m", refusal=refusal)
    assert (found.state, found.fault, found.ended_at) == ("failed", "write_denied", NOW + LEASE)
    said = {"step": "upload", "provider_code": "AccessDenied", "status": 403, "request_id": "r0"}
    assert found.refusal == said
    assert (found.etag, found.version, found.request_id, found.delivered_at) == ("e1", "v1", "r1", NOW)
    found = await again(DeliveryState.SKIPPED)
    assert (found.state, found.refusal) == ("ok", None)
    found = await again(DeliveryState.OK, etag="e2", version="v2", request_id="r2", sent=3)
    assert (found.etag, found.ended_at, found.delivered_at) == ("e2", NOW + LEASE, NOW + LEASE)


async def test_the_destinations_that_fail_are_told_those_first_that_began_last(shelf: Shelf) -> None:
    for each in (ONE, TWO, FOUR):
        await shelf.destination(each)
    await shelf.destination(THREE, shelf.theirs)
    assert await shelf.destinations.failing(9) == ([], 0)
    refused = PASSED.model_copy(update={"ok": False, "code": Fault.SECRET_MISMATCH, "message": "Wrong."})
    for later, each in enumerate((TWO, THREE, ONE)):
        account = shelf.theirs if each == THREE else shelf.mine
        at = NOW + timedelta(seconds=later)
        await shelf.destinations.verified(account, each, refused, at, expected_version=1)
    found, count = await shelf.destinations.failing(2)
    assert [(each.id, account, each.failing_since) for each, account in found] == [
        (ONE, "mine", NOW + timedelta(seconds=2)), (THREE, "theirs", NOW + timedelta(seconds=1)),
    ]  # fmt: skip
    assert (count, found[0][0].failing) == (3, {"code": "secret_mismatch", "message": "Wrong."})
    await shelf.destinations.verified(shelf.mine, ONE, PASSED, NOW, expected_version=1)
    assert [each.id for each, _ in (await shelf.destinations.failing(9))[0]] == [THREE, TWO]


async def test_a_verification_of_a_disabled_destination_has_nothing_delivered(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce(1)
    await shelf.settle_all(DeliveryState.FAILED, fault=Fault.WRITE_DENIED, failing=True)
    await shelf.disable(ONE)
    before = await shelf.seen()
    await shelf.destinations.verified(shelf.mine, ONE, PASSED, NOW, expected_version=2)
    assert await shelf.seen() == before
    current = await shelf.destinations.get(shelf.mine, ONE)
    enabled = Destination(**{**vars(current), "enabled": True, "version": 3})
    await shelf.destinations.change(enabled, "sealed", expected_version=2, verified=True)
    assert await shelf.states() == {"pending": 1}


async def test_deliveries_are_listed_newest_first_and_pages_neither_repeat_nor_skip(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.destination(THREE, shelf.theirs)
    await shelf.announce(5)
    await shelf.announce(5, number=2, at=NOW + LEASE)
    await shelf.announce(1, to=(THREE,), account=shelf.theirs)
    seen, cursor = [], None
    while True:
        query = DeliveryQuery(account=shelf.mine, limit=3, cursor=cursor)
        page, cursor = await shelf.result_sets.listing(query)
        seen += page
        if cursor is None:
            break
    assert len({each.id for each in seen}) == len(seen) == 10
    assert [each.result_set for each in seen] == [2] * 5 + [1] * 5
    assert len((await shelf.result_sets.listing(DeliveryQuery()))[0]) == 11
    for asked, count in (
        ({"destination": THREE}, 1), ({"collection": "x"}, 0), ({"state": DeliveryState.OK}, 0),
        ({"since": NOW + LEASE}, 5), ({"until": NOW + LEASE}, 6), ({"fault": Fault.THROTTLED}, 0),
    ):  # fmt: skip
        assert len((await shelf.result_sets.listing(DeliveryQuery(**asked)))[0]) == count, asked


async def test_of_a_long_log_the_last_lines_are_shown(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce(LOG_LINES + 5)
    claimed = sorted(await shelf.claim(), key=lambda each: int(each.file.name[1:-5]))
    await shelf.outbox.settle([noted(each, DeliveryState.OK, text=each.file.name) for each in claimed])
    log = (await shelf.result_sets.statuses(shelf.mine, "c", [1]))[1][ONE].log
    assert [line.text for line in log] == [f"f{n}.json" for n in range(5, LOG_LINES + 5)]


async def test_a_destination_that_is_deleted_leaves_its_deliveries_without_one(shelf: Shelf) -> None:
    await shelf.destination(ONE)
    await shelf.announce()
    await shelf.collections.delete(shelf.mine, "c")
    await shelf.destinations.delete(shelf.mine, ONE)
    assert [each.sealed for each in await shelf.claim()] == [None]
