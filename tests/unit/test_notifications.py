"""What the platform is told: what is recorded with which change, in which order it is sent, and by whom."""

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from standardwebhooks import Webhook, WebhookVerificationError

from app.cli.commands import main
from app.domain.delivery import ATTEMPTS, DeliveryState, Redelivery, Refusal, SourceFault
from app.domain.destination import timestamp
from app.domain.faults import Fault
from app.domain.notification import TRIED_FOR, Event, EventType, NotificationState, pause_after
from app.domain.verification import Report, Step
from app.messages.clock import Clock
from app.messages.sealing import new_key
from app.observe import metrics
from app.services import notify as module
from app.services.notify import Notifier
from app.services.retention import Retention
from app.store.engine import migrate, open_engine
from app.store.notifications import Notifications, record
from app.store.tables import DeliveryRow, NotificationDestinationRow, ResultFileRow, ResultSetRow
from app.web.openapi import document
from tests.documents import blocks
from tests.unit.test_outbox import LEASE, NOW, ONE, PASSED, TWO, Shelf, noted

DOCUMENT = document()
SECRET = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
OLD_SECRET = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
KEYS = tuple(base64.b64decode(each.removeprefix("whsec_")) for each in (SECRET, OLD_SECRET))
REFUSED = Report(
    ok=False, message="Wrong.", type="s3", host="h", object="o", duration_ms=1, job="1", steps=(),
    code=Fault.SECRET_MISMATCH,
)  # fmt: skip


class Told(Shelf):
    """A shelf whose changes are told, and what waits to be."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, notify=True)
        self.notifications = Notifications(engine)

    async def payloads(self) -> list[dict[str, Any]]:
        """What the platform is to be told, as the service's description says that it looks."""
        found = [json.loads(each.payload) for each in await self.notifications.page(0, 1000)]
        for payload in found:
            described = DOCUMENT["webhooks"][payload["type"]]["post"]["requestBody"]["content"]["application/json"]
            Draft202012Validator({**DOCUMENT, **described["schema"]}).validate(payload)
        return found

    async def types(self) -> list[str]:
        return [each["type"] for each in await self.payloads()]

    async def happen(self, *destinations: str, at: datetime = NOW, n: int = 0) -> None:
        event = Event(EventType.DELIVERY_FAILED, at, self.mine, destinations, {"n": n})
        await self.write(lambda connection: record(connection, [event]))

    async def two_of_which_are_kept(self, count: int) -> list[str]:
        """So many happen, and two of them are given up; the ids, in order."""
        await self.fill()
        for n in range(count):
            await self.happen(f"{n:012X}", n=n)
        for each in await self.notifications.claim(NOW, NOW, 2):
            await self.notifications.keep(each, "answered 500")
        return [each.id for each in await self.notifications.page(0, 99)]

    async def numbers(self, now: datetime, most: int = 100) -> list[int]:
        """Which of what happened is claimed now."""
        claimed = await self.notifications.claim(now, now + LEASE, most)
        return sorted(json.loads(each.payload)["data"]["n"] for each in claimed)


@pytest.fixture
async def shelf(shared_engine: AsyncEngine) -> Told:
    return await emptied(shared_engine)


@pytest.fixture(scope="module")
async def file(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncEngine]:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('notifications')}/f.db") as opened:
        await migrate(opened)
        yield opened


@pytest.fixture
async def outbox(file: AsyncEngine) -> Told:
    """As `shelf`, where it is all the same which database it is."""
    return await emptied(file)


async def emptied(engine: AsyncEngine) -> Told:
    shelf = Told(engine)
    await shelf.empty()
    await shelf.destination(ONE, name="One")
    await shelf.destination(TWO, name="Two")
    return shelf


async def test_a_result_set_is_delivered_when_its_last_file_is_and_told_of_once(shelf: Told) -> None:
    await shelf.announce(2, to=(ONE, TWO))
    first, *others = await shelf.claim()
    await shelf.outbox.settle([noted(first, DeliveryState.OK)])
    assert await shelf.payloads() == []
    await shelf.outbox.settle([noted(each, DeliveryState.OK, at=NOW + LEASE) for each in others])
    (told,) = await shelf.payloads()
    assert (told["type"], told["timestamp"]) == ("result_set.delivered", "2026-03-01T12:00:20Z")
    assert told["data"] == {
        "account": shelf.mine, "account_name": "mine", "collection_id": "c", "collection_name": "Name",
        "result_set_id": 1, "started_at": "2026-03-01T12:00:00Z", "ended_at": "2026-03-01T12:00:00Z", "file_count": 2,
        "destinations": [
            {"id": ONE, "name": "One", "status": "ok"},
            {"id": TWO, "name": "Two", "status": "ok"},
        ],
    }  # fmt: skip
    # Said once more by a worker whose word was lost: it is the same.
    await shelf.outbox.settle([noted(others[0], DeliveryState.OK)])
    assert len(await shelf.payloads()) == 1


