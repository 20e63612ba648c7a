"""What the operator may: accounts, their keys and limits, everybody's destinations, and the log of who changed what."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr, ValidationError

from app.messages.sealing import new_key
from app.settings import Settings
from app.store.engine import migrate, open_engine
from app.web.auth import SESSION
from app.web.server import application
from tests.types.every import GOOD
from tests.unit.test_notifications import Told
from tests.web.test_openapi import DOCUMENT, faults

OPERATOR, READER = "the-key-of-the-operator", "the-key-of-a-dashboard"
LIMIT = 12


DESCRIBED = {
    (method.upper(), re.compile(re.sub(r"\{\w+\}", "[^/]+", path))): call["responses"]
    for path, methods in DOCUMENT["paths"].items()
    for method, call in methods.items()
}


def compare(method: str, path: str, status: int, content: object) -> None:
    """Fail where the document does not know this answer."""
    for (known, pattern), responses in DESCRIBED.items():
        if known == method and pattern.fullmatch(path):
            assert str(status) in responses, (method, path, content)
            (answer,) = responses[str(status)]["content"].values()
            assert faults(answer["schema"], content) == [], (method, path, content)
            return
    assert path == "/dashboard/overview", (method, path)


class Caller:
    """Calls the service in this process, with the operator's key unless another is given, and compares each answer
    with the document."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, key: str = OPERATOR, **query: str
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """The status, the content and the headers of the answer."""
        response: ClientResponse
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.client.request(method, path, json=body, headers=headers, params=query) as response:
            content = json.loads(await response.text())
            compare(method, path, response.status, content)
            return response.status, content, response.headers

    async def ok(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str) -> dict[str, Any]:
        status, content, _ = await self.call(method, path, body, **query)
        assert status == 200, content
        return content

    async def refused(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> tuple[int, str]:
        status, content, _ = await self.call(method, path, body, **query)
        assert content["request_info"]["success"] is False
        return status, content["error"]["code"]

    async def account(self, name: str, **own: Any) -> str:
        """A new account; its key."""
        await self.ok("POST", "/accounts", {"name": name, **own})
        key: str = (await self.ok("POST", f"/accounts/{quote(name, safe='')}/keys", {}))["key"]["key"]
        return key

    async def destination(self, key: str, **changes: Any) -> str:
        """The id of a new destination, which is disabled and so called nobody."""
        made = await self.ok("POST", "/destinations", disabled(**changes), key=key)
        return str(made["destination"]["id"])


def disabled(**changes: Any) -> dict[str, Any]:
    return {"name": "results", "enabled": False, "type": "s3", **GOOD["s3"], **changes}


@pytest.fixture(scope="module")
def settings(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        data=tmp_path_factory.mktemp("accounts"), redis_url=SecretStr(redis_url), secret_keys=SecretStr(new_key()),
        operator_key=SecretStr(OPERATOR), operator_read_key=SecretStr(READER), destination_limit=LIMIT,
    )  # fmt: skip


@pytest.fixture(scope="module")
async def caller(settings: Settings) -> AsyncIterator[Caller]:
    async with open_engine(settings.database) as engine:
        await migrate(engine)
    async with application(settings) as app, TestClient(TestServer(app)) as client:
        yield Caller(client)


@pytest.mark.parametrize("name", ["acme", "Acme Ltd. (EU)", "a/b?c=d&e", "Ärger", "..."])
async def test_an_account_is_made_shown_changed_and_deleted(caller: Caller, name: str) -> None:
    path = f"/accounts/{quote(name, safe='')}"
    assert await caller.refused("GET", path) == (404, "account_not_found")
    made = (await caller.ok("POST", "/accounts", {"name": name, "destination_limit": 3}))["account"]
    assert (made["name"], made["destinations"], made["destination_limit"]) == (name, 0, 3)
    assert made["verification_limit"] is made["delete_policy"] is None
    assert await caller.refused("POST", "/accounts", {"name": name}) == (409, "account_exists")
    changes = {"destination_limit": None, "verification_limit": "7", "delete_policy": "lenient"}
    changed = (await caller.ok("PUT", path, changes))["account"]
    assert changed == {**made, "destination_limit": None, "verification_limit": 7, "delete_policy": "lenient"}
    assert (await caller.ok("GET", path))["account"] == changed
    assert (await caller.ok("GET", "/accounts", search_term=name.upper()))["accounts"] == [changed]
    assert (await caller.ok("DELETE", path))["request_info"]["message"] == "1 Account deleted"
    for method, where in (("GET", path), ("DELETE", path), ("GET", f"{path}/keys"), ("PUT", path)):
        assert await caller.refused(method, where) == (404, "account_not_found")
    assert (await caller.ok("GET", "/accounts", search_term=name))["accounts"] == []


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        ({}, ["name"]),
        ({"name": ".."}, ["name"]),
        ({"name": "a\nb"}, ["name"]),
        ({"name": "a", "limit": 3}, ["limit"]),
        ({"name": "a", "destination_limit": -1, "verification_limit": 0}, ["destination_limit", "verification_limit"]),
        ({"name": "a", "destination_limit": True}, ["destination_limit"]),
        ({"name": "a", "destination_limit": "3.5", "delete_policy": "soft"}, ["destination_limit", "delete_policy"]),
        ({"name": "a", "delete_policy": ["strict"]}, ["delete_policy"]),
    ],
)
async def test_every_fault_of_an_account_is_told_at_once(
    caller: Caller, body: dict[str, Any], parameters: list[str]
) -> None:
    status, content, _ = await caller.call("POST", "/accounts", body)
    assert status == 400
    assert [each["parameter"] for each in content["error"]["parameters"]] == parameters
    assert await caller.refused("GET", "/accounts/a") == (404, "account_not_found")


