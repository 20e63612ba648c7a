"""The handlers of /destinations: parse, call, answer."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from app.domain.destination import PAGE_SIZE, Destination, parse_listing
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.listing import page_counts
from app.domain.types import printable
from app.domain.verification import Report
from app.services.destinations import Destinations
from app.store.accounts import Accounts
from app.web.auth import (
    AccountNames,
    Caller,
    Operator,
    account_of,
    customer_or_operator,
    query_of,
    require_operator,
)
from app.web.body import parameters_of
from app.web.connections import in_time
from app.web.errors import answer
from app.web.idempotency import Idempotency
from app.web.scope import account_meant

_SUCCESS = {"success": True}
# `verify` and `policy` are paths of their own: a method that they do not take is a 405, and not a destination that is
# not there.
_ONE = "/destinations/{id:(?!(?:verify|policy)/?$)[^/]+}"


class DestinationHandlers:
    """The calls on destinations, for the account that the request's key opens. The operator looks at those of all
    accounts, has one verified, and changes none."""

    def __init__(
        self, destinations: Destinations, accounts: Accounts, operator: Operator, idempotency: Idempotency
    ) -> None:
        self._destinations = destinations
        self._accounts = accounts
        self._operator = operator
        self._idempotency = idempotency
        self._names = AccountNames(accounts)

    def routes(self) -> list[web.RouteDef]:
        """Each path also with a slash at its end, which many clients write."""
        routes = [
            web.post("/destinations", self.create),
            web.post("/destination", self.create),
            web.post("/destinations/verify", self.verify),
            web.get("/destinations/policy", self.policy),
            web.get("/destinations", self.list),
            web.get(_ONE, self.get),
            web.put(_ONE, self.update),
            web.delete(_ONE, self.delete),
            web.post(f"{_ONE}/verify", self.verify_existing),
        ]
        return [*routes, *(web.route(each.method, f"{each.path}/", each.handler) for each in routes)]

    async def create(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._accounts, self._operator)
        refuse_query(request)
        body = await in_time(parameters_of(request))
        async with self._idempotency.turn(request, account, body) as turn:
            if not turn.is_answered:
                created = await self._destinations.create(account, body, turn.destination, may_exist=turn.may_exist)
                turn.answer(_one(created))
        return turn.response

    async def verify(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._accounts, self._operator)
        refuse_query(request)
        body = await in_time(parameters_of(request))
        async with self._idempotency.turn(request, account, body) as turn:
            if not turn.is_answered:
                turn.answer(_report(await self._destinations.verify(account, body)))
        return turn.response

    async def verify_existing(self, request: web.Request) -> web.Response:
        caller = await customer_or_operator(request, self._accounts, self._operator, button=True)
        parameters = query_of(request)
        account = await account_meant(caller, self._accounts, parameters)
        refuse_parameters(parameters)
        body = await in_time(parameters_of(request))
        _refuse(body, "does not belong here: the destination is verified as it is")
        async with self._idempotency.turn(request, account, body) as turn:
            if not turn.is_answered:
                turn.answer(_report(await self._destinations.verify_existing(account, request.match_info["id"])))
        return turn.response

    async def policy(self, request: web.Request) -> web.Response:
        await account_of(request, self._accounts, self._operator)
        guide = self._destinations.key_guide(query_of(request))
        return answer({"request_info": _SUCCESS, "policy": guide.policy, "steps": guide.steps})

    async def list(self, request: web.Request) -> web.Response:
        caller = await customer_or_operator(request, self._accounts, self._operator)
        parameters = query_of(request)
        account = caller.account
        if account is None and (name := parameters.pop("account", "")):
            account = (await self._accounts.get(name)).id
        asked = parse_listing(parameters)
        page = await self._destinations.page(account, asked)
        await self._names.learn(caller, (each.account for each in page.destinations))
        usage = {} if account is None or page.limit is None else {"usage": _usage(page.used, page.limit)}
        return answer(
            {
                "request_info": _SUCCESS,
                **usage,
                **page_counts(page.matching, asked.page, PAGE_SIZE, len(page.destinations)),
                "destinations": [self._shown(caller, each) for each in page.destinations],
            }
        )

    async def get(self, request: web.Request) -> web.Response:
        caller = await customer_or_operator(request, self._accounts, self._operator)
        refuse_query(request)
        found = await self._destinations.get(caller.account, request.match_info["id"])
        await self._names.learn(caller, [found.account])
        return answer({"request_info": _SUCCESS, "destination": self._shown(caller, found)})

    def _shown(self, caller: Caller, destination: Destination) -> Mapping[str, Any]:
        whose = self._names.shown(caller, destination.account) if caller.account is None else {}
        return {**whose, **destination.as_answer()}

    async def update(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._accounts, self._operator)
        refuse_query(request)
        body = await in_time(parameters_of(request))
        async with self._idempotency.turn(request, account, body) as turn:
            if not turn.is_answered:
                turn.answer(_one(await self._destinations.update(account, request.match_info["id"], body)))
        return turn.response

    async def delete(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._accounts, self._operator)
        refuse_query(request)
        await self._destinations.delete(account, request.match_info["id"])
        return answer({"request_info": {**_SUCCESS, "message": "1 Destination deleted"}})


def _usage(used: int, limit: int) -> Mapping[str, int]:
    return {"used": used, "limit": limit, "available": max(0, limit - used)}


def _one(destination: Destination) -> web.Response:
    return answer({"request_info": _SUCCESS, "destination": destination.as_answer()})


def _report(report: Report) -> web.Response:
    return answer({"request_info": _SUCCESS, "verification": report.as_answer()})


def refuse_query(request: web.Request) -> None:
    """Raises InvalidParameters where the query string has any: they belong in the body, and would be ignored here."""
    refuse_parameters(query_of(request))


def refuse_parameters(parameters: Iterable[str]) -> None:
    """Raises InvalidParameters where there are any of the query string's left, as refuse_query does."""
    _refuse(parameters, "does not belong on the query string")


async def require_operator_with_nothing(request: web.Request, operator: Operator, *, button: bool = False) -> None:
    """As require_operator; raises InvalidParameters too, where the query string or the body has any parameters."""
    require_operator(request, operator, button=button)
    refuse_query(request)
    _refuse(await in_time(parameters_of(request)), "does not belong here: this call takes nothing")


def _refuse(parameters: Iterable[str], rule: str) -> None:
    """Raises InvalidParameters that names each of `parameters`, if there are any."""
    names = [printable(name) for name in parameters]
    if names:
        raise InvalidParameters([ParameterFault(name, "unknown_parameter", f"{name} {rule}.") for name in names])
