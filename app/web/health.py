"""Whether this process is there, and whether the deployment can do its work."""

from aiohttp import web
from pydantic import SecretStr

from app.health import Health
from app.web.auth import operator_calls
from app.web.errors import answer


class HealthHandlers:
    """`/healthz` for whoever restarts processes, `/readyz` for whoever sends requests; details for the operator."""

    def __init__(self, health: Health, operator: SecretStr) -> None:
        self._health = health
        self._operator = operator

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.get("/healthz", self.healthz), web.get("/readyz", self.readyz)]

    async def healthz(self, _: web.Request) -> web.Response:
        """The process answers; it says nothing of the database or the queue."""
        return answer({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        checks = await self._health.checks()
        ready = all(check.ok for check in checks)
        content: dict[str, object] = {"status": "ready" if ready else "not ready"}
        if operator_calls(request, self._operator):
            content["checks"] = [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
        return answer(content, status=200 if ready else 503)
