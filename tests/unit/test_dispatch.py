"""The dispatcher on a real Redis and a real database: what workers are told, and what their word comes to."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.domain.collection import CollectionDraft
from app.domain.delivery import ATTEMPTS, Delivery, DeliveryState, Refusal, SourceFault, pause_before
from app.domain.destination import Destination
from app.domain.faults import Fault
from app.domain.result_set import ResultFile, ResultSetDraft
from app.domain.verification import Step
from app.messages.broker import opened
from app.messages.clock import Clock
from app.messages.delivery import DeliveryJob, DeliveryReport, DeliveryReports
from app.messages.keys import DELIVERY_QUEUE, DELIVERY_REPORTS
from app.messages.sealing import Sealer, new_key
from app.monitor.failures import Failing
from app.monitor.heartbeats import Heartbeat, Heartbeats
from app.monitor.history import History
from app.services.dispatch import SMALL, TOGETHER, Dispatcher, outcome_of
from app.store.accounts import Accounts
from app.store.collections import CollectionRepository
from app.store.destinations import DestinationRepository
from app.store.engine import migrate, open_engine
from app.store.outbox import Outbox
from app.store.result_sets import ResultSetRepository
from tests.stack import patient
from tests.types.every import GOOD

SEALER = Sealer((new_key(),))
ONE = "000000000001"
SECRETS = {name: GOOD["s3"][name] for name in ("s3_access_key_id", "s3_secret_access_key")}


class Dispatching:
    def __init__(self, engine: Any, client: Redis, raw: Redis) -> None:
        self.client, self.text_client = raw, client
        self.clock = Clock()
        self.heartbeats = Heartbeats(client, self.clock)
        self.outbox = Outbox(engine)
        self.dispatcher = Dispatcher(
            self.outbox, client, raw, self.heartbeats, SEALER, self.clock, per_destination=20, per_account=20
        )
        self.accounts, self.destinations = Accounts(engine), DestinationRepository(engine)
        self.collections, self.result_sets = CollectionRepository(engine), ResultSetRepository(engine)

    async def announce(self, sealed: str = "", sizes: Sequence[int] = (3,), **changes: Any) -> None:
        """Files of these sizes for one destination whose credentials are `sealed`."""
        await self.accounts.ensure_key("a", "key")
        now = datetime.now(UTC) - timedelta(seconds=1)
        values: dict[str, Any] = {
            "id": ONE, "account": 1, "name": "n", "type": "s3", "enabled": True, "version": 1, "created_at": now,
            "parameters": {"s3_bucket_name": "b", "s3_path_prefix": "%COLLECTION_ID%/%RESULT_SET_ID%"},
            "updated_at": now, **changes,
        }  # fmt: skip
        await self.destinations.add(Destination(**values), sealed or SEALER.seal(SECRETS), 50)
        await self.collections.put(1, "c", CollectionDraft("n", (ONE,)), now)
        files = [ResultFile(f"f{n or ''}.json", "in/f", size, "0" * 64, "text/plain") for n, size in enumerate(sizes)]
        await self.result_sets.add(1, "c", ResultSetDraft(7, now, now, tuple(files)), now)

    async def deliveries(self) -> dict[str, Delivery]:
        return {each.id: each for each in await self.result_sets.deliveries_of(1, "c", 7)}

    async def delivery(self) -> Delivery:
        (found,) = (await self.deliveries()).values()
        return found

    async def failures(self) -> list[Failing]:
        """The accounts of which something failed in the last hour."""
        return (await History(self.text_client, self.clock).failures(60)).accounts

    async def told(self) -> DeliveryJob | None:
        """What the next worker is told."""
        message = await self.client.rpop(DELIVERY_QUEUE)
        return DeliveryJob.model_validate(SEALER.open(opened(message, DELIVERY_QUEUE).sealed)) if message else None

    async def say(self, job: DeliveryJob, state: DeliveryState, **more: Any) -> None:
        await self.client.rpush(DELIVERY_REPORTS, sealed(report(job, state, **more)))

    async def noted(self, state: DeliveryState) -> Delivery:
        """The delivery once it is in `state`."""
        async with asyncio.timeout(60):
            while (found := await self.delivery()).state is not state:
                await asyncio.sleep(0.02)
        return found


def report(job: DeliveryJob, state: DeliveryState, nth: int = 0, **more: Any) -> DeliveryReport:
    """Of the file of this number among those of `job`."""
    file = job.files[nth]
    own = {"delivery": file.id, "lease": job.lease, "attempt": file.attempt, "file": file.name, "worker": "w"}
    return DeliveryReport.model_validate({**own, "at": time.time(), "state": state, **more})


def sealed(*reports: DeliveryReport, by: Sealer = SEALER) -> str:
    return by.seal(DeliveryReports(reports=reports).content())


@pytest.fixture
async def dispatching(redis_url: str, tmp_path: Path) -> AsyncIterator[Dispatching]:
    url = f"sqlite+aiosqlite:///{tmp_path}/d.db"
    async with open_engine(url) as engine, patient(redis_url) as client, patient(redis_url, decode=False) as raw:
        await client.flushdb()
        await migrate(engine)
        yield Dispatching(engine, client, raw)


async def test_a_worker_is_told_all_that_it_needs_and_nothing_in_the_clear(dispatching: Dispatching) -> None:
    await dispatching.announce()
    assert await dispatching.dispatcher.dispatch(5) == 1
    (message,) = await dispatching.client.lrange(DELIVERY_QUEUE, 0, -1)
    assert not any(secret.encode() in message for secret in SECRETS.values())
    job = await dispatching.told()
    assert job
    (file,) = job.files
    assert (file.key, file.source, file.attempt, job.spec.secrets()) == ("c/7/f.json", "in/f", 1, SECRETS)
    assert await dispatching.dispatcher.dispatch(5) == 0


async def test_small_files_of_a_destination_share_a_message_and_large_ones_have_their_own(
    dispatching: Dispatching,
) -> None:
    await dispatching.announce(sizes=(SMALL + 1, 0, *[SMALL] * TOGETHER, SMALL + 1))
    assert await dispatching.dispatcher.dispatch(100) == TOGETHER + 3
    jobs = []
    while job := await dispatching.told():
        jobs.append(job)
    sizes = sorted([file.bytes for file in job.files] for job in jobs)
    large = [[SMALL + 1]] * 2
    assert [each for each in sizes if len(each) == 1 and each[0] > SMALL] == large
    assert sorted(map(len, sizes)) == [1, 1, 1, TOGETHER]
    told = [file.id for job in jobs for file in job.files]
    assert sorted(told) == sorted(await dispatching.deliveries())


async def test_what_becomes_of_one_file_of_a_message_says_nothing_of_the_others(dispatching: Dispatching) -> None:
    await dispatching.announce(sizes=(3, 3, 3, 3))
    await dispatching.dispatcher.dispatch(100)
    job = await dispatching.told()
    assert job
    ok, failed, back, silent = (file.id for file in job.files)
    said = (
        report(job, DeliveryState.UPLOADING, 0, sent=1),
        report(job, DeliveryState.OK, 0, sent=3, etag="e"),
        report(job, DeliveryState.UPLOADING, 0, sent=1),
        report(job, DeliveryState.FAILED, 1, fault=Fault.QUOTA_EXCEEDED, message="Full."),
        report(job, DeliveryState.PENDING, 2),
    )
    async with dispatching.dispatcher.receiving.running(), asyncio.timeout(60):
        await dispatching.client.rpush(DELIVERY_REPORTS, sealed(*said))
        while (await dispatching.deliveries())[back].state is not DeliveryState.PENDING:
            await asyncio.sleep(0.02)
    found = await dispatching.deliveries()
    assert {each: found[each].state for each in (ok, failed, back, silent)} == {
        ok: DeliveryState.OK, failed: DeliveryState.FAILED, back: DeliveryState.PENDING,
        silent: DeliveryState.UPLOADING,
    }  # fmt: skip
    assert (found[ok].etag, found[ok].sent, found[failed].message) == ("e", 3, "Full.")
    assert (found[back].attempts, found[silent].attempts) == (0, 1)


@pytest.mark.parametrize(("changes", "state"), [({"enabled": False}, "skipped"), ({}, "failed")])
async def test_what_cannot_be_delivered_is_told_to_nobody_and_says_why(
    dispatching: Dispatching, changes: dict[str, Any], state: str
) -> None:
    await dispatching.announce(sealed="sealed by a key that is gone")
    if changes:
        current = await dispatching.destinations.get(1, ONE)
        disabled = Destination(**{**vars(current), **changes, "version": 2})
        await dispatching.destinations.change(disabled, "sealed", expected_version=1, verified=False)
    await dispatching.dispatcher.dispatch(5)
    assert await dispatching.told() is None
    found = await dispatching.delivery()
    assert (found.state, bool(found.message)) == (state, True)
    assert ((await dispatching.destinations.get(1, ONE)).failing_since is not None) is (state == "failed")


@pytest.mark.parametrize("said", ["e" * 2000, "\udcff", "e\0"], ids=["too long", "no text", "a NUL"])
async def test_what_a_database_has_no_room_for_keeps_no_delivery_from_being_noted(
    dispatching: Dispatching, said: str
) -> None:
    await dispatching.announce()
    await dispatching.dispatcher.dispatch(5)
    job = await dispatching.told()
    assert job
    content = DeliveryReports(reports=(report(job, DeliveryState.OK, sent=3),)).content()
    content["reports"][0] |= {"etag": said, "version": said, "request_id": said}
    async with dispatching.dispatcher.receiving.running():
        await dispatching.client.rpush(DELIVERY_REPORTS, SEALER.seal(content))
        found = await dispatching.noted(DeliveryState.OK)
    assert (found.etag, found.version, found.request_id, found.sent) == (None, None, None, 3)


async def test_what_an_earlier_attempt_left_is_handed_on_sealed(dispatching: Dispatching) -> None:
    await dispatching.announce()
    await dispatching.dispatcher.dispatch(5)
    first = await dispatching.told()
    assert first
    async with dispatching.dispatcher.receiving.running():
        await dispatching.say(first, DeliveryState.UPLOADING, upload="https://a-capability", sent=1)
        async with asyncio.timeout(60):
            while not (await dispatching.delivery()).sent:
                await asyncio.sleep(0.02)
    assert await dispatching.outbox.expire(datetime.now(UTC) + timedelta(minutes=1)) == (1, [])
    assert (await dispatching.delivery()).attempts == 1
    await dispatching.outbox.expire(datetime.now(UTC))
    claimed = await dispatching.outbox.claim(
        "l", datetime.now(UTC) + timedelta(minutes=2), datetime.now(UTC), lambda _: None,
        room=1, per_destination=1, per_account=1,
    )  # fmt: skip
    assert claimed[0].upload
    assert "capability" not in claimed[0].upload
    assert SEALER.open(claimed[0].upload) == {"id": "https://a-capability"}


async def test_a_receipt_is_noted_and_a_forged_one_dropped(dispatching: Dispatching) -> None:
    await dispatching.announce()
    await dispatching.dispatcher.dispatch(5)
    job = await dispatching.told()
    assert job
    async with dispatching.dispatcher.receiving.running():
        forged = report(job, DeliveryState.OK, etag="forged")
        by_others = sealed(forged, by=Sealer((new_key(),)))
        await dispatching.client.rpush(DELIVERY_REPORTS, forged.model_dump_json(), by_others, SEALER.seal({}))
        await dispatching.say(job, DeliveryState.OK, etag="e", sent=3)
        found = await dispatching.noted(DeliveryState.OK)
    assert (found.etag, found.sent, found.worker) == ("e", 3, "w")


async def test_nothing_is_dispatched_without_a_worker_that_delivers(dispatching: Dispatching) -> None:
    await dispatching.announce()
    later = time.time() + 600
    common = {"jobs": 5, "running": 0, "reading": True, "since": 0.0, "clock_offset": 0.0}
    async with dispatching.dispatcher.running():
        await dispatching.heartbeats.give(Heartbeat(worker="verifies", at=later, **common))
        dispatching.dispatcher.wake()
        await asyncio.sleep(0.3)
        assert (await dispatching.delivery()).state is DeliveryState.PENDING
        await dispatching.heartbeats.give(Heartbeat(worker="delivers", at=later, deliveries=True, **common))
        dispatching.dispatcher.wake()
        await dispatching.noted(DeliveryState.UPLOADING)
    assert await dispatching.told()


@pytest.mark.parametrize(
    ("fault", "attempt", "state", "failing"),
    [
        (Fault.THROTTLED, 1, "pending", False),
        (Fault.HOST_NOT_FOUND, 1, "pending", False),
        (Fault.THROTTLED, ATTEMPTS, "failed", True),
        (Fault.SECRET_MISMATCH, 1, "failed", True),
        (Fault.QUOTA_EXCEEDED, 1, "failed", True),
        (Fault.INTERNAL_ERROR, ATTEMPTS, "failed", False),
        (SourceFault.UNAVAILABLE, 1, "pending", False),
        (SourceFault.NOT_FOUND, ATTEMPTS, "failed", False),
        (SourceFault.CHANGED, 1, "failed", False),
    ],
)
def test_what_may_pass_is_tried_again_and_the_rest_ends(
    fault: Fault | SourceFault, attempt: int, state: str, failing: bool
) -> None:
    said = DeliveryReport(
        delivery="d", lease="l", attempt=attempt, file="f", worker="w", at=1.0, state=DeliveryState.FAILED,
        fault=fault, message="Because.",
    )  # fmt: skip
    outcome = outcome_of(said)
    assert (outcome.state, outcome.failing, outcome.fault) == (state, failing, fault)
    assert (outcome.due_at is not None) is (state == "pending")
    assert outcome.text.startswith("f: Because.")


async def refused_by_a_store(dispatching: Dispatching) -> None:
    await dispatching.announce()
    await dispatching.dispatcher.dispatch(5)
    job = await dispatching.told()
    assert job
    why = {"fault": Fault.INTERNAL_ERROR, "message": "m", "account": "a", "attempt": ATTEMPTS}
    async with dispatching.dispatcher.receiving.running():
        for _ in range(2):
            # Once more by a worker whose word was lost.
            await dispatching.say(job, DeliveryState.FAILED, **why)
        await dispatching.noted(DeliveryState.FAILED)
        async with asyncio.timeout(60):
            while await dispatching.client.llen(DELIVERY_REPORTS) or not await dispatching.failures():
                await asyncio.sleep(0.02)


async def refused_by_us(dispatching: Dispatching) -> None:
    await dispatching.announce(sealed="sealed by a key that is gone")
    await dispatching.dispatcher.dispatch(5)


async def lost_with_its_workers(dispatching: Dispatching) -> None:
    await dispatching.announce()
    begun = datetime.now(UTC) - timedelta(minutes=5)
    for _ in range(ATTEMPTS):
        assert (await dispatching.outbox.expire(begun))[1] == []
        bounds = {"room": 1, "per_destination": 1, "per_account": 1}
        (claimed,) = await dispatching.outbox.claim(
            "l", datetime.now(UTC), begun - timedelta(seconds=1), lambda _: "k", **bounds
        )
    assert claimed.attempt == ATTEMPTS
    async with dispatching.dispatcher.dispatching.running():
        await dispatching.noted(DeliveryState.FAILED)
        async with asyncio.timeout(60):
            while not await dispatching.failures():
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("end", [refused_by_a_store, refused_by_us, lost_with_its_workers])
async def test_a_delivery_that_is_given_up_is_counted_once_with_whose_it_was_whoever_decided_it(
    dispatching: Dispatching, end: Callable[[Dispatching], Awaitable[None]]
) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("dropoff_deliveries_failed_total", {"code": "internal_error"}) or 0

    before = counted()
    with capture_logs() as logs:
        await end(dispatching)
    assert await dispatching.failures() == [Failing("a", undelivered={"internal_error": 1})]
    assert counted() == before + 1
    found = await dispatching.delivery()
    told = [each for each in logs if each["event"] == "delivery failed"]
    assert [(each["delivery"], each["account"], each["code"]) for each in told] == [(found.id, "a", "internal_error")]
    status = (await dispatching.result_sets.statuses(1, "c", [7]))[7][ONE]
    assert status.log[-1].text.endswith(found.message or "-")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, "f: Because."),
        (Refusal(Step.CONNECT), "f: Because. The step connect failed."),
        (
            Refusal(Step.UPLOAD, "AccessDenied", 403, "4F"),
            "f: Because. The step upload failed: AccessDenied, HTTP 403, request id 4F.",
        ),
    ],
)
def test_what_the_store_said_is_noted_and_in_the_log(said: Refusal | None, told: str) -> None:
    report = DeliveryReport(
        delivery="d", lease="l", attempt=1, file="f", worker="w", at=1.0, state=DeliveryState.FAILED,
        fault=Fault.WRITE_DENIED, message="Because.", refusal=said,
    )  # fmt: skip
    (read,) = DeliveryReports.model_validate(DeliveryReports(reports=(report,)).content()).reports
    outcome = outcome_of(read)
    assert (outcome.refusal, outcome.text) == (said, told)


def test_eight_pauses_are_a_day_and_a_bit_and_each_is_longer_than_the_one_before() -> None:
    pauses = [pause_before(attempt) for attempt in range(2, ATTEMPTS + 1)]
    assert len(pauses) == 8
    assert pauses == sorted(pauses)
    assert timedelta(hours=24) < sum(pauses, timedelta()) < timedelta(hours=32)