async def test_a_key_is_shown_once_and_revoked_by_its_id(caller: Caller) -> None:
    await caller.ok("POST", "/accounts", {"name": "keys"})
    status, made, headers = await caller.call("POST", "/accounts/keys/keys", {"name": "their importer"})
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    kept = (await caller.ok("POST", "/accounts/keys/keys"))["key"]
    key = made["key"].pop("key")
    listed = (await caller.ok("GET", "/accounts/keys/keys"))["keys"]
    assert listed == [made["key"], {name: value for name, value in kept.items() if name != "key"}]
    assert made["key"]["name"] == "their importer"
    assert key not in json.dumps(listed)
    await caller.ok("GET", "/destinations", key=key)
    other = await caller.account("another")
    wrong = f"/accounts/another/keys/{made['key']['id']}"
    assert await caller.refused("DELETE", wrong) == (404, "key_not_found"), "it is another account's"
    assert await caller.refused("DELETE", "/accounts/keys/keys/x") == (404, "key_not_found")
    await caller.ok("DELETE", f"/accounts/keys/keys/{made['key']['id']}")
    assert await caller.refused("GET", "/destinations", key=key) == (401, "unauthorized")
    for each in (kept["key"], other):
        await caller.ok("GET", "/destinations", key=each)


async def test_a_customer_keeps_the_key_that_it_has(caller: Caller) -> None:
    for name in ("brought", "elsewhere"):
        await caller.ok("POST", "/accounts", {"name": name})
    key = "0123456789ABCDEF"
    assert await caller.refused("GET", "/destinations", key=key) == (401, "unauthorized")
    first = (await caller.ok("POST", "/accounts/brought/keys", {"key": key, "name": "old"}))["key"]
    assert "key" not in first
    assert (await caller.ok("POST", "/accounts/brought/keys", {"key": key}))["key"] == first, "the same, once more"
    await caller.ok("GET", "/destinations", key=key)
    assert await caller.refused("POST", "/accounts/elsewhere/keys", {"key": key}) == (409, "key_in_use")
    for wrong in (key[:-1], "0123456789 ABCDEF", "ä" * 16, 1234567890123456, OPERATOR, READER):
        status, content, _ = await caller.call("POST", "/accounts/elsewhere/keys", {"key": wrong})
        assert (status, content["error"]["parameter"]) == (400, "key")
        assert str(wrong) not in json.dumps(content, ensure_ascii=False)
    assert (await caller.ok("GET", "/accounts/elsewhere/keys"))["keys"] == []


