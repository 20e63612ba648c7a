"""How many requests that have workers verify may wait until this process looks at them; more are refused at once."""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from app.domain.errors import Unavailable
from app.observe import metrics
from app.observe.seldom import Seldom
from app.web.errors import refused
from app.web.refusals import RefusalCounts, has_workers_verify
from app.web.trace import UNLOGGED

log = structlog.get_logger()

AT_ONCE, AT_ONCE_BESIDE_REFUSALS = 16, 4
"""How many are let on in one turn of the loop. The longer a turn is, the later a refusal comes."""
ROOM_OF_A_FLOW = 250
"""How many may wait once as many as there is room for were let on and some wait still: it is no burst that ends."""
ROOM_WHEN_FULL = 16
"""How many may wait while the workers do not keep up: nearly all of them are refused when they are looked at."""


class Admission:
    """Lets some requests on in each turn of the loop, in the order in which they came. Whoever finds `room` of them
    waiting is refused before its key is looked up and its body read. `is_full` says whether the workers do not keep up.

    They are counted, and no time is measured: where the machine stands still for some seconds, no more wait than have
    come meanwhile, and nobody is refused because of it.
    """

    def __init__(self, is_full: Callable[[], bool], *, room: int) -> None:
        self._is_full = is_full
        self._room = room
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Since nobody waited.
        self._let_on_since = 0
        self._refusing = False
        self._telling = Seldom()

    async def turn(self) -> None:
        """Return when it is the caller's turn. Raises Unavailable where there is no room to wait for it, also later,
        when there is less than there was."""
        if len(self._waiting) >= self._limit():
            raise self._refusal()
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._let_on, loop)
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _limit(self) -> int:
        if self._is_full():
            return min(self._room, ROOM_WHEN_FULL)
        return self._room if self._let_on_since < self._room else min(self._room, ROOM_OF_A_FLOW)

    def _let_on(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(len(self._waiting) - self._limit()):
            last = self._waiting.pop()
            if not last.done():
                last.set_exception(self._refusal())
        number, self._refusing = AT_ONCE_BESIDE_REFUSALS if self._refusing else AT_ONCE, False
        for _ in range(min(number, len(self._waiting))):
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                self._let_on_since += 1
        if self._waiting:
            loop.call_soon(self._let_on, loop)
        else:
            self._let_on_since = 0

    def _refusal(self) -> Unavailable:
        self._refusing = True
        metrics.NOT_ADMITTED.inc()
        if self._telling.is_due():
            log.warning("this process does not keep up", waiting=len(self._waiting))
        return Unavailable(
            "This process has more requests before it than it can look at in time: nothing was created or changed, try "
            "again shortly."
        )


def admitting(admission: Admission, counts: RefusalCounts) -> Middleware:
    """Let the calls on by `admission` that have workers verify, or may; the others at once. One that is refused is
    counted, and has neither a span nor a line in the log, which would cost as much as the rest of it."""

    @web.middleware
    async def admitted(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            if has_workers_verify(request):
                await admission.turn()
        except Unavailable as error:
            counts.note(error.code, "")
            request[UNLOGGED] = True
            refusal = refused(error)
            refusal.headers["X-Request-Id"] = str(uuid.uuid4())
            return refusal
        response: web.StreamResponse = await handler(request)
        return response

    return admitted
