"""Retention: what has ended long ago is taken off the record, a little at a time."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from app.observe.background import Background

log = structlog.get_logger()

LOOK_SECONDS = 300.0
"""Between two looks at what has become old, where the last one found nothing."""
PAUSE_SECONDS = 0.1
"""Between two transactions, so that whoever waits for the database has its turn."""
BATCH = 500
"""Rows that are removed in one transaction."""


class OldResultSets(Protocol):
    """Where result sets are kept."""

    async def remove_old(self, before: datetime, most: int) -> int: ...


class KeptNotifications(Protocol):
    """Where notifications are kept that were given up."""

    async def remove_kept(self, before: datetime, most: int) -> int: ...


class Retention:
    """Removes what is older than `days`. Any number of processes do the same."""

    def __init__(self, result_sets: OldResultSets, notifications: KeptNotifications, days: float) -> None:
        self._result_sets = result_sets
        self._notifications = notifications
        self._age = timedelta(days=days)
        self.cleaning = Background("retention", self._turn)

    async def _turn(self) -> None:
        # Those that were started together do not look together.
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 -- it spreads, no more
        removed = await self.clean()
        if removed:
            log.info("old result sets removed", rows=removed)

    async def clean(self) -> int:
        """Remove all that is old now; how many rows."""
        before, removed = datetime.now(UTC) - self._age, 0
        for remove in (self._result_sets.remove_old, self._notifications.remove_kept):
            while count := await remove(before, BATCH):
                removed += count
                await asyncio.sleep(PAUSE_SECONDS)
        return removed
