"""The one writer of parts, over a store that loses answers: what is sent again, what begins anew, what is aborted."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.domain.faults import Fault
from workers.deliver import Memory
from workers.storage import multipart
from workers.storage.multipart import AT_ONCE, LARGEST_PART, MIB, SMALLEST_PART, Content, part_size, write
from workers.storage.port import Uploaded, UploadGone
from workers.storage.refusals import Refused

BUSY = Refused(Fault.THROTTLED, unknown_outcome=True)
LOST = Refused(Fault.TIMEOUT, unknown_outcome=True)
DENIED = Refused(Fault.WRITE_DENIED)
GONE = UploadGone(Refused(Fault.BUCKET_NOT_FOUND))
SIZE = 3 * SMALLEST_PART + 5
BODY = bytes(SIZE)


class Store:
    """A bucket and the one upload in it. `says` has, by the name of a call, what it raises the first times; `together`
    is how many parts must be under way before one of them ends."""

    id = "upload-1"

    def __init__(self, *, in_turn: bool = False, together: int = 1, **says: list[Exception]) -> None:
        self.in_turn = in_turn
        self._together = together
        self._are_together = asyncio.Event()
        self.says = says
        self.parts: dict[int, bytes] = {}
        self.calls: list[str] = []
        self.under_way = self.most = 0
        self.object: Uploaded | None = None
        self.is_known = True

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.says.get(name):
            raise self.says[name].pop(0)

    async def begin(self, key: str, content_type: str, size: int) -> "Store":
        self._call("begin")
        return self

    async def part(self, number: int, body: bytes, at: int, *, last: bool) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.most >= self._together:
            self._are_together.set()
        try:
            async with asyncio.timeout(60):
                await self._are_together.wait()
            await asyncio.sleep(0.01)
            self._call(f"part {number}")
            assert at == (number - 1) * SMALLEST_PART
            assert last == (at + len(body) == SIZE)
            self.parts[number] = body
        finally:
            self.under_way -= 1

    async def complete(self, md5: bytes) -> Uploaded:
        assert md5 == hashlib.md5(b"".join(each for _, each in sorted(self.parts.items()))).digest()
        self._call("complete")
        self.object = Uploaded("k", "e")
        return self.object

    async def stored(self, md5: bytes) -> Uploaded | None:
        self._call("stored")
        return self.object

    async def abort(self) -> None:
        assert self.under_way == 0
        self._call("abort")

    @property
    def ends(self) -> list[str]:
        """The calls but those of the parts."""
        return [call for call in self.calls if not call.startswith("part")]


class Writing:
    def __init__(self) -> None:
        self.memory = Memory(48 * MIB)
        self.begun: list[str | None] = []
        self.at = 0

    async def read(self, count: int) -> bytes:
        piece = BODY[self.at : self.at + count]
        self.at += len(piece)
        return piece

    async def check(self, sha256: str) -> None:
        assert sha256 == hashlib.sha256(BODY).hexdigest()

    async def record(self, upload: str | None) -> None:
        self.begun.append(upload)

    async def write(self, store: Store, check: Callable[[str], Awaitable[None]] | None = None) -> Uploaded:
        content = Content(SIZE, self.read, check or self.check)
        try:
            bucket: Any = store
            return await write(bucket, "k", "t", content, self.memory, self.record, lambda _: None)
        finally:
            # All of it was given back.
            async with asyncio.timeout(30), self.memory.taken(48 * MIB):
                pass


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Writing:
    monkeypatch.setattr(multipart, "PAUSES_SECONDS", (0.01, 0.01))
    return Writing()


@pytest.mark.parametrize(
    ("size", "each"),
    [(16 * MIB + 1, 8 * MIB), (8000 * MIB, 8 * MIB), (8001 * MIB, 9 * MIB), (32_000 * MIB, 32 * MIB),
     (320_000 * MIB, 32 * MIB)],
)  # fmt: skip
def test_parts_are_few_where_the_size_allows_it_and_never_too_many(size: int, each: int) -> None:
    assert part_size(size) == each
    assert SMALLEST_PART <= each <= LARGEST_PART
    assert -(-size // each) <= (1000 if size <= 32_000 * MIB else 10_000)


async def test_parts_are_equal_and_few_at_once(writing: Writing) -> None:
    store = Store(together=AT_ONCE)
    assert await writing.write(store) == store.object
    assert [len(body) for _, body in sorted(store.parts.items())] == [SMALLEST_PART] * 3 + [5]
    assert store.most == AT_ONCE
    assert store.ends == ["begin", "complete"]
    assert writing.begun == [Store.id, None]


async def test_where_parts_have_a_turn_one_is_under_way(writing: Writing) -> None:
    store = Store(in_turn=True)
    await writing.write(store)
    assert store.most == 1
    assert [call for call in store.calls if call.startswith("part")] == [f"part {n}" for n in (1, 2, 3, 4)]


async def test_a_part_is_sent_again_where_that_may_help(writing: Writing) -> None:
    damaged = Refused(Fault.PROVIDER_ERROR)
    damaged.provider_code = "BadDigest"
    store = Store(**{"begin": [BUSY], "part 2": [LOST, damaged]})
    await writing.write(store)
    assert store.calls.count("part 2") == 3
    assert store.ends == ["begin", "begin", "complete"]


async def test_what_does_not_help_ends_it_and_nothing_is_left(writing: Writing) -> None:
    for said in ([DENIED], [BUSY] * 3, [GONE]):
        store, writing.at = Store(**{"part 2": [*said]}), 0
        with pytest.raises(Refused) as caught:
            await writing.write(store)
        assert caught.value is said[-1]
        assert store.ends == ["begin", "abort"]
    assert writing.begun == [Store.id, None] * 3


async def test_a_begin_without_an_answer_is_not_made_twice(writing: Writing) -> None:
    store = Store(begin=[LOST])
    with pytest.raises(Refused):
        await writing.write(store)
    assert store.ends == ["begin"]


async def test_a_lost_answer_to_complete_is_settled_by_asking(writing: Writing) -> None:
    store = Store(complete=[LOST])
    store.object = Uploaded("k", "it-is-there")
    assert await writing.write(store) == Uploaded("k", "it-is-there")
    assert store.ends == ["begin", "complete", "stored"]


async def test_a_lost_answer_that_says_nothing_is_asked_for_again(writing: Writing) -> None:
    store = Store(complete=[LOST], stored=[DENIED])
    await writing.write(store)
    assert store.ends == ["begin", "complete", "stored", "complete"]


async def test_an_upload_that_is_gone_after_a_lost_answer_is_not_guessed_at(writing: Writing) -> None:
    store = Store(complete=[LOST, GONE])
    with pytest.raises(UploadGone):
        await writing.write(store)
    assert store.ends == ["begin", "complete", "stored", "complete", "stored", "abort"]


async def test_a_refused_complete_is_no_question(writing: Writing) -> None:
    store = Store(complete=[DENIED])
    with pytest.raises(Refused):
        await writing.write(store)
    assert store.ends == ["begin", "complete", "abort"]


async def test_the_last_part_is_not_sent_where_the_whole_is_wrong(writing: Writing) -> None:
    async def wrong(_: str) -> None:
        raise LookupError

    store = Store()
    with pytest.raises(LookupError):
        await writing.write(store, wrong)
    assert 4 not in store.parts
    assert store.ends == ["begin", "abort"]


async def test_a_store_that_does_not_abort_stays_on_record(writing: Writing) -> None:
    store = Store(**{"part 1": [DENIED], "abort": [DENIED]})
    with pytest.raises(Refused):
        await writing.write(store)
    assert writing.begun == [Store.id]


async def test_an_abort_whose_connection_breaks_is_made_again(writing: Writing) -> None:
    store = Store(**{"part 1": [DENIED], "abort": [LOST, BUSY]})
    with pytest.raises(Refused):
        await writing.write(store)
    assert store.ends == ["begin", "abort", "abort", "abort"]
    assert writing.begun == [Store.id, None]


async def test_whoever_is_cancelled_aborts_first(writing: Writing) -> None:
    store = Store()
    going = asyncio.create_task(writing.write(store))
    while not store.under_way:
        await asyncio.sleep(0)
    going.cancel()
    await asyncio.wait({going})
    assert going.cancelled()
    assert store.ends == ["begin", "abort"]


async def test_memory_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    memory, order = Memory(10), []

    async def take(name: str, count: int) -> None:
        async with memory.taken(count):
            order.append(name)
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(take(*each)) for each in (("a", 8), ("large", 100), ("b", 1), ("c", 1))]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "large", "c"]
    async with asyncio.timeout(30), memory.taken(10):
        pass
