"""Says in the logs, once each, when a part without which nothing works is away, and when it is back."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from app.monitor.health import Check
from app.observe.background import Background

log = structlog.get_logger()

LOOK_SECONDS = 5.0
AWAY_SECONDS = 8.0
"""A part is away when it was found so for so long: a restart, or a failover, is no outage."""
PARTS = ("database", "redis", "workers")


class Outages:
    """Looks at `checks` every LOOK_SECONDS. Whether there are workers is not known while Redis is away."""

    def __init__(self, checks: Callable[[], Awaitable[Sequence[Check]]]) -> None:
        self._checks = checks
        # By part, since when it is found away, and whether that was said.
        self._since: dict[str, float] = {}
        self._told: set[str] = set()
        self.looking = Background("outages", self._step)

    async def _step(self) -> None:
        await asyncio.sleep(LOOK_SECONDS)
        await self.look(time.monotonic())

    async def look(self, now: float) -> None:
        """Look once, at the time `now` in seconds of any clock."""
        checks = {check.name: check for check in await self._checks()}
        for part in PARTS:
            if part == "workers" and not checks["redis"].ok:
                continue
            if checks[part].ok:
                self._back(part, now)
            else:
                self._away(checks[part], now)

    def _away(self, check: Check, now: float) -> None:
        since = self._since.setdefault(check.name, now)
        if check.name not in self._told and now - since >= AWAY_SECONDS:
            self._told.add(check.name)
            log.error("outage, nothing can be verified", part=check.name, detail=check.detail)

    def _back(self, part: str, now: float) -> None:
        since = self._since.pop(part, now)
        if part in self._told:
            self._told.discard(part)
            log.info("outage is over", part=part, seconds=round(now - since))