async def test_two_that_note_the_last_files_of_a_set_at_once_tell_of_it_once(shelf: Told) -> None:
    await shelf.announce(12)
    claimed = await shelf.claim()
    await asyncio.gather(*(shelf.outbox.settle([noted(each, DeliveryState.OK)]) for each in claimed))
    assert await shelf.types() == ["result_set.delivered"]


async def test_a_set_of_which_a_file_failed_is_not_delivered_until_that_was_made_good(shelf: Told) -> None:
    await shelf.announce(2)
    one, other = await shelf.claim()
    await shelf.outbox.settle([noted(one, DeliveryState.FAILED, fault=SourceFault.CHANGED, message="Another.")])
    await shelf.outbox.settle([noted(other, DeliveryState.OK)])
    assert await shelf.types() == ["delivery.failed"]
    await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(only_failed=True), NOW)
    (again,) = await shelf.claim()
    await shelf.outbox.settle([noted(again, DeliveryState.OK)])
    assert await shelf.types() == ["delivery.failed", "result_set.delivered"]


async def test_a_set_that_goes_nowhere_is_never_delivered_and_what_is_skipped_is_not_waited_for(shelf: Told) -> None:
    await shelf.announce(1, number=1)
    await shelf.announce(1, number=2, to=(ONE, TWO))
    claimed = await shelf.claim()
    for each in claimed:
        if each.result_set == 1:
            await shelf.outbox.settle([noted(each, DeliveryState.SKIPPED)])
    assert await shelf.types() == []
    one, two = sorted((each for each in claimed if each.result_set == 2), key=lambda each: each.destination)
    await shelf.outbox.settle([noted(one, DeliveryState.OK)])
    await shelf.outbox.settle([noted(two, DeliveryState.SKIPPED)])
    (told,) = await shelf.payloads()
    assert [each["status"] for each in told["data"]["destinations"]] == ["ok", "skipped"]


async def test_a_delivery_that_failed_and_the_destination_that_is_to_blame_are_told_of(shelf: Told) -> None:
    await shelf.announce(3)
    first, second, third = sorted(await shelf.claim(), key=lambda each: each.file.name)
    why = {"fault": Fault.SECRET_MISMATCH, "message": "Send s3_secret_access_key again.", "failing": True}
    why["refusal"] = Refusal(Step.UPLOAD, "SignatureDoesNotMatch", 403, "r")
    await shelf.outbox.settle([noted(each, DeliveryState.FAILED, **why) for each in (first, second)])
    await shelf.outbox.settle([noted(third, DeliveryState.PENDING, due_at=NOW, fault=Fault.THROTTLED)])
    failed, _, failing = await shelf.payloads()
    assert await shelf.types() == ["delivery.failed", "delivery.failed", "destination.failing"]
    place = {"account": shelf.mine, "account_name": "mine", "destination": ONE, "destination_name": "One"}
    words = {"fault": "secret_mismatch", "message": "Send s3_secret_access_key again."}
    assert failed["data"] == {
        "id": first.id, **place, "collection_id": "c", "collection_name": "Name", "result_set_id": 1,
        "name": first.file.name, "bytes": 3, "key": f"k/{first.file.name}", "attempts": 1, **words,
        "refusal": {"step": "upload", "provider_code": "SignatureDoesNotMatch", "status": 403, "request_id": "r"},
    }  # fmt: skip
    assert failing["data"] == {**place, "type": "s3", "failing_since": "2026-03-01T12:00:00Z", **words}
    assert "sealed" not in json.dumps(await shelf.payloads())


