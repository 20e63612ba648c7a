"""Idempotency-Key: a request that is repeated is answered what it was answered the first time."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from app.domain.errors import DropoffError, InvalidRequest
from app.service import new_id
from app.store.claims import Claim
from app.web.errors import refused

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
# What lies between the end of a hold and the answer that is kept.
_MARGIN_SECONDS = 5.0


class KeepsClaims(Protocol):
    """Where keys and answers are kept."""

    async def claim(
        self, account: int, key: str, fingerprints: Sequence[str], destination: str, seconds: float
    ) -> Claim: ...
    async def answered(self, account: int, key: str, status: int, answer: str) -> None: ...
    async def let_go(self, account: int, key: str) -> None: ...


class Fingerprints(Protocol):
    def fingerprints(self, content: object) -> list[str]: ...


class Idempotency:
    """Carries requests out once for each key, whichever process they come to."""

    def __init__(self, claims: KeepsClaims, sealer: Fingerprints, hold_seconds: float) -> None:
        self._claims = claims
        self._sealer = sealer
        self._seconds = hold_seconds + _MARGIN_SECONDS

    async def once(
        self,
        request: web.Request,
        account: int,
        body: Mapping[str, Any],
        carry_out: Callable[[Claim], Awaitable[web.Response]],
    ) -> web.Response:
        """The answer of `carry_out`, which is given the id of what it may create; without a key, simply that."""
        key = request.headers.get(HEADER)
        if key is None:
            return await carry_out(Claim(new_id()))
        if not KEY.fullmatch(key):
            raise InvalidRequest(f"{HEADER} must be 1 to 255 printable ASCII characters without spaces.")
        prints = self._sealer.fingerprints([request.method, request.path, body])
        claim = await self._claims.claim(account, key, prints, new_id(), self._seconds)
        if claim.answer is not None and claim.status:
            headers = {REPLAYED: "true"}
            return web.Response(
                status=claim.status, text=claim.answer, content_type="application/json", headers=headers
            )
        lasting = False
        try:
            response = await _answered(carry_out(claim))
            lasting = response.status < 500 and response.status != 429
            if lasting:
                await self._claims.answered(account, key, response.status, response.text or "")
        finally:
            if not lasting:
                await asyncio.shield(self._claims.let_go(account, key))
        return response


async def _answered(call: Awaitable[web.Response]) -> web.Response:
    try:
        return await call
    except DropoffError as error:
        return refused(error)