async def test_an_account_with_destinations_is_not_deleted_and_one_made_again_has_nothing_of_before(
    caller: Caller,
) -> None:
    key = await caller.account("leaving", destination_limit=5)
    neighbour = await caller.account("staying")
    destination = await caller.destination(key)
    status, content, _ = await caller.call("DELETE", "/accounts/leaving")
    assert (status, content["error"]["code"]) == (409, "account_in_use")
    assert "1 destinations" in content["request_info"]["message"]
    await caller.ok("PUT", "/collections/c", {"name": "c", "destination_ids": []}, key=key)
    await caller.ok("DELETE", f"/destinations/{destination}", key=key)
    assert await caller.refused("DELETE", "/accounts/leaving") == (409, "account_in_use"), "it has a collection"
    await caller.ok("DELETE", "/collections/c", key=key)
    before = (await caller.ok("GET", "/accounts/leaving"))["account"]
    await caller.ok("DELETE", "/accounts/leaving")
    assert await caller.refused("GET", "/destinations", key=key) == (401, "unauthorized")
    assert await caller.refused("POST", "/accounts/leaving/keys") == (404, "account_not_found")
    again = (await caller.ok("POST", "/accounts", {"name": "leaving"}))["account"]
    assert (again["account"], again["destination_limit"]) == (before["account"], None)
    assert (await caller.ok("GET", "/accounts/leaving/keys"))["keys"] == []
    assert await caller.refused("GET", "/destinations", key=key) == (401, "unauthorized")
    await caller.ok("GET", "/destinations", key=neighbour)


async def test_a_limit_of_its_own_wins_over_the_setting(caller: Caller) -> None:
    key = await caller.account("limited", destination_limit=1)
    await caller.destination(key)
    usage = (await caller.ok("GET", "/destinations", key=key))["usage"]
    assert usage == {"used": 1, "limit": 1, "available": 0}
    status, content, _ = await caller.call("POST", "/destinations", disabled(), key)
    assert (status, content["error"]["code"]) == (400, "destination_limit_reached")
    assert "its 1 destinations" in content["request_info"]["message"]
    await caller.ok("PUT", "/accounts/limited", {"destination_limit": ""})
    await caller.destination(key)
    assert (await caller.ok("GET", "/destinations", key=key))["usage"]["limit"] == LIMIT


SETTLING = [
    ("POST", "/leftovers/x/retry"),
    ("DELETE", "/leftovers/x"),
    ("POST", "/notifications/retry"),
    ("POST", "/notifications/x/retry"),
    ("DELETE", "/notifications/x"),
]
CHANGING = [
    ("POST", "/accounts"),
    ("PUT", "/accounts/acme"),
    ("DELETE", "/accounts/acme"),
    ("POST", "/accounts/acme/keys"),
    ("DELETE", "/accounts/acme/keys/000000000000"),
    ("POST", "/collections/c/results"),
    ("PUT", "/collections/c"),
    ("DELETE", "/collections/c"),
    ("POST", "/destinations/000000000000/redeliver"),
    ("POST", "/destinations"),
    ("PUT", "/destinations/000000000000"),
    ("DELETE", "/destinations/000000000000"),
    ("POST", "/destinations/verify"),
    *SETTLING,
]


