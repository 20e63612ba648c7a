"""An object in parts, whichever store it goes to: their size, how many at once, what is sent again, and that an upload
which is not completed is aborted."""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from app.domain.faults import Fault
from workers.storage.port import SLOWEST, Bucket, Upload, Uploaded, UploadGone
from workers.storage.refusals import Refused

T = TypeVar("T")

log = structlog.get_logger()

MIB = 1024 * 1024
SMALLEST_PART = 8 * MIB
LARGEST_PART = 32 * MIB
FEW_PARTS = 1000
"""Parts are made larger, up to LARGEST_PART, until so many suffice: there are stores that take no more."""
AT_ONCE = 4
"""Parts of one object under way together."""
REQUEST_SECONDS = 60.0
"""A request may take so long, and as long as its body takes at SLOWEST."""
COMPLETE_SECONDS = 300.0
"""A store may copy all parts before it answers."""
ABORT_SECONDS = 15.0
PAUSES_SECONDS = (0.5, 2.0)
"""Before a request is made again, where the store is only busy, a connection broke or a part was damaged on its way."""
_JITTER = 0.5
_BUSY = frozenset({Fault.THROTTLED, Fault.PROVIDER_UNAVAILABLE, Fault.CONNECTION_FAILED, Fault.TIMEOUT})
_ANSWERED = frozenset({Fault.THROTTLED, Fault.PROVIDER_UNAVAILABLE})
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "Md5Mismatch", "RequestTimeout"})


class Memory(Protocol):
    """Where the bytes of a part are taken before it is read, and given back when it was sent."""

    async def take(self, count: int) -> None: ...
    def give(self, count: int) -> None: ...


@dataclass(frozen=True)
class Content:
    """What is to be written: `read` gives exactly as many bytes as it is asked for, or raises; `check` raises what is
    wrong with the whole, before its last part is sent, and is given its SHA-256."""

    size: int
    read: Callable[[int], Awaitable[bytes]]
    check: Callable[[str], Awaitable[None]]


