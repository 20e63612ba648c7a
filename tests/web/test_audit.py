"""That every call which changes something is in the audit log, once: the calls are those that the application has."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.audit import Action
from app.domain.leftover import LeftoverState
from app.messages.sealing import new_key
from app.settings import Settings
from app.store.engine import migrate, open_engine
from app.store.leftovers import Leftovers
from app.store.tables import DestinationRow
from app.web.auth import PAGE_TOKEN, SESSION
from app.web.server import application
from tests.unit.test_leftovers import leftover
from tests.unit.test_notifications import Told
from tests.web.test_accounts import OPERATOR, Caller, disabled

SECRET = "a-secret-that-is-hunted-for-in-the-log"
CUSTOMER = "the-key-of-a-customer"
NOT_IN_IT = {
    "POST /destinations/verify": "it stores nothing",
    "POST /destinations/{id}/verify": "nobody sets anything: what was found is kept, and GET /jobs has each of them",
    "POST /dashboard/session": "it stores nothing: a session is a signed cookie, and opens what its key opens",
    "POST /dashboard/session/end": "it stores nothing: the browser drops its cookie",
}
"""The calls with a method that may change something which leave no entry, each with the reason."""


@dataclass(frozen=True)
class Act:
    """How a call is made so that it succeeds, and the entry that it leaves about the `object`. In the `path` and the
    body, {account}, {key}, {used}, {spare}, {leftover} and {event} are what the test made."""

    action: Action
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    object: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    operators: bool = False


_CREATED = Act(
    Action.DESTINATION_CREATED, "/destinations", disabled(s3_secret_access_key=SECRET), "*",
    {"name": "results", "type": "s3", "enabled": False},
)  # fmt: skip
_SET = {"id": 2, "started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:01Z"}
_FILE = {"name": "f.json", "source": "a-path-at-the-source/f.json", "bytes": 3, "sha256": "0" * 64}
ACTS = {
    "POST /destinations": _CREATED,
    "POST /destination": _CREATED,
    "PUT /destinations/{id}": Act(
        Action.DESTINATION_CHANGED, "/destinations/{spare}", {"name": "another"}, "{spare}", {"changed": ["name"]}
    ),
    "DELETE /destinations/{id}": Act(Action.DESTINATION_DELETED, "/destinations/{spare}", object="{spare}"),
    "POST /destinations/{id}/redeliver": Act(
        Action.DESTINATION_REDELIVERED, "/destinations/{used}/redeliver", {"from": "2026-01-01T00:00:00Z"}, "{used}",
        {"only_failed": False, "from": "2026-01-01T00:00:00Z", "deliveries": 1},
    ),
    "PUT /collections/{id}": Act(
        Action.COLLECTION_STORED, "/collections/c", {"name": "C", "destination_ids": "{spare}"}, "c",
        {"name": "C", "destination_ids": ["{spare}"]},
    ),
    "DELETE /collections/{id}": Act(Action.COLLECTION_DELETED, "/collections/c", object="c"),
    "POST /collections/{id}/results": Act(
        Action.RESULT_SET_ANNOUNCED, "/collections/c/results?account={account}", {**_SET, "files": [_FILE]}, "c",
        {"result_set": 2, "files": 1}, operators=True,
    ),
    "POST /collections/{id}/results/{result_set}/redeliver": Act(
        Action.RESULT_SET_REDELIVERED, "/collections/c/results/1/redeliver", {"destination_ids": "{used}"}, "c",
        {"result_set": 1, "destination_ids": ["{used}"], "only_failed": False, "deliveries": 1},
    ),
    "POST /accounts": Act(
        Action.ACCOUNT_CREATED, "/accounts", {"name": "another", "destination_limit": 3},
        details={"destination_limit": 3}, operators=True,
    ),
    "PUT /accounts/{name}": Act(
        Action.ACCOUNT_CHANGED, "/accounts/{account}", {"delete_policy": "lenient"},
        details={"delete_policy": "lenient"}, operators=True,
    ),
    "DELETE /accounts/{name}": Act(Action.ACCOUNT_DELETED, "/accounts/empty", operators=True),
    "POST /accounts/{name}/keys": Act(
        Action.KEY_IMPORTED, "/accounts/{account}/keys", {"key": SECRET, "name": "k"}, "*", {"name": "k"},
        operators=True,
    ),
    "DELETE /accounts/{name}/keys/{id}": Act(
        Action.KEY_REVOKED, "/accounts/{account}/keys/{key}", object="{key}", operators=True
    ),
}  # fmt: skip


_OF_FILE = {"destination": None, "file": "k"}
_OF_EVENT = {"type": "delivery.failed"}
ACTS |= {
    "POST /leftovers/{id}/retry": Act(
        Action.LEFTOVER_RETRIED, "/leftovers/{leftover}/retry", {}, "{leftover}", _OF_FILE, operators=True
    ),
    "DELETE /leftovers/{id}": Act(
        Action.LEFTOVER_FORGOTTEN, "/leftovers/{leftover}", {}, "{leftover}", _OF_FILE, operators=True
    ),
    # Each leaves none that was given up to the one after it.
    "POST /notifications/retry": Act(
        Action.NOTIFICATION_RETRIED, "/notifications/retry", details={"notifications": 1}, operators=True
    ),
    "POST /notifications/{id}/retry": Act(
        Action.NOTIFICATION_RETRIED, "/notifications/{event}/retry", {}, "{event}", {"notifications": 1}, operators=True
    ),
    "DELETE /notifications/{id}": Act(
        Action.NOTIFICATION_FORGOTTEN, "/notifications/{event}", {}, "{event}", _OF_EVENT, operators=True
    ),
}


class Furnishing(Caller):
    """A caller that can have a destination enabled without a store that it could be verified at."""

    def __init__(self, client: TestClient[Any, Any], database: AsyncEngine) -> None:
        super().__init__(client)
        self._database = database

    async def enable(self, destination: str) -> None:
        change = update(DestinationRow).where(DestinationRow.id == destination).values(enabled=True)
        async with self._database.begin() as connection:
            await connection.execute(change)

    async def leave_file(self, account: int) -> dict[str, str]:
        """The id of a test file of the account that may remain."""
        file = leftover(account, account, state=LeftoverState.KEPT)
        await Leftovers(self._database).add(file, "sealed")
        return {"leftover": file.id}

    async def give_up(self, account: int) -> dict[str, str]:
        """The id of an event of the account that was given up."""
        told = Told(self._database)
        told.mine = account
        await told.happen("0" * 12)
        *_, event = await told.notifications.page(0, 1000)
        await told.notifications.keep(event, "answered 500")
        return {"event": event.id}


@pytest.fixture(scope="module")
async def application_and_caller(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[web.Application, Furnishing]]:
    """One that takes result sets; there is no worker, so that nothing of them is delivered."""
    folder = tmp_path_factory.mktemp("audit")
    settings = Settings(
        data=folder, redis_url=SecretStr(redis_url), secret_keys=SecretStr(new_key()),
        operator_key=SecretStr(OPERATOR), source=SecretStr(folder.as_uri()),
    )  # fmt: skip
    async with open_engine(settings.database) as engine:
        await migrate(engine)
    async with (
        application(settings) as app,
        TestClient(TestServer(app)) as client,
        open_engine(settings.database) as db,
    ):
        yield app, Furnishing(client, db)


@pytest.fixture(scope="module")
def caller(application_and_caller: tuple[web.Application, Furnishing]) -> Furnishing:
    return application_and_caller[1]


def changing(app: web.Application) -> set[str]:
    """The routes of the application with a method that may change something. Those of destinations are also there with
    a slash at the end."""
    return {
        f"{route.method} {route.resource.canonical.rstrip('/') or '/'}"
        for route in app.router.routes()
        if route.resource and route.method not in ("GET", "HEAD", "OPTIONS")
    }


async def furnished(caller: Furnishing, account: str, *, enabled: bool = True) -> dict[str, str]:
    """The account, made new, with a key of its own, two destinations, and a collection that uses one of them and has a
    result set, of which everything has ended, since the destination was disabled; it is `enabled` now."""
    key = f"{CUSTOMER}-{account}"
    number = (await caller.ok("POST", "/accounts", {"name": account}))["account"]["account"]
    made = await caller.ok("POST", f"/accounts/{account}/keys", {"key": key})
    used, spare = [await caller.destination(key, s3_secret_access_key=SECRET) for _ in range(2)]
    await caller.ok("PUT", "/collections/c", {"name": "c", "destination_ids": [used]}, key=key)
    announced = {**_SET, "id": 1, "files": [_FILE]}
    status, content, _ = await caller.call("POST", "/collections/c/results", announced, account=account)
    assert status == 202, content
    if enabled:
        await caller.enable(used)
    return {"account": account, "key": made["key"]["id"], "used": used, "spare": spare, "number": str(number)}


def filled(template: Any, things: Mapping[str, str]) -> Any:
    """`template` with what the test made in the place of the names."""
    return json.loads(
        re.sub(r"\{(account|key|used|spare|leftover|event)\}", lambda m: things[m[1]], json.dumps(template))
    )


async def left(caller: Caller, request: str | None) -> list[dict[str, Any]]:
    """The entries of the request with this id."""
    page = await caller.ok("GET", "/audit", limit="100")
    return [each for each in page["entries"] if each["request"] == request]


async def test_every_call_that_changes_something_leaves_one_entry_or_has_a_reason_not_to(
    application_and_caller: tuple[web.Application, Furnishing],
) -> None:
    app, caller = application_and_caller
    assert changing(app) == ACTS.keys() | NOT_IN_IT.keys(), "a call that is new, or gone: have it in the log"
    assert not ACTS.keys() & NOT_IN_IT.keys()
    await caller.ok("POST", "/accounts", {"name": "empty"})
    for number, (route, act) in enumerate(ACTS.items()):
        method, account = route.partition(" ")[0], f"a{number}"
        things = await furnished(caller, account)
        others = {"leftovers": caller.leave_file, "notifications": caller.give_up}
        if also := others.get(route.split("/")[1]):
            things |= await also(int(things["number"]))
        key = OPERATOR if act.operators else f"{CUSTOMER}-{account}"
        path, _, query = filled(act.path, things).partition("?")
        named = {"account": account} if query else {}
        status, content, headers = await caller.call(method, path, filled(act.body, things), key, **named)
        assert status in (200, 202), (route, content)
        entries = await left(caller, headers["X-Request-Id"])
        assert len(entries) == 1, (route, entries)
        (entry,) = entries
        assert (entry["action"], entry["details"]) == (act.action, filled(act.details, things)), route
        author = ("operator", None) if act.operators else ("account", things["key"])
        assert (entry["author"], entry["author_key"]) == author, route
        assert (entry["object"] and act.object == "*") or entry["object"] == filled(act.object, things), route
        assert entry["account_name"] in (account, "another", "empty"), route
        told = json.dumps(entries)
        for secret in (SECRET, CUSTOMER, OPERATOR, _FILE["source"], str(_CREATED.body["s3_access_key_id"])):
            assert str(secret) not in told, route


@pytest.mark.parametrize("path", ["/destinations/{used}/redeliver", "/collections/c/results/1/redeliver"])
async def test_what_the_operator_has_delivered_again_with_a_button_is_put_down_to_the_operator(
    caller: Furnishing, path: str
) -> None:
    account = f"pressed-{len(path)}"
    things = await furnished(caller, account)
    signed = await caller.client.post("/dashboard/session", data={"key": OPERATOR}, allow_redirects=False)
    session = {"Cookie": f"{SESSION}={signed.cookies[SESSION].value}"}
    caller.client.session.cookie_jar.clear()
    page = await (await caller.client.get("/dashboard", headers=session)).text()
    (token,) = re.findall('name="page-token" content="([0-9a-f]{64})"', page)
    headers, where = {**session, PAGE_TOKEN: token}, filled(path, things)
    answers = [
        await caller.client.post(where, json={"only_failed": only}, headers=headers, params={"account": account})
        for only in (True, False)
    ]
    assert [(each.status, (await each.json())["redelivered"]) for each in answers] == [(202, 0), (202, 1)]
    nothing, something = [await left(caller, each.headers["X-Request-Id"]) for each in answers]
    assert nothing == [], "what was not done is not in the log"
    assert [(each["author"], each["account_name"]) for each in something] == [("operator", account)]


async def test_the_same_call_once_more_with_its_key_is_one_entry(caller: Furnishing) -> None:
    things = await furnished(caller, "repeated")
    headers = {"Authorization": f"Bearer {CUSTOMER}-repeated", "Idempotency-Key": "k"}
    for _ in range(2):
        path = f"/destinations/{things['used']}/redeliver"
        async with caller.client.post(path, json={}, headers=headers) as answered:
            assert (answered.status, (await answered.json())["redelivered"]) == (202, 1)
    entries = (await caller.ok("GET", "/audit", account="repeated", object=things["used"]))["entries"]
    assert [each["action"] for each in entries] == ["destination_redelivered", "destination_created"]


@pytest.mark.parametrize("path", ["/destinations/{used}/redeliver", "/collections/c/results/1/redeliver"])
async def test_a_redelivery_that_can_do_nothing_says_why_and_is_not_in_the_log(caller: Furnishing, path: str) -> None:
    account = f"nothing-{len(path)}"
    things = await furnished(caller, account, enabled=False)
    key, where = f"{CUSTOMER}-{account}", filled(path, things)
    for body, why in (
        ({}, f"{things['used']} stay as they are, since it is disabled"),
        ({"only_failed": True}, "failed"),
    ):
        status, content, headers = await caller.call("POST", where, body, key)
        assert (status, content["redelivered"]) == (202, 0), content
        assert why in content["request_info"]["message"]
        assert await left(caller, headers["X-Request-Id"]) == []
    await caller.enable(things["used"])
    status, content, _ = await caller.call("POST", where, {}, key)
    told = (status, content["redelivered"], content["request_info"]["message"])
    assert told == (202, 1, "1 delivery is made again.")


def test_every_action_is_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs/api.md").read_text().partition("### The audit log")[2]
    assert [action for action in Action if f"`{action}`" not in documented] == []