@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_the_read_only_key_changes_nothing_and_is_told_so(caller: Caller, method: str, path: str) -> None:
    status, content, _ = await caller.call(method, path, {"name": "acme"}, READER, account="x")
    assert (status, content["error"]["code"]) == (403, "read_only_key")
    assert "read-only" in content["request_info"]["message"]


async def test_the_read_only_key_looks_at_what_the_operator_looks_at(caller: Caller) -> None:
    await caller.account("looked at")
    for path in ("/accounts", "/accounts/looked%20at", "/accounts/looked%20at/keys", "/audit", "/destinations", "/jobs",
                 "/deliveries", "/leftovers", "/notifications", "/dashboard/overview"):  # fmt: skip
        assert await caller.ok("GET", path, key=READER), path
    _, ready, _ = await caller.call("GET", "/readyz", key=READER)
    assert ready["checks"]
    assert (await caller.client.get("/metrics", headers={"Authorization": f"Bearer {READER}"})).status == 200
    signed = await caller.client.post("/dashboard/session", data={"key": READER}, allow_redirects=False)
    assert signed.status == 303
    session = {"Cookie": f"{SESSION}={signed.cookies[SESSION].value}"}
    caller.client.session.cookie_jar.clear()
    assert (await caller.client.get("/jobs", headers=session)).status == 200
    for method, path in CHANGING:
        answered = await caller.client.request(method, path, json={}, headers=session, params={"account": "looked at"})
        assert answered.status == 401, "a browser's session changes nothing, whosever key it came of"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/accounts"), ("GET", "/audit"), ("GET", "/notifications"), *CHANGING[:5], *SETTLING]
)
async def test_a_customer_and_a_stranger_have_no_business_there(caller: Caller, method: str, path: str) -> None:
    name = f"customer {method} {path}"
    for key in (await caller.account(name), "no-key-of-anybody", ""):
        assert await caller.refused(method, path, {"name": "theirs"}, key=key) == (401, "unauthorized")
    assert await caller.refused("GET", "/accounts/theirs") == (404, "account_not_found")


async def test_what_is_not_on_record_is_not_found_and_a_call_that_takes_nothing_is_given_nothing(
    caller: Caller,
) -> None:
    unknown = {"leftovers": "leftover_not_found", "notifications": "notification_not_found"}
    for method, path in SETTLING:
        if path == "/notifications/retry":
            assert (await caller.call(method, path))[:2] == (
                202,
                {"request_info": {"success": True, "message": "0 told again from now on."}, "retried": 0},
            )
        else:
            for name in ("x", "%00", "a%2Fb", "%F0%9F%98%80", "x" * 300):
                found = await caller.refused(method, path.replace("/x", f"/{name}"))
                assert found == (404, unknown[path.split("/")[1]]), name
        assert await caller.refused(method, path, {"all": True}) == (400, "unknown_parameter")
        assert await caller.refused(method, path, all="1") == (400, "unknown_parameter")


async def test_the_events_that_the_platform_was_not_told_of_are_listed_page_by_page(
    caller: Caller, settings: Settings
) -> None:
    async with open_engine(settings.database) as engine:
        ids = await Told(engine).two_of_which_are_kept(5)
    found, cursor = [], "0"
    while cursor != "None":
        page = await caller.ok("GET", "/notifications", limit="2", cursor=cursor)
        found, cursor = found + page["notifications"], str(page["next_cursor"])
    assert [each["id"] for each in found] == ids
    kept = (await caller.ok("GET", "/notifications", state="kept"))["notifications"]
    assert [(each["state"], each["reason"], each["next_attempt_at"]) for each in kept] == [
        ("kept", "answered 500", None)
    ] * 2
    assert kept[0]["event"]["data"] == {"n": 0}
    status, content, _ = await caller.call("POST", f"/notifications/{kept[0]['id']}/retry")
    assert (status, content["retried"]) == (202, 1)
    assert await caller.refused("POST", f"/notifications/{kept[0]['id']}/retry") == (404, "notification_not_found")
    await caller.ok("DELETE", f"/notifications/{kept[1]['id']}")
    waiting = (await caller.ok("GET", "/notifications", state="waiting"))["notifications"]
    assert [each["id"] for each in waiting] == [each for each in ids if each != kept[1]["id"]]
    assert waiting[0]["attempts"] == 0
    for name, value in (("state", "told"), ("limit", "0"), ("cursor", "x")):
        assert await caller.refused("GET", "/notifications", **{name: value}) == (400, "invalid_parameter")


