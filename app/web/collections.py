"""The handlers of /collections and of what is announced for them: parse, call, answer."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from app.domain.collection import PAGE_SIZE, Collection, parse_collection_listing
from app.domain.delivery import Delivery, Redelivered
from app.domain.destination import timestamp
from app.domain.errors import InvalidParameters
from app.domain.listing import page_counts, parse_page, unknown_parameters
from app.services.collections import Collections, ResultSetState
from app.services.destinations import Destinations
from app.store.accounts import Accounts
from app.web.auth import Operator, caller_of, query_of, require_operator
from app.web.body import RESULT_SET_LIMIT, parameters_of
from app.web.connections import in_time
from app.web.destinations import refuse_parameters
from app.web.errors import answer
from app.web.idempotency import Idempotency
from app.web.scope import account_meant

_SUCCESS = {"success": True}
_ONE = "/collections/{id}"
_RESULTS = f"{_ONE}/results"
_RESULT = f"{_RESULTS}/{{result_set}}"


class CollectionHandlers:
    """The calls on collections. A customer's key opens those of its account; with the operator's key, `account` on the
    query string says whose. Result sets are announced with the operator's key alone, since who names a source may have
    any file of it delivered."""

    def __init__(
        self,
        collections: Collections,
        destinations: Destinations,
        accounts: Accounts,
        operator: Operator,
        idempotency: Idempotency,
    ) -> None:
        self._collections = collections
        self._destinations = destinations
        self._accounts = accounts
        self._operator = operator
        self._idempotency = idempotency

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/collections", self.list),
            web.put(_ONE, self.put),
            web.get(_ONE, self.get),
            web.delete(_ONE, self.delete),
            web.post(_RESULTS, self.announce),
            web.get(_RESULTS, self.result_sets),
            web.get(_RESULT, self.result_set),
            web.post(f"{_RESULT}/redeliver", self.redeliver),
            web.post("/destinations/{id}/redeliver", self.redeliver_to),
        ]

    async def put(self, request: web.Request) -> web.Response:
        account = await self._account(request)
        body = await in_time(parameters_of(request))
        async with self._idempotency.turn(request, account, body) as turn:
            if not turn.is_answered:
                stored = await self._collections.put(account, request.match_info["id"], body)
                turn.answer(answer({"request_info": _SUCCESS, "collection": _shown(stored)}))
        return turn.response

    async def list(self, request: web.Request) -> web.Response:
        account, parameters = await self._account_and_query(request)
        asked = parse_collection_listing(parameters)
        page = await self._collections.page(account, asked)
        shown = [_shown(each) for each in page.collections]
        return _page(page.matching, asked.page, {"collections": shown})

    async def get(self, request: web.Request) -> web.Response:
        account = await self._account(request)
        found = await self._collections.get(account, request.match_info["id"])
        return answer({"request_info": _SUCCESS, "collection": _shown(found)})

    async def delete(self, request: web.Request) -> web.Response:
        account = await self._account(request)
        await self._collections.delete(account, request.match_info["id"])
        return answer({"request_info": {**_SUCCESS, "message": "1 Collection deleted"}})

    async def announce(self, request: web.Request) -> web.Response:
        require_operator(request, self._operator)
        account = await self._account(request)
        body = await in_time(parameters_of(request, RESULT_SET_LIMIT))
        state, new = await self._collections.announce(account, request.match_info["id"], body)
        return answer({"request_info": _SUCCESS, "result_set": _shown_set(state)}, status=202 if new else 200)

    async def result_sets(self, request: web.Request) -> web.Response:
        account, parameters = await self._account_and_query(request)
        faults = unknown_parameters(parameters, ("page",), "the list of result sets")
        page = parse_page(parameters.get("page") or "1", faults)
        if faults:
            raise InvalidParameters(faults)
        found, count = await self._collections.result_sets(account, request.match_info["id"], page)
        return _page(count, page, {"result_sets": [_shown_set(each) for each in found]})

    async def result_set(self, request: web.Request) -> web.Response:
        account = await self._account(request)
        which = request.match_info
        state = await self._collections.result_set(account, which["id"], which["result_set"])
        files = [receipt(each) for each in state.deliveries]
        return answer({"request_info": _SUCCESS, "result_set": {**_shown_set(state), "files": files}})

    async def redeliver(self, request: web.Request) -> web.Response:
        account = await self._account(request, button=True)
        body = await in_time(parameters_of(request))
        which = request.match_info
        async with self._idempotency.turn(request, account, body) as turn:
            if not turn.is_answered:
                done = await self._collections.redeliver(account, which["id"], which["result_set"], body)
                turn.answer(_redelivered(done))
        return turn.response

    async def redeliver_to(self, request: web.Request) -> web.Response:
        account = await self._account(request, button=True)
        body = await in_time(parameters_of(request))
        async with self._idempotency.turn(request, account, body) as turn:
            if not turn.is_answered:
                destination = await self._destinations.get(account, request.match_info["id"])
                turn.answer(_redelivered(await self._collections.redeliver_to(account, destination.id, body)))
        return turn.response

    async def _account(self, request: web.Request, *, button: bool = False) -> int:
        """The account that the call is about. Raises InvalidParameters where the query string has anything else."""
        account, others = await self._account_and_query(request, button=button)
        refuse_parameters(others)
        return account

    async def _account_and_query(self, request: web.Request, *, button: bool = False) -> tuple[int, dict[str, str]]:
        caller = await caller_of(request, self._accounts, self._operator, button=button)
        parameters = query_of(request)
        return await account_meant(caller, self._accounts, parameters), parameters


def _page(count: int, page: int, shown: Mapping[str, list[Any]]) -> web.Response:
    (entries,) = shown.values()
    return answer({"request_info": _SUCCESS, **page_counts(count, page, PAGE_SIZE, len(entries)), **shown})


def _redelivered(done: Redelivered) -> web.Response:
    info = {**_SUCCESS, "message": done.message()}
    return answer({"request_info": info, "redelivered": done.count}, status=202)


def _shown(collection: Collection) -> Mapping[str, Any]:
    return {
        "id": collection.id,
        "name": collection.name,
        "destination_ids": list(collection.destinations),
        "created_at": timestamp(collection.created_at),
        "updated_at": timestamp(collection.updated_at),
    }


def _shown_set(state: ResultSetState) -> Mapping[str, Any]:
    """A result set with the family's `destination_status`."""
    found = state.result_set
    return {
        "id": found.id,
        "collection_id": found.collection,
        "started_at": timestamp(found.started_at),
        "ended_at": timestamp(found.ended_at),
        "created_at": timestamp(found.created_at),
        "file_count": found.files,
        "destination_status": {
            destination: {
                "status": each.status,
                "log": [{"date_time": timestamp(line.at), "text": line.text} for line in each.log],
            }
            for destination, each in state.destinations.items()
        },
    }


def receipt(delivery: Delivery) -> Mapping[str, Any]:
    """A delivery as it is shown: what became of one file at one destination."""
    times = {
        "due_at": delivery.due_at,
        "began_at": delivery.began_at,
        "ended_at": delivery.ended_at,
        "delivered_at": delivery.delivered_at,
    }
    return {
        "id": delivery.id,
        "collection_id": delivery.collection,
        "result_set_id": delivery.result_set,
        "destination": delivery.destination,
        "name": delivery.file,
        "bytes": delivery.bytes,
        "sha256": delivery.sha256,
        "status": delivery.state,
        "sent": delivery.sent,
        "attempts": delivery.attempts,
        "fault": delivery.fault,
        "message": delivery.message,
        "refusal": delivery.refusal,
        "key": delivery.key,
        "etag": delivery.etag,
        "version_id": delivery.version,
        "request_id": delivery.request_id,
        "created_at": timestamp(delivery.created_at),
        "changed_at": timestamp(delivery.changed_at),
        **{name: timestamp(at) if at else None for name, at in times.items()},
    }
