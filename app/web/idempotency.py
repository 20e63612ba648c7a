"""Idempotency-Key: a repeated request gets the answer of the first one."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog
from aiohttp import web

from app.domain.errors import DropoffError, InvalidRequest, Unavailable
from app.messages.sealing import Sealer
from app.services.destinations import new_id
from app.store.idempotency import IdempotencyKeys, IdempotencyRecord
from app.web.errors import refused

log = structlog.get_logger()

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
# From the end of a hold until its answer is stored.
_MARGIN_SECONDS = 5.0


class Turn:
    """What one request is to do: carry out its call, unless it `is_answered` already, and give its answer.

    `destination` is the id of what it may create; `may_exist` says that an earlier request with the same key may have
    created it and ended before it could say so.
    """

    def __init__(self, record: IdempotencyRecord) -> None:
        self.destination = record.destination
        self.may_exist = record.may_exist
        self._response: web.Response | None = None
        if record.answer is not None and record.status:
            self._response = web.Response(
                status=record.status,
                text=record.answer,
                content_type="application/json",
                headers={REPLAYED: "true"},
            )

    @property
    def is_answered(self) -> bool:
        return self._response is not None

    @property
    def response(self) -> web.Response:
        assert self._response is not None, "the request was carried out"
        return self._response

    def answer(self, response: web.Response) -> None:
        self._response = response


class Idempotency:
    """Carries out one request for each key, whichever process its repeats come to."""

    def __init__(self, keys: IdempotencyKeys, sealer: Sealer, hold_seconds: float) -> None:
        self._keys = keys
        self._sealer = sealer
        self._lease_seconds = hold_seconds + _MARGIN_SECONDS

    @contextlib.asynccontextmanager
    async def turn(self, request: web.Request, account: int, body: Mapping[str, Any]) -> AsyncIterator[Turn]:
        """The turn of `request`, which is carried out in the block; a refusal that is raised there is its answer.

        A request without a key is always carried out. Raises InvalidRequest, KeyReused, StillUnderWay, Unavailable.
        """
        key = request.headers.get(HEADER)
        if key is None:
            yield Turn(IdempotencyRecord(new_id()))
            return
        if not KEY.fullmatch(key):
            raise InvalidRequest(f"{HEADER} must be 1 to 255 printable ASCII characters without spaces.")
        fingerprints = self._sealer.fingerprints([request.method, request.path, body])
        turn = Turn(await self._keys.acquire(account, key, fingerprints, new_id(), self._lease_seconds))
        if turn.is_answered:
            yield turn
            return
        final = False
        try:
            try:
                yield turn
            except DropoffError as error:
                turn.answer(refused(error))
            # What may be different the next time is not stored: those answers ask for another try.
            final = turn.response.status < 500 and turn.response.status != 429
            if final:
                await self._store(account, key, turn.response)
        finally:
            if not final:
                await asyncio.shield(self._release(account, key))

    async def _store(self, account: int, key: str, response: web.Response) -> None:
        """Keep the answer. Where that cannot be done it is given all the same: it is known, and what was created is
        found again by its id when the request is repeated."""
        try:
            await self._keys.store_answer(account, key, response.status, response.text or "")
        except Unavailable:
            log.warning("answer not kept for its idempotency key")

    async def _release(self, account: int, key: str) -> None:
        """Let a repeat carry the request out at once. Where that cannot be done, it can when the lease is over."""
        try:
            await self._keys.release(account, key)
        except Unavailable:
            log.warning("idempotency key not released")
