"""A worker's deliveries on a real Redis: what is told of each file of a message, and what is told together."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.domain.delivery import DeliveryState, SourceFault
from app.domain.types import restore
from app.domain.types.base import Spec
from app.domain.verification import UNKNOWN_LOCATION, Location
from app.messages.clock import Clock
from app.messages.delivery import DeliveryFile, DeliveryJob, DeliveryReport, DeliveryReports
from app.messages.keys import DELIVERY_REPORTS
from app.messages.sealing import Sealer, new_key
from tests.stack import eventually, patient
from tests.types.every import GOOD
from workers import deliveries as delivering
from workers.deliver import Memory
from workers.deliveries import Deliveries
from workers.source import open_source
from workers.storage.port import Uploaded

SEALER = Sealer((new_key(),))


class Store:
    """A provider and its one bucket; an upload of a key in `holds` does not end."""

    host = "store.example.com"
    location = UNKNOWN_LOCATION
    located = parts_expire = False

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.holds: set[str] = set()

    async def open(self, spec: Spec, location: Location) -> "Store":
        return self

    async def upload(self, key: str, body: bytes, content_type: str = "") -> Uploaded:
        if key in self.holds:
            await asyncio.Event().wait()
        self.objects[key] = body
        return Uploaded(key, f"etag of {key}")


class Provider:
    def __init__(self, store: Store) -> None:
        self.open = store.open

    def host(self, spec: Spec) -> str:
        return Store.host


class Working:
    """A worker with a folder as its source, and the store that it writes to."""

    def __init__(self, client: Redis, folder: Path) -> None:
        self.client = client
        self.store = Store()
        self._folder = folder
        self.deliveries: Deliveries

    def file(self, name: str, found: bytes | None, announced: bytes) -> DeliveryFile:
        """A file that was announced as it is, or not, `found` at the source."""
        if found is not None:
            (self._folder / name).write_bytes(found)
        return DeliveryFile(
            id=f"id of {name}", attempt=1, key=name, name=name, source=name, bytes=len(announced),
            sha256=hashlib.sha256(announced).hexdigest(), content_type="text/plain",
        )  # fmt: skip

    def good(self, count: int) -> list[DeliveryFile]:
        return [self.file(f"f{n}", b"content", b"content") for n in range(count)]

    async def carry_out(self, *files: DeliveryFile) -> None:
        job = DeliveryJob(
            account=1, account_name="a", lease="l", destination="D", spec=restore({"type": "s3", **GOOD["s3"]}),
            files=files, start_by=time.time() + 3600,
        )  # fmt: skip
        await self.deliveries.carry_out(SEALER.seal(job.content()))

    async def said(self) -> list[list[DeliveryReport]]:
        """What the messages of the worker tell, each by itself."""
        messages = await self.client.lrange(DELIVERY_REPORTS, 0, -1)
        return [list(DeliveryReports.model_validate(SEALER.open(each)).reports) for each in messages]

    async def ends(self) -> dict[str, DeliveryState]:
        return {each.file: each.state for message in await self.said() for each in message}


@pytest.fixture
async def working(redis_url: str, tmp_path: Path) -> AsyncIterator[Working]:
    async with patient(redis_url) as client, open_source(f"file://{tmp_path}") as source:
        await client.flushdb()
        working = Working(client, tmp_path)
        provider = Provider(working.store)

        async def provider_for(_: Spec) -> Provider:
            return provider

        working.deliveries = Deliveries(
            "w", SEALER, provider_for, source, client, Clock(), Memory(1024 * 1024)  # type: ignore[arg-type]
        )  # fmt: skip
        yield working


async def test_each_file_of_a_message_is_told_of_by_itself(working: Working) -> None:
    files = (
        *working.good(2),
        working.file("missing", None, b"content"),
        working.file("shorter", b"c", b"content"),
        working.file("longer", b"content, and more", b"content"),
        working.file("another", b"CONTENT", b"content"),
    )
    await working.carry_out(*files)
    told = {each.file: each for message in await working.said() for each in message}
    assert {name: (each.state, each.fault) for name, each in told.items()} == {
        "f0": (DeliveryState.OK, None),
        "f1": (DeliveryState.OK, None),
        "missing": (DeliveryState.FAILED, SourceFault.NOT_FOUND),
        "shorter": (DeliveryState.FAILED, SourceFault.CHANGED),
        "longer": (DeliveryState.FAILED, SourceFault.CHANGED),
        "another": (DeliveryState.FAILED, SourceFault.CHANGED),
    }
    assert {(each.delivery, each.lease) for each in told.values()} == {(f"id of {name}", "l") for name in told}
    assert (told["f1"].etag, told["f1"].sent) == ("etag of f1", 7)
    assert working.store.objects == dict.fromkeys(("f0", "f1"), b"content")
    assert working.deliveries.running == 0


async def test_what_ends_while_redis_keeps_one_waiting_is_told_in_one_message(working: Working, redis_url: str) -> None:
    files = working.good(9)
    async with patient(redis_url) as other:
        # Until it is taken back: whoever writes waits.
        await other.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        carrying = asyncio.create_task(working.carry_out(*files))
        await eventually(lambda: len(working.store.objects) == len(files), "all are at the store")
        # From there to the word of it nothing is waited for.
        for _ in range(20):
            await asyncio.sleep(0)
        await other.execute_command("CLIENT", "UNPAUSE")
        await carrying
    messages = await working.said()
    assert sum(map(len, messages)) == len(files)
    assert len(messages) < len(files)
    assert await working.ends() == {file.name: DeliveryState.OK for file in files}


async def test_of_a_message_what_has_not_ended_when_the_worker_stops_is_handed_back(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "STOP_SECONDS", 0.0)
    working.store.holds = {"f1"}
    carrying = asyncio.create_task(working.carry_out(*working.good(3)))
    await eventually(lambda: (len(working.store.objects), working.deliveries.running) == (2, 1), "two have ended")
    await working.deliveries.stop()
    await carrying
    told = {"f0": DeliveryState.OK, "f1": DeliveryState.PENDING, "f2": DeliveryState.OK}
    assert await working.ends() == told


async def test_what_the_queue_still_gives_a_worker_that_stops_is_handed_back_at_once(working: Working) -> None:
    """Redis had taken it off the queue before the worker read no more; nobody waits for it to be sent."""
    await working.deliveries.stop()
    files = [file.model_copy(update={"abandoned": "an upload"}) for file in working.good(2)]
    await working.carry_out(*files)
    assert await working.ends() == dict.fromkeys(("f0", "f1"), DeliveryState.PENDING)
    assert {each.upload for message in await working.said() for each in message} == {"an upload"}
    assert (working.store.objects, working.deliveries.running) == ({}, 0)