async def test_the_operators_key_in_place_of_a_customers_is_told_apart_from_a_wrong_one(caller: Caller) -> None:
    for method, path in (("POST", "/destinations"), ("GET", "/destinations/policy")):
        status, content, _ = await caller.call(method, path)
        assert (status, content["error"]["code"]) == (401, "unauthorized")
        assert content["request_info"]["message"].startswith("This is the operator's key")


async def test_the_operator_sees_the_destinations_of_all_accounts_and_whose_they_are(caller: Caller) -> None:
    keys = {name: await caller.account(name) for name in ("first", "second")}
    mine = {name: [await caller.destination(key, name=f"of all {n}") for n in range(6)] for name, key in keys.items()}
    pages = [await caller.ok("GET", "/destinations", search_term="OF ALL", page=str(n)) for n in (1, 2, 3)]
    assert [page["count_this_page"] for page in pages] == [10, 2, 0]
    assert {page["total_count"] for page in pages} == {12}
    assert not any("usage" in page for page in pages)
    found = [each for page in pages for each in page["destinations"]]
    assert {name: [e["id"] for e in found if e["account_name"] == name] for name in keys} == mine
    one = await caller.ok("GET", f"/destinations/{mine['second'][0]}")
    assert one["destination"] == next(each for each in found if each["id"] == mine["second"][0])
    of_second = await caller.ok("GET", "/destinations", account="second", sort_by="name", sort_direction="descending")
    assert [each["id"] for each in of_second["destinations"]] == mine["second"][::-1]
    assert of_second["usage"] == {"used": 6, "limit": LIMIT, "available": LIMIT - 6}
    assert (await caller.ok("GET", "/destinations", account="second", failing="true"))["destinations"] == []
    assert await caller.refused("GET", "/destinations", account="nobody") == (404, "account_not_found")
    seen = await caller.ok("GET", "/destinations", key=keys["first"])
    assert [each["id"] for each in seen["destinations"]] == mine["first"]
    assert not {"account", "account_name"} & seen["destinations"][0].keys()
    assert await caller.refused("GET", "/destinations", key=keys["first"], account="first") == (
        400,
        "unknown_parameter",
    )
    assert await caller.refused("GET", f"/destinations/{mine['second'][0]}", key=keys["first"]) == (
        404,
        "destination_not_found",
    )