async def test_what_is_noted_together_is_told_in_the_order_of_its_times_each_with_its_own(shelf: Told) -> None:
    """However the reports of several workers came: what is told of a time is what the records have."""
    await shelf.announce(3, number=1)
    await shelf.announce(1, number=2, to=(TWO,))
    *three, well = sorted(await shelf.claim(), key=lambda each: (each.destination, each.file.name))
    at = [NOW + timedelta(milliseconds=ms) for ms in (30, 10, 20, 5)]
    why = {"fault": Fault.SECRET_MISMATCH, "message": "m", "failing": True}
    failed = [noted(each, DeliveryState.FAILED, at=at[n], **why) for n, each in enumerate(three)]
    await shelf.outbox.settle([*failed, noted(well, DeliveryState.OK, at=at[3])])
    told = await shelf.payloads()
    assert [(each["type"], each["timestamp"], each["data"].get("id")) for each in told] == [
        ("result_set.delivered", timestamp(at[3]), None),
        ("delivery.failed", timestamp(at[1]), three[1].id),
        ("destination.failing", timestamp(at[1]), None),
        ("delivery.failed", timestamp(at[2]), three[2].id),
        ("delivery.failed", timestamp(at[0]), three[0].id),
    ]
    assert await shelf.failing_since(ONE) == at[1]
    assert told[2]["data"]["failing_since"] == timestamp(at[1])
    ended = {each.id: each.ended_at for each in (await shelf.seen())[ONE]}
    assert ended == {each.id: at[n] for n, each in enumerate(three)}


async def test_a_delivery_whose_workers_all_died_is_told_of_as_failed(shelf: Told) -> None:
    await shelf.announce(1)
    at = NOW
    for _ in range(ATTEMPTS):
        assert len(await shelf.claim(at=at)) == 1
        at += LEASE * 2
        await shelf.outbox.expire(at)
    (told,) = await shelf.payloads()
    assert (told["type"], told["data"]["fault"], told["data"]["attempts"]) == ("delivery.failed", "internal_error", 9)


async def test_a_destination_fails_once_and_recovers_once_whoever_finds_out(shelf: Told) -> None:
    for _ in range(2):
        await shelf.destinations.verified(shelf.mine, ONE, REFUSED, NOW, expected_version=1)
    await shelf.announce(1)
    (claimed,) = await shelf.claim()
    why = {"fault": Fault.SECRET_MISMATCH, "message": "m", "failing": True}
    await shelf.outbox.settle([noted(claimed, DeliveryState.FAILED, **why)])
    for _ in range(2):
        await shelf.destinations.verified(shelf.mine, ONE, PASSED, NOW + LEASE, expected_version=1)
    assert await shelf.types() == ["destination.failing", "delivery.failed", "destination.recovered"]
    failing, _, recovered = await shelf.payloads()
    assert (failing["data"]["fault"], failing["data"]["message"]) == ("secret_mismatch", "Wrong.")
    times = (recovered["timestamp"], recovered["data"]["failing_since"])
    assert times == ("2026-03-01T12:00:20Z", "2026-03-01T12:00:00Z")
    assert recovered["data"]["redelivered"] == 1
    # By an update that was verified as well.
    await shelf.destinations.verified(shelf.mine, TWO, REFUSED, NOW, expected_version=1)
    current = await shelf.destinations.get(shelf.mine, TWO)
    await shelf.destinations.change(current, "sealed anew", expected_version=1, verified=True)
    assert await shelf.types() == [
        *("destination.failing", "delivery.failed", "destination.recovered"),
        *("destination.failing", "destination.recovered"),
    ]


async def test_a_failure_beside_a_verification_that_passes_is_made_good_or_marks_the_destination(shelf: Told) -> None:
    """Whichever of the two is stored first: nothing stays failed at a destination that is said to be well."""
    why = {"fault": Fault.SECRET_MISMATCH, "message": "m", "failing": True}
    for number in range(5):
        await shelf.announce(1, number=number)
        (claimed,) = await shelf.claim()
        await asyncio.gather(
            shelf.outbox.settle([noted(claimed, DeliveryState.FAILED, **why)]),
            shelf.destinations.verified(shelf.mine, ONE, PASSED, NOW, expected_version=1),
        )
        failed = (await shelf.states())[DeliveryState.FAILED] > 0
        assert failed == (await shelf.failing_since(ONE) is not None)
        last = (await shelf.types())[-1]
        assert last == ("destination.failing" if failed else "destination.recovered")
        await shelf.destinations.verified(shelf.mine, ONE, PASSED, NOW, expected_version=1)
        for each in await shelf.claim():
            await shelf.outbox.settle([noted(each, DeliveryState.OK)])