def part_size(size: int) -> int:
    """How large each part of an object of `size` bytes is, but the last."""
    wanted = -(-size // FEW_PARTS)
    return min(max(SMALLEST_PART, -(-wanted // MIB) * MIB), LARGEST_PART)


async def write(
    bucket: Bucket,
    key: str,
    content_type: str,
    content: Content,
    memory: Memory,
    on_begun: Callable[[str | None], Awaitable[None]],
    on_progress: Callable[[int], None],
) -> Uploaded:
    """Write `content` as `key`. `on_begun` is told the upload's id before the first part, and None once nothing of it
    is left without an object; `on_progress` is told how many bytes the store has confirmed. Raises Refused, UploadGone
    among them, and whatever `content` and `on_begun` raise; then the upload was aborted, unless the store did not let
    us, which the log has."""

    async def begin() -> Upload:
        return await bounded(bucket.begin(key, content_type, content.size), REQUEST_SECONDS)

    # Where no answer came, an upload may have been begun that nobody knows: that is not made twice.
    upload = await again_where_busy(begin, _ANSWERED)
    completed = False
    try:
        await on_begun(upload.id)
        md5 = await _Parts(upload, content, memory, on_progress).send()
        uploaded = await _completed(upload, md5)
        completed = True
        return uploaded
    finally:
        if completed or await abandon(upload, key):
            await on_begun(None)


async def abandon(upload: Upload, key: str) -> bool:
    """Abort `upload`, whoever began it, also while this task is being cancelled; whether nothing of it is left."""
    # The parts that were under way may have taken its connection with them: it is made again like any other.
    aborting = asyncio.ensure_future(bounded(again_where_busy(upload.abort), ABORT_SECONDS))
    try:
        await asyncio.shield(aborting)
    except asyncio.CancelledError:
        await asyncio.wait({aborting})
        if not aborting.cancelled() and aborting.exception():
            log.warning("parts left behind", key=key)
        raise
    except Refused as refused:
        log.warning("parts left behind", key=key, code=refused.fault, status=refused.status)
        return False
    return True


class _Parts:
    """Reads one part after the other and has up to AT_ONCE of them sent."""

    def __init__(self, upload: Upload, content: Content, memory: Memory, on_progress: Callable[[int], None]) -> None:
        self._upload = upload
        self._content = content
        self._memory = memory
        self._on_progress = on_progress
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._sending: set[asyncio.Task[None]] = set()
        self._sent = 0

    async def send(self) -> bytes:
        """Send all of the content; its MD5."""
        size, most = part_size(self._content.size), 1 if self._upload.in_turn else AT_ONCE
        try:
            for number, at in enumerate(range(0, self._content.size, size), 1):
                await self._until_fewer(most)
                await self._begin(number, at, min(size, self._content.size - at))
            await self._until_fewer(1)
            return self._md5.digest()
        finally:
            # None may come to the store after the abort.
            for each in self._sending:
                each.cancel()
            if self._sending:
                await asyncio.wait(self._sending)

    async def _begin(self, number: int, at: int, count: int) -> None:
        """Read a part, and have it sent."""
        await self._memory.take(count)
        try:
            body = await self._content.read(count)
            await asyncio.to_thread(self._hash, body)
            if at + count == self._content.size:
                await self._content.check(self._sha256.hexdigest())
        except BaseException:
            self._memory.give(count)
            raise
        sending = asyncio.create_task(self._send(number, at, body))
        sending.add_done_callback(lambda _: self._memory.give(count))
        self._sending.add(sending)

    def _hash(self, body: bytes) -> None:
        self._sha256.update(body)
        self._md5.update(body)

    async def _until_fewer(self, count: int) -> None:
        """Wait until fewer than `count` parts are under way. Raises what one of them raised."""
        while self._sending:
            if len(self._sending) < count:
                done = {each for each in self._sending if each.done()}
            else:
                done, _ = await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
            self._sending -= done
            for each in done:
                each.result()
            if len(self._sending) < count:
                return

    async def _send(self, number: int, at: int, body: bytes) -> None:
        last = at + len(body) == self._content.size
        seconds = REQUEST_SECONDS + len(body) / SLOWEST
        await again_where_busy(lambda: bounded(self._upload.part(number, body, at, last=last), seconds))
        self._sent += len(body)
        self._on_progress(self._sent)


async def _completed(upload: Upload, md5: bytes) -> Uploaded:
    """Complete `upload`; where the answer leaves open whether that was done, the store is asked, and told once more."""
    for pause in (*PAUSES_SECONDS, None):
        try:
            return await bounded(upload.complete(md5), COMPLETE_SECONDS)
        except Refused as refused:
            if not (refused.unknown_outcome or refused.fault in _BUSY):
                raise
            if found := await _stored(upload, md5):
                return found
            if pause is None or isinstance(refused, UploadGone):
                raise
            log.info("completed again", code=refused.fault)
        await _sleep(pause)
    raise AssertionError("the last attempt returns or raises")


async def _stored(upload: Upload, md5: bytes) -> Uploaded | None:
    """The object, if the store can be asked and says that it is there."""
    with contextlib.suppress(Refused):
        return await bounded(upload.stored(md5), REQUEST_SECONDS)
    return None


async def again_where_busy(request: Callable[[], Awaitable[T]], faults: frozenset[Fault] = _BUSY) -> T:
    """What `request` returns; made again, up to twice, after one of `faults`, which may pass within seconds, and where
    what was sent was damaged on its way. It must bear that."""
    for pause in PAUSES_SECONDS:
        try:
            return await request()
        except UploadGone:
            raise
        except Refused as refused:
            if refused.fault not in faults and refused.provider_code not in _DAMAGED:
                raise
            log.info("request made again", code=refused.fault, status=refused.status)
        await _sleep(pause)
    return await request()


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 -- it spreads, no more


async def bounded(work: Awaitable[T], seconds: float) -> T:
    """What `work` returns within `seconds`. Raises Refused where it does not end in time."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Refused(Fault.TIMEOUT, unknown_outcome=True) from None
