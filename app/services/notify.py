"""The notifier: tells the platform of events by Standard Webhooks, those of a destination one after the other."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import aiohttp
import structlog

from app.domain.errors import Unavailable
from app.domain.notification import TRIED_FOR, EventType, Notification, pause_after
from app.messages.clock import Clock
from app.observe import metrics
from app.observe.background import Background
from app.tls import tls_context

log = structlog.get_logger()

AT_ONCE = 16
"""Requests of one process under way together."""
TURN_SECONDS = 1.0
ANSWER_SECONDS, CONNECT_SECONDS = 20.0, 10.0
LEASE = timedelta(seconds=45)
"""Longer than a request and the notes before and after it take; then whoever had it is taken for dead."""
GONE_SECONDS = 3600.0
"""How long nothing is sent to an address that is said to be gone."""
BUSY_SECONDS, LONGEST_BUSY_SECONDS = 10.0, 3600.0
"""How long nothing is sent to one that is overloaded, where it does not say, and at the most."""
CLOSE_SECONDS = 5.0
_GONE, _BUSY = 410, frozenset({429, 502, 503, 504})


class NotificationStore(Protocol):
    """Where notifications are kept; each method raises Unavailable."""

    async def claim(self, now: datetime, until: datetime, most: int) -> list[Notification]: ...
    async def taken(self, notification: Notification) -> None: ...
    async def postpone(self, notification: Notification, due_at: datetime, reason: str) -> None: ...
    async def keep(self, notification: Notification, reason: str) -> None: ...


@dataclass(frozen=True)
class _Answer:
    """What came of a request: `refused` says why it was not taken, None where it was. Nothing more is to be sent for
    `wait` seconds."""

    refused: str | None = None
    wait: float = 0.0


class Notifier:
    """Sends what is due to `url`, signed with each of `signing_keys`, AT_ONCE at a time. Any number of processes do the
    same: none sends what another has, nor what comes after it at the same destination."""

    def __init__(self, store: NotificationStore, clock: Clock, url: str, signing_keys: Sequence[bytes]) -> None:
        self._store = store
        self._clock = clock
        self._url = url
        self._signing_keys = signing_keys
        self._session: aiohttp.ClientSession | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._waits_until = 0.0
        self._refused: str | None = None
        self.telling = Background("notifications", self._turn)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send until the block ends; what is under way then is waited for, for a bounded time, and otherwise sent once
        more by another process."""
        connector = aiohttp.TCPConnector(ssl=tls_context(), limit=AT_ONCE)
        # Nothing is remembered of an answer, and nothing in it is unpacked; proxies of the environment are not used.
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False,
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS),
        ) as self._session:  # fmt: skip
            async with self.telling.running():
                yield
            if self._sending:
                _, left = await asyncio.wait(self._sending, timeout=CLOSE_SECONDS)
                for each in left:
                    each.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    async def _turn(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(TURN_SECONDS, self._waits_until - time.monotonic())):
                await self._woken.wait()
        self._woken.clear()
        room = AT_ONCE - len(self._sending)
        if room <= 0 or time.monotonic() < self._waits_until:
            return
        now = self._now()
        for each in await self._store.claim(now, now + LEASE, room):
            sending = asyncio.create_task(self._tell(each))
            self._sending.add(sending)
            sending.add_done_callback(self._ended)

    def _ended(self, sending: asyncio.Task[None]) -> None:
        self._sending.discard(sending)
        self._woken.set()

    async def _tell(self, notification: Notification) -> None:
        """One attempt, noted. Where it cannot be, it is made once more when its lease has ended."""
        try:
            answer = await self._send(notification)
            await self._note(notification, answer)
        except Unavailable:
            log.warning("notification not noted", notification=notification.id)
        except Exception:  # whatever it was, the others are to be told
            log.exception("notification broke", notification=notification.id)

    async def _send(self, notification: Notification) -> _Answer:
        assert self._session
        body = notification.payload.encode()
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers(notification.id, body), allow_redirects=False
            ) as response:
                # Of the answer no more is read: who sends more than a little loses its connection.
                return _answer(response.status, response.headers.get("Retry-After", ""))
        except TimeoutError:
            return _Answer(f"did not answer within {ANSWER_SECONDS:g} seconds")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Their messages may have the address, and what follows it may be a secret.
            return _Answer(f"could not be asked ({type(error).__name__})")

    def _headers(self, identity: str, body: bytes) -> dict[str, str]:
        at = int(self._clock.now())
        return {
            "Content-Type": "application/json",
            "User-Agent": "Dropoff",
            "webhook-id": identity,
            "webhook-timestamp": str(at),
            "webhook-signature": signature(self._signing_keys, identity, at, body),
        }

    async def _note(self, notification: Notification, answer: _Answer) -> None:
        about = {"notification": notification.id, "type": notification.type}
        if answer.refused is None:
            await self._store.taken(notification)
            _count(notification.type, "taken")
            if self._refused:
                log.info("notifications are taken again")
            self._refused = None
            return
        _count(notification.type, "refused")
        self._wait(answer.wait)
        if answer.refused != self._refused:
            log.warning("notification refused", attempts=notification.attempts, reason=answer.refused, **about)
        self._refused = answer.refused
        now = self._now()
        due = now + max(pause_after(notification.attempts), timedelta(seconds=answer.wait))
        if due < notification.created_at + TRIED_FOR:
            await self._store.postpone(notification, due, answer.refused)
            return
        await self._store.keep(notification, answer.refused)
        log.error("notification given up", attempts=notification.attempts, reason=answer.refused, **about)

    def _wait(self, seconds: float) -> None:
        self._waits_until = max(self._waits_until, time.monotonic() + seconds)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def signature(signing_keys: Sequence[bytes], identity: str, at: int, body: bytes) -> str:
    """The value of `webhook-signature`: one for each key, the newest first, so that a receiver that knows any of them
    can check it."""
    signed = f"{identity}.{at}.".encode() + body
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in signing_keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def _answer(status: int, retry_after: str) -> _Answer:
    """What an answer says: 2xx is taken, 410 ends the sending for a while, and an overloaded receiver has its time."""
    if 200 <= status < 300:
        return _Answer()
    refused = f"answered {status}"
    if status == _GONE:
        return _Answer(refused, GONE_SECONDS)
    if status not in _BUSY:
        return _Answer(refused)
    asked = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else BUSY_SECONDS
    return _Answer(refused, min(max(asked, BUSY_SECONDS), LONGEST_BUSY_SECONDS))


def _count(type_: EventType, outcome: str) -> None:
    metrics.NOTIFICATION_ATTEMPTS.labels(type_, outcome).inc()
