"""Whether this process is there, and whether the deployment can do its work."""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from app.domain.errors import TooManyGuesses
from app.monitor.health import Check, Health
from app.observe.background import Background
from app.web.auth import Operator, operator_calls
from app.web.errors import answer

# How long what was found is told to strangers, who may ask as often as they like.
KEPT_SECONDS = 1.0


class HealthHandlers:
    """`/healthz` for whoever restarts processes, `/readyz` for whoever sends requests; details for the operator."""

    def __init__(self, health: Health, tasks: Sequence[Background], operator: Operator) -> None:
        self._health = health
        self._tasks = tasks
        self._operator = operator
        self._looking = asyncio.Lock()
        self._found: list[Check] = []
        self._found_at = float("-inf")

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.get("/healthz", self.healthz), web.get("/readyz", self.readyz)]

    async def healthz(self, _: web.Request) -> web.Response:
        """The process answers, and nothing that it does beside its requests has ended; it says nothing of the database
        or the queue."""
        ended = [task.name for task in self._tasks if task.ended]
        return answer({"status": "broken", "ended": ended} if ended else {"status": "ok"}, status=500 if ended else 200)

    async def readyz(self, request: web.Request) -> web.Response:
        shown = self._is_operator(request)
        checks = await self._health.checks() if shown else await self._recent()
        ready = all(check.ok for check in checks)
        content: dict[str, object] = {"status": "ready" if ready else "not ready"}
        if shown:
            content["checks"] = [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
        return answer(content, status=200 if ready else 503)

    def _is_operator(self, request: web.Request) -> bool:
        try:
            return operator_calls(request, self._operator)
        except TooManyGuesses:
            return False

    async def _recent(self) -> list[Check]:
        """The checks as they were at most KEPT_SECONDS ago; whoever asks meanwhile waits for the same."""
        async with self._looking:
            loop = asyncio.get_running_loop()
            if loop.time() - self._found_at >= KEPT_SECONDS:
                self._found = await self._health.checks()
                self._found_at = loop.time()
            return self._found