async def test_what_is_not_stored_is_not_told_and_nothing_is_where_nobody_is_to_be_told(shelf: Told) -> None:
    quiet = Shelf(shelf._engine)
    quiet.mine = shelf.mine
    await quiet.announce(1)
    (claimed,) = await quiet.claim()
    await quiet.outbox.settle([noted(claimed, DeliveryState.OK)])
    await quiet.destinations.verified(shelf.mine, ONE, REFUSED, NOW, expected_version=1)
    assert await shelf.payloads() == []
    with pytest.raises(ZeroDivisionError):
        await shelf.write(lambda connection: record(connection, [_event(shelf)]) or 1 // 0)
    assert await shelf.payloads() == []


def _event(shelf: Told, *destinations: str) -> Event:
    return Event(EventType.DELIVERY_FAILED, NOW, shelf.mine, destinations or (ONE,), {})


async def test_those_of_a_destination_are_claimed_one_after_the_other_and_keep_no_other_waiting(shelf: Told) -> None:
    for n, destinations in enumerate([(ONE,), (ONE,), (TWO,), (ONE, TWO), (TWO,)]):
        await shelf.happen(*destinations, n=n)
    first = sorted(await shelf.notifications.claim(NOW, NOW + LEASE, 100), key=lambda each: each.number)
    assert [json.loads(each.payload)["data"]["n"] for each in first] == [0, 2]
    assert await shelf.numbers(NOW) == []
    await shelf.notifications.taken(first[1])
    # 3 is about both: it waits for 1 as well.
    assert await shelf.numbers(NOW) == []
    await shelf.notifications.taken(first[0])
    (second,) = await shelf.notifications.claim(NOW, NOW + LEASE, 100)
    await shelf.notifications.postpone(second, NOW + LEASE * 3, "answered 500")
    assert await shelf.numbers(NOW + LEASE * 2) == []
    (second,) = await shelf.notifications.claim(NOW + LEASE * 3, NOW + LEASE * 4, 100)
    assert (json.loads(second.payload)["data"]["n"], second.attempts, second.reason) == (1, 2, "answered 500")
    await shelf.notifications.keep(second, "answered 500")
    assert await shelf.numbers(NOW + LEASE * 3) == [3]
    assert await shelf.notifications.counts() == {NotificationState.WAITING: 2, NotificationState.KEPT: 1}


async def test_any_number_of_processes_claim_and_none_has_what_another_has(shelf: Told) -> None:
    for n in range(20):
        await shelf.happen(f"{n % 10:012d}", n=n)
    claimed = await asyncio.gather(*(shelf.numbers(NOW, 3) for _ in range(8)))
    numbers = [n for each in claimed for n in each]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) <= set(range(10))
    assert sorted([*numbers, *await shelf.numbers(NOW)]) == list(range(10))


async def test_one_whose_sender_died_is_due_again_and_its_word_does_not_count_any_more(shelf: Told) -> None:
    await shelf.happen(ONE)
    (dead,) = await shelf.notifications.claim(NOW, NOW + LEASE, 1)
    assert await shelf.notifications.claim(NOW + LEASE / 2, NOW + LEASE, 1) == []
    (alive,) = await shelf.notifications.claim(NOW + LEASE, NOW + LEASE * 2, 1)
    assert (alive.id, alive.attempts) == (dead.id, 2)
    await shelf.notifications.postpone(dead, NOW, "late")
    await shelf.notifications.keep(dead, "late")
    assert await shelf.notifications.claim(NOW + LEASE, NOW + LEASE * 2, 1) == []
    assert [each.state for each in await shelf.notifications.page(0, 9)] == [NotificationState.WAITING]
    # That it was taken counts whoever says it.
    await shelf.notifications.taken(dead)
    assert await shelf.notifications.page(0, 9) == []
    async with shelf.reading() as session:
        assert (await session.scalars(select(NotificationDestinationRow.number))).all() == []


