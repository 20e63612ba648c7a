"""The handlers of /accounts: an operator makes, changes and ends accounts and their keys."""

from aiohttp import web

from app.domain.account import (
    PAGE_SIZE,
    Account,
    Key,
    parse_account,
    parse_account_change,
    parse_account_listing,
    parse_key,
)
from app.domain.listing import page_counts
from app.store.accounts import Accounts, new_key
from app.web.auth import Operator, query_of, require_operator
from app.web.body import parameters_of
from app.web.connections import in_time
from app.web.destinations import refuse_query
from app.web.errors import answer

_SUCCESS = {"success": True}
_ONE = "/accounts/{name}"
_KEYS = f"{_ONE}/keys"


class AccountHandlers:
    """All of it is for the operator."""

    def __init__(self, accounts: Accounts, operator: Operator) -> None:
        self._accounts = accounts
        self._operator = operator

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/accounts", self.list),
            web.post("/accounts", self.create),
            web.get(_ONE, self.get),
            web.put(_ONE, self.change),
            web.delete(_ONE, self.delete),
            web.get(_KEYS, self.keys),
            web.post(_KEYS, self.add_key),
            web.delete(f"{_KEYS}/{{id}}", self.revoke_key),
        ]

    async def list(self, request: web.Request) -> web.Response:
        require_operator(request, self._operator)
        asked = parse_account_listing(query_of(request))
        page = await self._accounts.page(asked)
        return answer(
            {
                "request_info": _SUCCESS,
                **page_counts(page.matching, asked.page, PAGE_SIZE, len(page.accounts)),
                "accounts": [each.as_answer() for each in page.accounts],
            }
        )

    async def create(self, request: web.Request) -> web.Response:
        self._require(request)
        name, own = parse_account(await in_time(parameters_of(request)))
        return _one(await self._accounts.create(name, own))

    async def get(self, request: web.Request) -> web.Response:
        self._require(request)
        return _one(await self._accounts.get(request.match_info["name"]))

    async def change(self, request: web.Request) -> web.Response:
        self._require(request)
        own = parse_account_change(await in_time(parameters_of(request)))
        return _one(await self._accounts.change(request.match_info["name"], own))

    async def delete(self, request: web.Request) -> web.Response:
        self._require(request)
        await self._accounts.delete(request.match_info["name"])
        return answer({"request_info": {**_SUCCESS, "message": "1 Account deleted"}})

    async def keys(self, request: web.Request) -> web.Response:
        self._require(request)
        keys = await self._accounts.keys_of(request.match_info["name"])
        return answer({"request_info": _SUCCESS, "keys": [each.as_answer() for each in keys]})

    async def add_key(self, request: web.Request) -> web.Response:
        """A new key is in this answer and in no other; one that was brought along is in none."""
        self._require(request)
        asked = parse_key(await in_time(parameters_of(request)), self._operator.keys)
        new = asked.key or new_key()
        key = await self._accounts.add_key(request.match_info["name"], new, asked.name, imported=bool(asked.key))
        return _key(key, {} if asked.key else {"key": new})

    async def revoke_key(self, request: web.Request) -> web.Response:
        self._require(request)
        await self._accounts.revoke_key(request.match_info["name"], request.match_info["id"])
        return answer({"request_info": {**_SUCCESS, "message": "1 Key revoked"}})

    def _require(self, request: web.Request) -> None:
        """The operator, and nothing on the query string."""
        require_operator(request, self._operator)
        refuse_query(request)


def _one(account: Account) -> web.Response:
    return answer({"request_info": _SUCCESS, "account": account.as_answer()})


def _key(key: Key, shown: dict[str, str]) -> web.Response:
    content = {"request_info": _SUCCESS, "key": {**key.as_answer(), **shown}}
    return answer(content, headers={"Cache-Control": "no-store"})
