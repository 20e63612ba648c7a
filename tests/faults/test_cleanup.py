"""What a verification leaves is told, and removed: by the one that asks, or by another worker where its own died."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.domain.faults import Fault
from app.domain.verification import Report
from app.messages.claims import Claims
from app.messages.clock import Clock
from app.messages.intents import Intents
from app.messages.job import Job, Left
from app.messages.keys import INTENTS, UNSETTLED, intent_key
from app.messages.sealing import Sealer, new_key
from tests.faults.verifying import (
    BODIES,
    BOUND,
    KEY,
    WITHIN,
    failed,
    left_at_the_bound,
    providers,
    ready,
    spec_of,
)  # fmt: skip
from tests.servers.odd import STORED, Odd, answering, gated
from tests.stack import patient
from tests.types.every import STORAGES
from tests.types.gcs import TOKEN
from tests.types.s3 import LOCATED
from workers.cleanup import Cleanup
from workers.verify import remove, verify

GONE = b"HTTP/1.1 204 No Content\r\n\r\n"
REFUSED = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
_ABSENT = STORAGES["s3compatible"].row(Fault.BUCKET_NOT_FOUND, *STORAGES["s3compatible"].absent)
ABSENT = _ABSENT.answer
BROKEN = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
MARKED = b"HTTP/1.1 204 No Content\r\nx-amz-delete-marker: true\r\nx-amz-version-id: v\r\n\r\n"
SEALER = Sealer((new_key(),))
VERIFY_SECONDS = 15.0


def uploads(host: Odd) -> list[bytes]:
    return [request for request in host.requests if request.startswith((b"PUT", b"POST"))]


def deletes(host: Odd) -> list[bytes]:
    return [request for request in host.requests if request.startswith(b"DELETE")]


async def verified(name: str, host: Odd, **changes: Any) -> tuple[Report, list[Left]]:
    left: list[Left] = []
    async with providers(host.url) as provider_for:
        spec = spec_of(name, host.url, **changes)
        provider = await ready(provider_for, spec)
        return await verify(provider, spec, KEY, timeout=WITHIN, job="j", on_left=left.append), left


@pytest.mark.parametrize("name", STORAGES)
async def test_what_a_store_that_stalls_may_have_is_told_and_removed_later(
    name: str, time_passes: Callable[[float], None]
) -> None:
    left: list[Left] = []
    with gated(STORAGES[name].deleted, HEAD=LOCATED) as host, answering(TOKEN) as issuer:
        places = {"gcs_token_endpoint": issuer.url, "verify_seconds": BOUND}
        async with providers(host.url, **places) as provider_for:
            spec = spec_of(name, host.url)
            verifying = verify(
                await ready(provider_for, spec), spec, KEY, timeout=BOUND, job="j", on_left=left.append
            )  # fmt: skip
            (report,) = await left_at_the_bound(
                [verifying], time_passes, lambda: uploads(host), lambda: deletes(host)
            )  # fmt: skip
            assert failed(report) == [("upload", Fault.TIMEOUT), ("delete", Fault.TIMEOUT)]
            assert report.left_behind
            assert left == [Left()], "nobody knows whether it was written"
            host.gate.set()
            asked = len(deletes(host))
            again, remains = await remove(await provider_for(spec), spec, KEY, left[0], timeout=WITHIN, job="j")
            assert remains is None
            assert again.ok
            assert len(deletes(host)) == asked + 1


@pytest.mark.parametrize(
    ("upload", "delete", "left"),
    [
        (STORED, GONE, []),
        (STORED, BROKEN, [Left(written=True)]),
        (STORED, REFUSED, [Left(written=True)]),
        (BROKEN, BROKEN, [Left()]),
        (BROKEN, ABSENT, []),
        (BROKEN, GONE, []),
        (REFUSED, GONE, []),
    ],
)
async def test_a_file_may_remain_where_no_delete_is_confirmed_or_the_upload_may_still_arrive(
    upload: bytes, delete: bytes, left: list[Left]
) -> None:
    with answering(upload, DELETE=delete) as host:
        assert (await verified("s3compatible", host))[1] == left


async def test_a_file_may_remain_where_the_upload_is_not_answered_and_may_arrive_after_the_delete(
    time_passes: Callable[[float], None],
) -> None:
    left: list[Left] = []
    with answering(b"", DELETE=GONE) as host:
        async with providers() as provider_for:
            spec = spec_of("s3compatible", host.url)
            verifying = verify(
                await ready(provider_for, spec), spec, KEY, timeout=BOUND, job="j", on_left=left.append
            )  # fmt: skip
            await left_at_the_bound([verifying], time_passes, lambda: uploads(host), lambda: deletes(host))
    assert left == [Left()]


async def test_each_delete_is_signed_by_its_own_keys() -> None:
    """One client serves all: what goes on behind the verdicts must not take the keys of who comes next."""
    keys = {f"key{n}": f"in/dropoff-verify-{n}.txt" for n in range(8)}
    with answering(GONE) as host:
        async with providers() as provider_for:
            specs = {key: spec_of("s3compatible", host.url, s3_access_key_id=key) for key in keys}
            removals = [
                remove(await provider_for(spec), spec, keys[key], Left(), timeout=WITHIN, job=key)
                for key, spec in specs.items()
            ]
            await asyncio.gather(*removals)
        for request in deletes(host):
            key = request.partition(b"Credential=")[2].partition(b"/")[0].decode()
            assert keys.pop(key).encode() in request.partition(b" HTTP/")[0]
    assert not keys


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """An empty Redis, read as bytes."""
    async with patient(redis_url, decode=False) as client:
        await client.flushdb()
        yield client


class Worker:
    """What is left of a worker that died, and the cleanup of another."""

    def __init__(self, client: Redis, provider_for: Any) -> None:
        self.client = client
        self.intents = Intents(client)
        self.claims = Claims(client, 60)
        self.cleanup = Cleanup(self.intents, SEALER, provider_for, Clock(), VERIFY_SECONDS)

    async def die(self, url: str, ago: float = 60.0, **changes: Any) -> str:
        """Begin a job so many seconds ago and say no more: its intent."""
        now, intent = time.time(), uuid.uuid4().hex
        body = {**BODIES["s3compatible"], "s3_endpoint": url}
        parts = {"id": str(uuid.uuid4()), "account": 1, "spec": body, "key": KEY, "reply_to": "replies"}
        parts |= {"submitted": now, "start_by": now + 5, "deadline": now + 10, **changes}
        sealed = SEALER.seal(Job(**parts).content())
        assert await self.claims.take(parts["id"], "dead", intent, sealed, account=1)
        await self.client.zadd(INTENTS, {intent: now - ago})
        return intent

    async def on_record(self) -> list[str]:
        return [name.decode() for name in await self.client.zrange(INTENTS, 0, -1)]

    async def unsettled(self) -> dict[str, Left | None]:
        found = await self.intents.unsettled(time.time() + 1, 10)
        return {intent: Job.model_validate(SEALER.open(sealed)).left for intent, sealed in found.items()}


@pytest.fixture
async def worker(client: Redis) -> AsyncIterator[Worker]:
    async with providers() as provider_for:
        yield Worker(client, provider_for)


async def test_another_worker_removes_what_a_dead_one_left(worker: Worker) -> None:
    with answering(GONE) as host, capture_logs() as logs:
        intent = await worker.die(host.url)
        await worker.cleanup.clean_up()
        assert len(deletes(host)) == 1
        assert KEY.encode() in deletes(host)[0]
    assert await worker.on_record() == []
    assert await worker.unsettled() == {}
    assert await worker.client.exists(intent_key(intent)) == 0
    assert [line["event"] for line in logs] == ["test file removed late"]


async def test_what_may_still_be_under_way_is_left_alone(worker: Worker) -> None:
    with answering(GONE) as host:
        intent = await worker.die(host.url, ago=0.0)
        await worker.cleanup.clean_up()
        assert deletes(host) == []
    assert await worker.on_record() == [intent]


@pytest.mark.parametrize(
    ("answer", "left"),
    [(BROKEN, Left()), (REFUSED, Left()), (b"", Left()), (MARKED, Left(hidden=True))],
)
async def test_what_a_worker_cannot_settle_is_handed_to_the_database(worker: Worker, answer: bytes, left: Left) -> None:
    with answering(answer) as host, pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.cleanup.removed.__defaults__", (WITHIN if answer else 1.0,))
        intent = await worker.die(host.url)
        await worker.cleanup.clean_up()
    assert await worker.unsettled() == {intent: left}
    assert await worker.on_record() == []


async def test_keys_that_the_store_refuses_can_have_written_nothing(worker: Worker) -> None:
    said = b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
    answer = b"HTTP/1.1 403 No\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)
    with answering(answer) as host:
        await worker.die(host.url)
        await worker.cleanup.clean_up()
        assert len(deletes(host)) == 1
    assert (await worker.unsettled(), await worker.on_record()) == ({}, [])


async def test_of_several_workers_one_removes_it(worker: Worker) -> None:
    with answering(GONE) as host:
        await worker.die(host.url)
        await asyncio.gather(*(worker.cleanup.clean_up() for _ in range(5)))
        assert len(deletes(host)) == 1


async def test_an_intent_that_we_did_not_seal_is_dropped_and_the_next_one_removed(worker: Worker) -> None:
    with answering(GONE) as host:
        strange = await worker.die(host.url)
        await worker.client.set(intent_key(strange), b"\xff")
        await worker.die(host.url)
        await worker.cleanup.clean_up()
        assert len(deletes(host)) == 1
    assert (await worker.unsettled(), await worker.on_record()) == ({}, [])


async def test_a_mistake_of_ours_is_logged_and_the_file_stays_on_record(client: Redis) -> None:
    def mistaken(_: Any) -> Any:
        raise RuntimeError("a mistake")

    worker = Worker(client, mistaken)
    with capture_logs() as logs:
        intent = await worker.die("http://127.0.0.1:1")
        await worker.cleanup.clean_up()
    assert await worker.unsettled() == {intent: Left()}
    assert [(line["event"], line["log_level"]) for line in logs] == [("test file left behind", "error")]


async def test_the_reply_takes_the_intent_off_or_hands_it_over(client: Redis) -> None:
    claims = Claims(client, 60)
    for left in (None, "sealed"):
        assert await claims.take("job", "w", "token", "intent", account=1)
        assert await client.get(intent_key("token")) == b"intent"
        await claims.finish("job", "list", "reply", account=1, token="token", left=left, at=1.0)
        assert await client.zcard(INTENTS) == 0
        assert await client.exists(intent_key("token")) == (left is not None)
        assert await client.zrange(UNSETTLED, 0, -1) == ([b"token"] if left else [])
        await client.delete("dropoff:claim:job")


async def test_the_reply_of_a_worker_that_was_taken_for_dead_takes_off_what_was_handed_over(client: Redis) -> None:
    claims = Claims(client, 60)
    assert await claims.take("job", "w", "token", "intent", account=1)
    await Intents(client).hand_over("token", "sealed", 1.0)
    await claims.finish("job", "list", "reply", account=1, token="token")
    assert await client.exists(INTENTS, UNSETTLED, intent_key("token")) == 0
