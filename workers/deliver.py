"""One file to one bucket: read, compared with what was announced, written whole or not at all. Knows no queue."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from app.domain.delivery import ETAG_MOST, REQUEST_ID_MOST, VERSION_MOST, AnyFault, Refusal, SourceFault, kept
from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.verification import Location, Step, advice
from workers.egress.wire import measure
from workers.source import Reader, Source, SourceRefused, require_size
from workers.storage.multipart import (
    ABORT_SECONDS,
    REQUEST_SECONDS,
    Content,
    abandon,
    again_where_busy,
    bounded,
    write,
)
from workers.storage.port import ONE_PUT, SLOWEST, Bucket, Provider, Uploaded, UploadGone
from workers.storage.refusals import Refused
from workers.verify import failed_step, reached

log = structlog.get_logger()

OPEN_SECONDS = 30.0
BEGINNINGS = 3
"""How often an upload in parts is begun within one attempt, where the store forgets it."""
_BROKE = "The delivery broke on our side, which is not the destination's fault: it is tried again."


@dataclass(frozen=True)
class File:
    """What is to be delivered: its key, the path under the source, and what must be found there."""

    key: str
    source: str
    bytes: int
    sha256: str
    content_type: str


@dataclass(frozen=True)
class Delivered:
    """The receipt of a file that the store has confirmed as a whole."""

    uploaded: Uploaded
    sent: int


@dataclass(frozen=True)
class NotDelivered:
    """Why nothing was delivered, in words for the customer, and what the store said if it is the store's doing."""

    fault: AnyFault
    message: str
    refusal: Refusal | None = None


class Memory:
    """How many bytes of files this process may have in memory at once; who finds too little left waits its turn."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def taken(self, count: int) -> AsyncIterator[None]:
        """`count` bytes, or all there are where that is less, for as long as the block lasts."""
        await self.take(count)
        try:
            yield
        finally:
            self.give(count)

    async def take(self, count: int) -> None:
        """Wait for `count` bytes, or for all there are where that is less; `give` gives them back."""
        count = min(count, self.size)
        if not self._waiting and count <= self._left:
            self._left -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._left += count
            self._serve()
            raise

    def give(self, count: int) -> None:
        self._left += min(count, self.size)
        self._serve()

    def _serve(self) -> None:
        """Give to those who wait, in the order in which they came."""
        while self._waiting:
            count, turn = self._waiting[0]
            if not turn.cancelled() and count > self._left:
                return
            self._waiting.popleft()
            if not turn.cancelled():
                self._left -= count
                turn.set_result(None)


async def _unrecorded(_: str | None) -> None:
    """What `on_begun` is where nobody keeps a record."""


async def deliver(
    provider: Provider,
    spec: Spec,
    location: Location,
    file: File,
    source: Source,
    memory: Memory,
    on_progress: Callable[[int], None] = lambda _: None,
    on_begun: Callable[[str | None], Awaitable[None]] = _unrecorded,
    abandoned: str | None = None,
    *,
    repeated: bool = False,
) -> Delivered | NotDelivered:
    """Write the file of `source` where `spec` says, once it is seen to be the one that was announced; `on_progress` is
    told how many bytes the store has confirmed. Never raises for anything that storage or the source does.

    Before the first part of a large file `on_begun` is told the id of the upload, so that it can be aborted whatever
    becomes of this process, and afterwards None, unless something of it may be left. `abandoned` is such an id. With
    `repeated` the file was begun before, by who may have had no time to tell of an id.
    """
    began, host, opened = time.monotonic(), provider.host(spec), False
    with measure() as wire:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                bucket = await provider.open(spec, location)
            host, opened = bucket.host, True
            if abandoned and await abandon(bucket.begun(file.key, abandoned), file.key):
                await on_begun(None)
            if repeated and file.bytes > ONE_PUT:
                await _abandon_unknown(bucket, file.key)
            if file.bytes <= ONE_PUT:
                uploaded = await _small(bucket, file, source, memory)
            else:
                uploaded = await _large(bucket, file, source, memory, on_progress, on_begun)
        except SourceRefused as refused:
            log.warning("source refused", source=file.source, code=refused.fault, detail=refused.detail)
            return NotDelivered(refused.fault, refused.message)
        except (Refused, TimeoutError) as error:
            refusal = error if isinstance(error, Refused) else Refused(Fault.TIMEOUT)
            step = failed_step(wire, refusal) if opened else Step.LOCATE
            return _refused(reached(spec, wire, refusal), step, spec, host, file, time.monotonic() - began)
    on_progress(file.bytes)
    return Delivered(_told(uploaded, spec), file.bytes)


async def _abandon_unknown(bucket: Bucket, key: str) -> None:
    """Abort what was begun under `key` and is nobody's: its worker was killed between the store's answer and its word
    of it. A key that may not list uploads leaves that to the bucket's own rules."""
    with contextlib.suppress(Refused):
        for upload in await bounded(bucket.unfinished(key), ABORT_SECONDS):
            log.info("upload of an earlier attempt found", key=key)
            await abandon(upload, key)