async def test_what_was_given_up_is_told_again_when_an_operator_asks_and_before_what_came_later(shelf: Told) -> None:
    for n in range(2):
        await shelf.happen(ONE, n=n)
    (first,) = await shelf.notifications.claim(NOW, NOW + LEASE, 1)
    await shelf.notifications.keep(first, "answered 400")
    assert await shelf.notifications.retry(NOW, "msg_other") == 0
    assert await shelf.notifications.retry(NOW + LEASE) == 1
    (again,) = await shelf.notifications.claim(NOW + LEASE, NOW + LEASE * 2, 5)
    assert (again.id, again.attempts, again.created_at) == (first.id, 1, NOW + LEASE)
    assert await shelf.notifications.forget(again.id)
    assert not await shelf.notifications.forget(again.id)
    assert await shelf.numbers(NOW + LEASE) == [1]


# The platform's side.


class Platform:
    """What the platform heard, and what it answers: a handler, or a status."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int | Callable[[web.Request], Awaitable[web.StreamResponse]]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.heard.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        answer = self.answers.pop(0) if self.answers else 204
        return web.Response(status=answer) if isinstance(answer, int) else await answer(request)

    def numbers(self) -> list[int]:
        return [json.loads(body)["data"]["n"] for _, body in self.heard]

    async def hears(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.heard) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    platform, app = Platform(), web.Application()
    app.router.add_route("*", "/{any:.*}", platform.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    platform.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook?token=SENTINEL"
    yield platform
    await runner.cleanup()


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is sent again at once."""
    monkeypatch.setattr(module, "pause_after", lambda _: timedelta(0))


