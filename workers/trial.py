"""An upload in parts that is begun and aborted beside a verification, since a large file goes in such a one."""

import asyncio
import time
from enum import Enum, auto

import structlog

from app.domain.faults import Fault
from workers.egress.wire import measure
from workers.storage.port import CONTENT_TYPE, Bucket, Upload
from workers.storage.refusals import Refused

log = structlog.get_logger()

ABORT_SECONDS = 1.0
"""How long an abort may take; so much of a verification's bound is kept for it."""


class Stage(Enum):
    """How far a trial has come."""

    BEGIN = auto()
    PART = auto()
    ABORT = auto()
    DONE = auto()


class Trial:
    """One upload of `key` to `bucket`, which nobody else uses meanwhile, of one part that is `body`. It begins at once
    and is over at `ends` (monotonic).

    `stage` is the one that was refused, and `refused` why; `left` says that the upload may be there still. `ms` is how
    long all of it took.
    """

    def __init__(self, bucket: Bucket, key: str, body: bytes, ends: float) -> None:
        self.stage = Stage.BEGIN
        self.refused: Refused | None = None
        self.left = False
        self.ms = 0
        self._bucket = bucket
        self._key = key
        self._body = body
        self._ends = ends
        self._upload: Upload | None = None
        self._began = time.monotonic()
        self._sending = asyncio.create_task(self._send())
        self._running = asyncio.create_task(self._run())

    @property
    def over(self) -> bool:
        return self._running.done()

    async def end(self, seconds: float) -> None:
        """Wait for the end, for `seconds` at most until it is aborted. Cancelled, it is aborted at once."""
        try:
            await asyncio.wait({self._running}, timeout=seconds)
        finally:
            self._sending.cancel()
            await asyncio.wait({self._running})
        # What broke on our side is told as a refusal; nothing else is raised there.
        self._running.result()

    async def _run(self) -> None:
        await asyncio.wait({self._sending}, timeout=max(0, self._ends - ABORT_SECONDS - time.monotonic()))
        self._sending.cancel()
        try:
            await self._sending
        except asyncio.CancelledError:
            self.refused = Refused(Fault.TIMEOUT, unknown_outcome=True)
        except Refused as refused:
            self.refused = refused
        except Exception:  # it is no reason to fail what is verified beside it
            log.exception("trial of parts broke")
            self.refused = Refused(Fault.INTERNAL_ERROR)
        if self._upload:
            await self._abort(self._upload)
        self.ms = round((time.monotonic() - self._began) * 1000)
        if self.left:
            log.warning("parts left behind", key=self._key, code=self.refused.fault if self.refused else None)

    async def _send(self) -> None:
        with measure() as wire:
            try:
                self._upload = await self._bucket.begin(self._key, CONTENT_TYPE, len(self._body))
            except Refused as refused:
                answered = refused.fault is Fault.NOT_A_STORAGE_ENDPOINT
                self.left = wire.connected and refused.unknown_outcome and not answered
                raise
            except BaseException:
                self.left = wire.connected
                raise
        self.left, self.stage = True, Stage.PART
        # What is written in turn goes to an address that needs no right any more.
        if not self._upload.in_turn:
            await self._upload.part(1, self._body, 0, last=True)
        self.stage = Stage.DONE

    async def _abort(self, upload: Upload) -> None:
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                await upload.abort()
        except (Refused, TimeoutError) as error:
            refused = error if isinstance(error, Refused) else Refused(Fault.TIMEOUT, unknown_outcome=True)
        except Exception:  # as above
            log.exception("trial of parts broke")
            refused = Refused(Fault.INTERNAL_ERROR)
        else:
            self.left = False
            return
        if not self.refused:
            self.stage, self.refused = Stage.ABORT, refused
