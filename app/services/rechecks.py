"""Scheduled checks: every enabled destination is verified again now and then, before a delivery finds out."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from app.domain.errors import DropoffError
from app.domain.verification import Report
from app.observe.background import Background

log = structlog.get_logger()

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 60.0


class CheckedStore(Protocol):
    """Where destinations are kept, and when each was last checked."""

    async def enabled(self) -> int: ...
    async def next_to_check(self, before: datetime, now: datetime) -> tuple[int, str, str] | None: ...


class Verifies(Protocol):
    """What verifies a destination as it is, and keeps the report."""

    async def verify_existing(self, account: int, destination: str) -> Report: ...


class Rechecks:
    """Has each enabled destination verified once in `hours`: one at a time, so far apart that all have their turn in
    half of that time, however many have become due at once. Any number of processes do the same."""

    def __init__(self, store: CheckedStore, destinations: Verifies, hours: float) -> None:
        self._store = store
        self._destinations = destinations
        self._period = timedelta(hours=hours)
        self.checking = Background("rechecks", self._turn)

    async def _turn(self) -> None:
        apart = self._period.total_seconds() / 2 / max(1, await self._store.enabled())
        await asyncio.sleep(min(max(apart, SHORTEST_SECONDS), LONGEST_SECONDS))
        await self.check_one()

    async def check_one(self) -> bool:
        """Check the destination that is due longest; whether there was one. What it finds is in its report: it is
        disabled by nothing."""
        now = datetime.now(UTC)
        due = await self._store.next_to_check(now - self._period, now)
        if due is None:
            return False
        account, name, destination = due
        with structlog.contextvars.bound_contextvars(account=name):
            await self._check(account, destination)
        return True

    async def _check(self, account: int, destination: str) -> None:
        try:
            report = await self._destinations.verify_existing(account, destination)
        except DropoffError as error:
            # It was deleted or changed meanwhile, or nobody was free to verify it: it has another turn in a while.
            log.info("recheck not made", destination=destination, code=error.code)
        else:
            log.info("destination rechecked", destination=destination, ok=report.ok, code=report.code)