async def test_the_log_says_who_did_what_in_which_request_and_has_no_secret(caller: Caller) -> None:
    _, _, made = await caller.call("POST", "/accounts", {"name": "logged", "verification_limit": 2})
    _, content, keyed = await caller.call("POST", "/accounts/logged/keys", {"name": "k"})
    key, key_id = content["key"]["key"], content["key"]["id"]
    secret = "a-secret-that-is-hunted-for-in-the-log"
    body = disabled(s3_secret_access_key=secret)
    _, content, created = await caller.call("POST", "/destinations", body, key)
    destination = content["destination"]["id"]
    _, _, renamed = await caller.call("PUT", f"/destinations/{destination}", {"name": "another"}, key)
    await caller.ok("PUT", f"/destinations/{destination}", {"name": "another"}, key=key)
    assert await caller.refused("POST", "/destinations", {}, key=key) == (400, "missing_parameter")
    await caller.ok("PUT", "/collections/c", {"name": "c", "destination_ids": [destination]}, key=key)
    assert await caller.refused("DELETE", f"/destinations/{destination}", key=key) == (409, "destination_in_use")
    await caller.ok("DELETE", "/collections/c", key=key)
    await caller.ok("DELETE", f"/destinations/{destination}", key=key)
    _, _, revoked = await caller.call("DELETE", f"/accounts/logged/keys/{key_id}")
    entries = (await caller.ok("GET", "/audit", account="logged"))["entries"][::-1]
    told = [(e["action"], e["object"], e["author"], e["author_key"]) for e in entries]
    assert told == [
        ("account_created", None, "operator", None),
        ("key_created", key_id, "operator", None),
        ("destination_created", destination, "account", key_id),
        ("destination_changed", destination, "account", key_id),
        ("collection_stored", "c", "account", key_id),
        ("collection_deleted", "c", "account", key_id),
        ("destination_deleted", destination, "account", key_id),
        ("key_revoked", key_id, "operator", None),
    ]
    requests = [headers["X-Request-Id"] for headers in (made, keyed, created, renamed)]
    assert [entry["request"] for entry in entries[:4]] == requests
    assert entries[-1]["request"] == revoked["X-Request-Id"]
    assert entries[0]["details"] == {"verification_limit": 2}
    assert entries[2]["details"] == {"name": "results", "type": "s3", "enabled": False}
    assert entries[3]["details"] == {"changed": ["name"]}
    assert secret not in json.dumps(entries)
    assert key not in json.dumps(entries)
    assert GOOD["s3"]["s3_access_key_id"] not in json.dumps(entries)


async def test_the_log_is_filtered_paged_and_followed(caller: Caller) -> None:
    latest = (await caller.ok("GET", "/audit", limit="1"))["latest"]
    assert (await caller.ok("GET", "/audit", after=str(latest))) == {
        "request_info": {"success": True}, "entries": [], "next_cursor": None, "latest": latest,
    }  # fmt: skip
    await caller.ok("POST", "/accounts", {"name": "followed"})
    for number in range(4):
        await caller.ok("PUT", "/accounts/followed", {"destination_limit": number})
    page = await caller.ok("GET", "/audit", after=str(latest), limit="2")
    assert [each["action"] for each in page["entries"]] == ["account_created", "account_changed"]
    rest = await caller.ok("GET", "/audit", after=str(page["latest"]), account="followed")
    assert [each["details"]["destination_limit"] for each in rest["entries"]] == [1, 2, 3]
    assert (await caller.ok("GET", "/audit", after=str(rest["latest"])))["entries"] == []
    assert (await caller.ok("GET", "/audit", after=str(latest), account="nobody"))["latest"] == rest["latest"]
    newest = await caller.ok("GET", "/audit", account="followed", limit="3")
    older = await caller.ok("GET", "/audit", account="followed", limit="3", cursor=str(newest["next_cursor"]))
    assert [each["id"] for each in (*newest["entries"], *older["entries"])] == sorted(
        (each["id"] for each in (*page["entries"], *rest["entries"])), reverse=True
    )
    assert older["next_cursor"] is None
    changed = await caller.ok("GET", "/audit", account="followed", action="account_created")
    assert len(changed["entries"]) == 1
    at = page["entries"][1]["at"]
    assert len((await caller.ok("GET", "/audit", account="followed", **{"from": at}))["entries"]) == 4
    assert len((await caller.ok("GET", "/audit", account="followed", to=at))["entries"]) == 1
    for wrong in ({"after": "x"}, {"cursor": "1", "after": "1"}, {"action": "told"}, {"limit": "101"}, {"who": "me"}):
        status, _ = await caller.refused("GET", "/audit", **wrong)
        assert status == 400, wrong


def test_the_read_only_key_must_be_long_and_another_one() -> None:
    for key, message in (("short", "at least 16"), (OPERATOR, "another key")):
        with pytest.raises(ValidationError, match=message):
            Settings(data=Path(), operator_key=SecretStr(OPERATOR), operator_read_key=SecretStr(key))