@contextlib.asynccontextmanager
async def notifying(shelf: Told, platform: Platform, processes: int = 1) -> AsyncIterator[None]:
    """So many processes that tell the platform, until nothing waits any more."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(processes):
            await stack.enter_async_context(Notifier(shelf.notifications, Clock(), platform.url, KEYS).running())
        yield
        async with asyncio.timeout(60):
            while (await shelf.notifications.counts())[NotificationState.WAITING]:
                await asyncio.sleep(0.01)


async def test_the_platform_can_check_each_with_standard_webhooks(outbox: Told, platform: Platform) -> None:
    await outbox.happen(ONE, at=datetime.now(UTC), n=1)
    async with notifying(outbox, platform):
        await platform.hears(1)
    ((headers, body),) = platform.heard
    assert headers["content-type"] == "application/json"
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(body, headers)["data"] == {"n": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"1", b"2"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, {**headers, "webhook-id": "msg_other"})
    with pytest.raises(WebhookVerificationError):
        Webhook(f"whsec_{base64.b64encode(b'x' * 32).decode()}").verify(body, headers)


async def test_the_platform_can_check_each_as_the_documentation_shows(outbox: Told, platform: Platform) -> None:
    (block,) = [each for each in blocks("docs/api.md") if each.headings[-1] == "Check a signature"]
    shown: dict[str, Any] = {}
    exec(block.text, shown)
    await outbox.happen(ONE, at=datetime.now(UTC))
    async with notifying(outbox, platform):
        await platform.hears(1)
    ((headers, body),) = platform.heard
    assert shown["is_ours"](SECRET, headers, body)
    assert not shown["is_ours"](SECRET, headers, body + b" ")
    late = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 301)}
    assert not shown["is_ours"](SECRET, late, body)


@pytest.mark.usefixtures("quick")
async def test_what_is_refused_is_sent_again_under_its_id_before_what_came_later(
    outbox: Told, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    platform.answers = [500, 404, 302, cut, 200]
    for n in range(3):
        await outbox.happen(ONE, at=datetime.now(UTC), n=n)
    before = _attempts("refused")
    async with notifying(outbox, platform):
        await platform.hears(7)
    assert platform.numbers() == [0, 0, 0, 0, 0, 1, 2]
    assert len({headers["webhook-id"] for headers, _ in platform.heard}) == 3
    assert _attempts("refused") - before == 4


def _attempts(outcome: str) -> float:
    return metrics.NOTIFICATION_ATTEMPTS.labels(EventType.DELIVERY_FAILED, outcome)._value.get()


@pytest.mark.usefixtures("quick")
async def test_several_processes_send_those_of_each_destination_in_order(outbox: Told, platform: Platform) -> None:
    for n in range(30):
        await outbox.happen(f"{n % 3:012d}", at=datetime.now(UTC), n=n)
    platform.answers = [500 if n % 4 == 0 else 204 for n in range(20)]
    async with notifying(outbox, platform, processes=3):
        await platform.hears(35)
    for lane in range(3):
        heard = [n for n in platform.numbers() if n % 3 == lane]
        assert heard == sorted(heard)
        assert sorted(set(heard)) == list(range(lane, 30, 3))


@pytest.mark.usefixtures("quick")
async def test_a_redirect_is_not_followed_and_no_more_of_an_answer_is_read_than_its_head(
    outbox: Told, platform: Platform
) -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": "/elsewhere"})

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(OSError):
            while True:
                await response.write(b"x" * 65536)
        return response

    platform.answers = [elsewhere, endless]
    for n in range(2):
        await outbox.happen(ONE, at=datetime.now(UTC), n=n)
    async with notifying(outbox, platform):
        await platform.hears(3)
    assert platform.numbers() == [0, 0, 1]


async def test_what_is_not_taken_in_its_time_is_given_up_told_and_kept_and_the_next_is_tried(
    outbox: Told, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(module.log, "error", lambda event, **about: said.append((event, about)), raising=False)
    platform.answers = [500]
    # It could not be tried before, since no process ran: it is tried once all the same.
    await outbox.happen(ONE, at=datetime.now(UTC) - TRIED_FOR - LEASE, n=0)
    await outbox.happen(ONE, at=datetime.now(UTC), n=1)
    async with notifying(outbox, platform):
        await platform.hears(2)
    assert platform.numbers() == [0, 1]
    ((event, about),) = said
    assert (event, about["reason"], about["type"]) == ("notification given up", "answered 500", "delivery.failed")
    assert "SENTINEL" not in str(about)
    (kept,) = await outbox.notifications.page(0, 9)
    assert (kept.id, kept.state, kept.reason) == (about["notification"], NotificationState.KEPT, "answered 500")


@pytest.mark.parametrize(("status", "header", "seconds"), [(410, "", 3600), (429, "120", 120), (503, "soon", 10)])
async def test_a_receiver_that_is_gone_or_overloaded_is_left_alone(
    outbox: Told, platform: Platform, status: int, header: str, seconds: float
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": header} if header else {})

    platform.answers = [answer]
    await outbox.happen(ONE, at=datetime.now(UTC), n=0)
    notifier = Notifier(outbox.notifications, Clock(), platform.url, KEYS)
    loop, asked = asyncio.get_running_loop(), datetime.now(UTC)
    began = loop.time()
    async with notifier.running():
        await platform.hears(1)
        async with asyncio.timeout(60):
            while not (await outbox.notifications.page(0, 1))[0].reason:
                await asyncio.sleep(0.01)
        await outbox.happen(TWO, at=datetime.now(UTC), n=1)
        notifier._woken.set()
        await asyncio.sleep(0.1)
    assert len(platform.heard) == 1
    assert began + seconds <= notifier._waits_until <= loop.time() + seconds
    (waiting,) = await outbox.notifications.claim(asked + timedelta(seconds=seconds - 1), asked, 100)
    assert json.loads(waiting.payload)["data"]["n"] == 1
    await outbox.notifications.taken(waiting)
    assert await outbox.numbers(datetime.now(UTC) + timedelta(seconds=seconds + 5)) == [0]


def test_a_process_that_has_nothing_to_sign_with_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPOFF_NOTIFY_URL", "https://example.com/SENTINEL")
    monkeypatch.setenv("DROPOFF_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("DROPOFF_SECRET_KEYS", new_key())
    done = CliRunner().invoke(main, ["api"])
    said = done.output + str(done.exception)
    assert done.exit_code == 1
    assert "DROPOFF_NOTIFY_SECRET" in said
    assert "SENTINEL" not in said


def test_the_pauses_grow_and_end_within_three_days() -> None:
    pauses = [pause_after(attempts) for attempts in range(1, 400)]
    assert timedelta(seconds=4) <= pauses[0] <= timedelta(seconds=6)
    assert all(pause <= timedelta(minutes=36) for pause in pauses)
    assert sum(pauses, timedelta()) > TRIED_FOR


def test_an_operator_sees_what_was_given_up_and_has_it_told_again_or_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/d.db"
    monkeypatch.setenv("DROPOFF_DATABASE_URL", url)

    async def make() -> str:
        async with open_engine(url) as engine:
            await migrate(engine)
            told = Told(engine)
            await told.happen(ONE, at=NOW)
            (claimed,) = await told.notifications.claim(NOW, NOW, 1)
            await told.notifications.keep(claimed, "answered 500")
            return claimed.id

    def dropoff(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["notifications", *arguments])
        return done.exit_code, done.output or str(done.exception)

    identity = asyncio.run(make())
    code, listed = dropoff("list")
    assert (code, listed.startswith(f"{identity}  2026-03-01T12:00:00Z  delivery.failed  kept")) == (0, True)
    assert "answered 500" in listed
    assert dropoff("retry", "msg_other")[0] == 1
    assert dropoff("retry") == (0, "1 told again from now on.\n")
    assert "waiting  0 attempts" in dropoff("list")[1]
    assert dropoff("forget", identity) == (0, "Forgotten.\n")
    assert dropoff("forget", identity)[0] == 1
    assert identity not in dropoff("list")[1]


# Retention.


async def test_old_result_sets_go_with_all_that_belongs_to_them_and_no_other(shelf: Told) -> None:
    old, new = NOW - timedelta(days=100), datetime.now(UTC)
    await shelf.announce(5, number=1, at=old, to=(ONE, TWO))
    await shelf.announce(3, number=2, at=new)
    await shelf.announce(2, number=3, at=old)
    for each in await shelf.claim(at=old):
        if each.result_set == 1:
            await shelf.outbox.settle([noted(each, DeliveryState.FAILED, at=old, text="t", fault=Fault.THROTTLED)])
    # Small transactions: the first rows of a set go before the last.
    counts = []
    while count := await shelf.result_sets.remove_old(NOW, 4):
        counts.append(count)
    assert counts[:5] == [4, 4, 4, 4, 4]
    assert sum(counts) == 10 + 10 + 5 + 1
    async with shelf.reading() as session:
        assert sorted(await session.scalars(select(ResultSetRow.id))) == [2, 3]
        assert len((await session.scalars(select(ResultFileRow.number))).all()) == 5
        assert len((await session.scalars(select(DeliveryRow.id))).all()) == 5


async def test_an_old_result_set_that_is_under_way_or_was_asked_for_again_stays(shelf: Told) -> None:
    old = NOW - timedelta(days=100)
    await shelf.announce(2, number=1, at=old)
    first, second = await shelf.claim(at=old)
    await shelf.outbox.settle([noted(first, DeliveryState.OK, at=old)])
    assert await shelf.result_sets.remove_old(NOW, 100) == 0
    await shelf.outbox.settle([noted(second, DeliveryState.OK, at=old)])
    await shelf.result_sets.redeliver(shelf.mine, "c", 1, Redelivery(), NOW)
    for each in await shelf.claim(at=NOW):
        await shelf.outbox.settle([noted(each, DeliveryState.OK, at=NOW)])
    assert await shelf.result_sets.remove_old(NOW, 100) == 0
    # Both, the line that says so, their files and the set.
    assert await shelf.result_sets.remove_old(NOW + LEASE, 100) == 2 + 1 + 2 + 1


async def test_what_is_asked_for_again_while_it_is_removed_is_delivered_or_gone(shelf: Told) -> None:
    old = NOW - timedelta(days=100)
    for number in range(6):
        await shelf.announce(3, number=number, at=old)
        for each in await shelf.claim(at=old):
            await shelf.outbox.settle([noted(each, DeliveryState.OK, at=old)])
        done, _ = await asyncio.gather(
            shelf.result_sets.redeliver(shelf.mine, "c", number, Redelivery(), NOW),
            shelf.result_sets.remove_old(NOW, 100),
        )
        assert len(await shelf.claim(at=NOW)) == done.count
        assert done.count in (0, 3)


async def test_retention_removes_what_is_old_a_little_at_a_time(shelf: Told) -> None:
    now = datetime.now(UTC)
    await shelf.announce(3, number=1, at=NOW)
    for each in await shelf.claim():
        await shelf.outbox.settle([noted(each, DeliveryState.OK)])
    await shelf.announce(3, number=2, at=NOW)
    await shelf.happen(TWO, at=now - timedelta(days=91))
    for waiting in await shelf.notifications.claim(now, now, 2):
        if waiting.type is EventType.DELIVERY_FAILED:
            await shelf.notifications.keep(waiting, "answered 500")
    # Three deliveries and files, their set, and what was given up; not what is still to be told.
    assert await Retention(shelf.result_sets, shelf.notifications, 90).clean() == 3 + 3 + 1 + 1
    assert [each.type for each in await shelf.notifications.page(0, 9)] == ["result_set.delivered"]
    assert await shelf.states() == {DeliveryState.PENDING: 3}
