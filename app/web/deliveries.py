"""The handlers of /deliveries: what becomes of each file at each destination, as a list and one by one."""

from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web

from app.domain.delivery import Delivery, DeliveryQuery, parse_delivery_query
from app.domain.listing import Position
from app.store.accounts import Accounts
from app.web.auth import AccountNames, Caller, Operator, caller_of, query_of
from app.web.collections import receipt
from app.web.destinations import refuse_query
from app.web.errors import answer
from app.web.scope import narrow

_SUCCESS = {"success": True}


class DeliveryStore(Protocol):
    """Where deliveries are found."""

    async def listing(self, query: DeliveryQuery) -> tuple[list[Delivery], Position | None]: ...
    async def delivery(self, identity: str, account: int | None) -> Delivery: ...


class DeliveryHandlers:
    """A customer sees the deliveries of its own account, the operator sees all and whose they are."""

    def __init__(self, deliveries: DeliveryStore, accounts: Accounts, operator: Operator) -> None:
        self._deliveries = deliveries
        self._accounts = accounts
        self._operator = operator
        self._names = AccountNames(accounts)

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.get("/deliveries", self.list), web.get("/deliveries/{id}", self.get)]

    async def list(self, request: web.Request) -> web.Response:
        caller = await caller_of(request, self._accounts, self._operator)
        parameters = query_of(request)
        await narrow(caller, self._accounts, parameters)
        found, after = await self._deliveries.listing(parse_delivery_query(parameters))
        await self._names.learn(caller, (each.account for each in found))
        return answer(
            {
                "request_info": _SUCCESS,
                "deliveries": [self._shown(caller, each) for each in found],
                "next_cursor": after.encode() if after else None,
            }
        )

    async def get(self, request: web.Request) -> web.Response:
        caller = await caller_of(request, self._accounts, self._operator)
        refuse_query(request)
        found = await self._deliveries.delivery(request.match_info["id"], caller.account)
        await self._names.learn(caller, [found.account])
        return answer({"request_info": _SUCCESS, "delivery": self._shown(caller, found)})

    def _shown(self, caller: Caller, delivery: Delivery) -> Mapping[str, Any]:
        by = {"worker": delivery.worker} if caller.account is None else {}
        return {**receipt(delivery), **self._names.shown(caller, delivery.account), **by}
