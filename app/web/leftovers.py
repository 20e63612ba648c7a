"""The handler of /leftovers: which test files may have been left behind, and why."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from app.domain.destination import timestamp
from app.domain.leftover import PAGE_SIZE, Leftover, LeftoverState, parse_leftover_query
from app.domain.listing import page_counts
from app.store.accounts import Accounts
from app.store.leftovers import Leftovers
from app.web.auth import AccountNames, Caller, Operator, caller_of, query_of
from app.web.errors import answer
from app.web.scope import narrow


class LeftoverHandlers:
    """A customer sees those of its own account, the operator all, and whose they are."""

    def __init__(self, leftovers: Leftovers, accounts: Accounts, operator: Operator) -> None:
        self._leftovers = leftovers
        self._accounts = accounts
        self._operator = operator
        self._names = AccountNames(accounts)

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.get("/leftovers", self.list)]

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
                "leftovers": [self._shown(caller, each) for each in page.leftovers],
            }
        )

    def _shown(self, caller: Caller, leftover: Leftover) -> Mapping[str, Any]:
        waits = leftover.state is LeftoverState.WAITING
        return {
            "id": leftover.id,
            **self._names.shown(caller, leftover.account),
            "destination": leftover.destination,
            "type": leftover.type,
            "parameters": dict(leftover.parameters),
            "object": leftover.object,
            "state": leftover.state,
            "reason": leftover.reason,
            "message": leftover.message,
            "tries": leftover.tries,
            "created_at": timestamp(leftover.created_at),
            "next_try_at": timestamp(leftover.due_at) if waits else None,
        }
