"""The handler of /audit: who changed what or had what done, as pages and as it happens."""

from aiohttp import web

from app.domain.audit import parse_audit_query
from app.store.audit import AuditLog
from app.web.auth import Operator, query_of, require_operator
from app.web.errors import answer


class AuditHandlers:
    """For the operator."""

    def __init__(self, log: AuditLog, operator: Operator) -> None:
        self._log = log
        self._operator = operator

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.get("/audit", self.list)]

    async def list(self, request: web.Request) -> web.Response:
        require_operator(request, self._operator)
        page = await self._log.page(parse_audit_query(query_of(request)))
        return answer({"request_info": {"success": True}, **page.as_answer()})
