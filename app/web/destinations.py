"""The handlers of /destinations: parse, call, answer."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from app.domain.destination import PAGE_SIZE, Destination, query
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.specs import printable
from app.domain.verification import Report
from app.service import Destinations
from app.store.claims import Claim
from app.web.auth import KnowsKeys, account_of, query_of
from app.web.body import parameters_of
from app.web.errors import answer
from app.web.idempotency import Idempotency

_SUCCESS = {"success": True}
# No destination is called as a path of its own is, so that its other verbs are refused as such.
_ONE = "/destinations/{id:(?!(?:verify|policy)$)[^/]+}"


class DestinationHandlers:
    """The calls on destinations, for the account that the request's key opens."""

    def __init__(self, destinations: Destinations, keys: KnowsKeys, idempotency: Idempotency) -> None:
        self._destinations = destinations
        self._keys = keys
        self._idempotency = idempotency

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
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

    async def create(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._keys)
        no_query(request)
        body = await parameters_of(request)

        async def create(claim: Claim) -> web.Response:
            return _one(await self._destinations.create(account, body, claim.destination, again=claim.again))

        return await self._idempotency.once(request, account, body, create)

    async def verify(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._keys)
        no_query(request)
        body = await parameters_of(request)

        async def verify(_: Claim) -> web.Response:
            return _report(await self._destinations.verify(account, body))

        return await self._idempotency.once(request, account, body, verify)

    async def verify_existing(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._keys)
        no_query(request)
        body = await parameters_of(request)
        _none_of(body, "does not belong here: the destination is verified as it is")

        async def verify(_: Claim) -> web.Response:
            return _report(await self._destinations.verify_existing(account, request.match_info["id"]))

        return await self._idempotency.once(request, account, body, verify)

    async def policy(self, request: web.Request) -> web.Response:
        await account_of(request, self._keys)
        policy = self._destinations.policy(query_of(request))
        return answer({"request_info": _SUCCESS, "policy": policy.document, "steps": policy.steps})

    async def list(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._keys)
        asked = query(query_of(request))
        page = await self._destinations.page(account, asked)
        limit = self._destinations.limit
        return answer(
            {
                "request_info": _SUCCESS,
                "usage": {"used": page.used, "limit": limit, "available": max(0, limit - page.used)},
                "total_count": page.matching,
                "total_pages": -(-page.matching // PAGE_SIZE),
                "current_page": asked.page,
                "count_this_page": len(page.destinations),
                "destinations": [shown(destination) for destination in page.destinations],
            }
        )

    async def get(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._keys)
        no_query(request)
        return _one(await self._destinations.get(account, request.match_info["id"]))

    async def update(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._keys)
        no_query(request)
        body = await parameters_of(request)

        async def update(_: Claim) -> web.Response:
            return _one(await self._destinations.update(account, request.match_info["id"], body))

        return await self._idempotency.once(request, account, body, update)

    async def delete(self, request: web.Request) -> web.Response:
        account = await account_of(request, self._keys)
        no_query(request)
        await self._destinations.delete(account, request.match_info["id"])
        return answer({"request_info": {**_SUCCESS, "message": "1 Destination deleted"}})


def _one(destination: Destination) -> web.Response:
    return answer({"request_info": _SUCCESS, "destination": shown(destination)})


def _report(report: Report) -> web.Response:
    return answer({"request_info": _SUCCESS, "verification": report.as_answer()})


def no_query(request: web.Request) -> None:
    """Parameters belong in the body: one on the query string would pass unseen."""
    _none_of(query_of(request), "does not belong on the query string")


def _none_of(parameters: Iterable[str], rule: str) -> None:
    """Refuse each of `parameters` by its name."""
    names = [printable(name) for name in parameters]
    if names:
        raise InvalidParameters([ParameterFault(name, "unknown_parameter", f"{name} {rule}.") for name in names])


def shown(destination: Destination) -> Mapping[str, Any]:
    """A destination as a client sees it. Its credentials are not in it, since they are not in `destination`."""
    return {
        "id": destination.id,
        "name": destination.name,
        "type": destination.type,
        "enabled": destination.enabled,
        "used_by": 0,
        **destination.parameters,
        "created_at": timestamp(destination.created_at),
        "updated_at": timestamp(destination.updated_at),
        "verified_at": timestamp(destination.verified_at) if destination.verified_at else None,
        "verification": destination.verification.as_answer() if destination.verification else None,
    }


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, as in 2026-01-31T12:00:00.123456Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
