"""The handlers of /leftovers: which test files may have been left behind, and why; and what is done about one."""

from datetime import UTC, datetime

from aiohttp import web

from app.domain.errors import LeftoverNotFound
from app.domain.leftover import PAGE_SIZE, parse_leftover_query
from app.domain.listing import page_counts
from app.store.accounts import Accounts
from app.store.leftovers import Leftovers
from app.web.auth import AccountNames, Operator, caller_of, query_of
from app.web.destinations import require_operator_with_nothing
from app.web.errors import answer
from app.web.scope import narrow

_NOT_FOUND = "There is no test file with this id on record: those that may remain are at /leftovers."


class LeftoverHandlers:
    """A customer sees those of its own account, the operator all, and whose they are, and settles them."""

    def __init__(self, leftovers: Leftovers, accounts: Accounts, operator: Operator) -> None:
        self._leftovers = leftovers
        self._accounts = accounts
        self._operator = operator
        self._names = AccountNames(accounts)

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/leftovers", self.list),
            web.post("/leftovers/{id}/retry", self.retry),
            web.delete("/leftovers/{id}", self.forget),
        ]

    async def list(self, request: web.Request) -> web.Response:
        caller = await caller_of(request, self._accounts, self._operator)
        parameters = query_of(request)
        await narrow(caller, self._accounts, parameters)
        asked = parse_leftover_query(parameters)
        page = await self._leftovers.page(asked.account, asked.page, asked.state)
        await self._names.learn(caller, (leftover.account for leftover in page.leftovers))
        return answer(
            {
                "request_info": {"success": True},
                **page_counts(page.count, asked.page, PAGE_SIZE, len(page.leftovers)),
                "leftovers": [
                    {**self._names.shown(caller, each.account), **each.as_answer()} for each in page.leftovers
                ],
            }
        )

    async def retry(self, request: web.Request) -> web.Response:
        await require_operator_with_nothing(request, self._operator, button=True)
        if not await self._leftovers.retry(request.match_info["id"], datetime.now(UTC)):
            raise LeftoverNotFound(_NOT_FOUND)
        info = {"success": True, "message": "Its delete is tried again within seconds."}
        return answer({"request_info": info}, status=202)

    async def forget(self, request: web.Request) -> web.Response:
        await require_operator_with_nothing(request, self._operator)
        if not await self._leftovers.forget(request.match_info["id"]):
            raise LeftoverNotFound(_NOT_FOUND)
        return answer({"request_info": {"success": True, "message": "1 Leftover forgotten"}})