async def _small(bucket: Bucket, file: File, source: Source, memory: Memory) -> Uploaded:
    """One put, and again a moment later where that may help: what is written twice is the same file under one key."""
    async with memory.taken(file.bytes):
        body, sha256 = await source.whole(file.source, file.bytes)
        _require(file, sha256)
        seconds = REQUEST_SECONDS + len(body) / SLOWEST

        async def put() -> Uploaded:
            return await bounded(bucket.upload(file.key, body, file.content_type), seconds)

        return await again_where_busy(put)


async def _large(
    bucket: Bucket,
    file: File,
    source: Source,
    memory: Memory,
    on_progress: Callable[[int], None],
    on_begun: Callable[[str | None], Awaitable[None]],
) -> Uploaded:
    """In parts; anew from the first one where the store has forgotten them, a bounded number of times."""
    for left in reversed(range(BEGINNINGS)):
        async with source.open(file.source) as reader:

            async def check(sha256: str, reader: Reader = reader) -> None:
                await _require_end(reader)
                _require(file, sha256)

            content = Content(file.bytes, partial(_read, reader), check)
            try:
                return await write(bucket, file.key, file.content_type, content, memory, on_begun, on_progress)
            except UploadGone as gone:
                log.info("upload is gone", key=file.key, begun_again=left > 0, status=gone.status)
                if not left:
                    raise
    raise AssertionError("the last beginning returns or raises")


async def _read(reader: Reader, count: int) -> bytes:
    body = await reader.read(count)
    require_size(len(body), count)
    return body


async def _require_end(reader: Reader) -> None:
    require_size(len(await reader.read(1)), 0)


def _require(file: File, sha256: str) -> None:
    if sha256 != file.sha256:
        raise SourceRefused(SourceFault.CHANGED, "it has another SHA-256")


def _refused(refused: Refused, step: Step, spec: Spec, host: str, file: File, seconds: float) -> NotDelivered:
    message = advice(spec, refused.fault, host=host, key=file.key, seconds=seconds, detail=refused.detail)
    provider_code, request_id = spec.without_secrets(refused.provider_code), spec.without_secrets(refused.request_id)
    return NotDelivered(refused.fault, message, Refusal(step, provider_code, refused.status, request_id))


def _told(uploaded: Uploaded, spec: Spec) -> Uploaded:
    """What the store says of the file, as far as it may be on a receipt."""

    def told(said: str | None, most: int) -> str | None:
        return spec.without_secrets(kept(said, most))

    return Uploaded(
        uploaded.key,
        told(uploaded.etag, ETAG_MOST) or "",
        told(uploaded.version, VERSION_MOST),
        told(uploaded.request_id, REQUEST_ID_MOST),
    )


def broken() -> NotDelivered:
    """What is told of a delivery that broke on our side."""
    return NotDelivered(Fault.INTERNAL_ERROR, _BROKE)
