"""The operator's session: what makes it, what it opens and what ends it."""

import re
from pathlib import Path

import pytest
import requests
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from app.domain.delivery import DeliveryState
from app.domain.destination import Destination
from app.domain.errors import DestinationNotFound
from app.messages.clock import Clock
from app.messages.connections import connect
from app.monitor.heartbeats import Heartbeats
from app.monitor.history import History
from app.web import auth
from app.web.dashboard import DashboardHandlers
from tests.browser.conftest import OPERATOR, READER
from tests.stack import Api, Deployment

PAGES = Path(__file__).parents[2] / "app/web/dashboard"
LOOKING = (
    "/jobs", "/dashboard/overview", "/dashboard/destinations/4F2A6C19D0E7", "/metrics", "/destinations", "/accounts",
    "/audit",
)  # fmt: skip


def sign_in(url: str, key: str = OPERATOR, view: str = "", **headers: str) -> requests.Response:
    form = {"key": key, "view": view}
    return requests.post(f"{url}/dashboard/session", form, headers=headers, allow_redirects=False, timeout=30)


def status(url: str, session: str, method: str = "GET", **headers: str) -> int:
    return requests.request(
        method, url, cookies={auth.SESSION: session}, headers=headers, allow_redirects=False, timeout=30
    ).status_code


class Nothing:
    """Has no deliveries and no destinations."""

    async def counts(self) -> dict[DeliveryState, int]:
        return {}

    async def failing(self, most: int) -> tuple[list[tuple[Destination, str]], int]:
        return [], 0

    async def get(self, account: int | None, destination: str) -> Destination:
        raise DestinationNotFound(destination)


@pytest.fixture(scope="module")
def session(deployment: Deployment) -> str:
    return str(sign_in(deployment.url).cookies[auth.SESSION])


def test_the_right_key_gives_a_cookie_that_scripts_and_other_sites_cannot_use(deployment: Deployment) -> None:
    answer = sign_in(deployment.url, view="state=failed&search=a%20b")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard?state=failed&search=a%20b")
    parts = set(answer.headers["Set-Cookie"].split("; "))
    assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={auth.SESSION_SECONDS}"} <= parts
    assert "Secure" not in parts
    assert OPERATOR not in str(answer.headers)


def test_behind_https_the_cookie_is_secure(deployment: Deployment) -> None:
    answer = sign_in(deployment.url, **{"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["Set-Cookie"].split("; ")


@pytest.mark.parametrize("key", ["", "wrong", OPERATOR[:-1], "ключ"])
def test_a_wrong_key_gives_none_and_is_not_repeated(deployment: Deployment, key: str) -> None:
    answer = sign_in(deployment.url, key, view='"><b>')
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)
    assert "This is not the operator&#x27;s key" in answer.text
    assert not key or f'value="{key}"' not in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize("view", ["\r\nSet-Cookie: a=b", "//elsewhere.example/", "https://elsewhere.example"])
def test_signing_in_leads_to_the_dashboard_only(deployment: Deployment, view: str) -> None:
    answer = sign_in(deployment.url, view=view)
    assert answer.headers["Location"].startswith("/dashboard?")
    assert answer.cookies.keys() == [auth.SESSION]


def test_a_session_opens_on_every_front_end_what_is_only_looked_at(deployment: Deployment, session: str) -> None:
    for url in deployment.urls:
        assert {path: status(url + path, session) for path in LOOKING} == dict.fromkeys(LOOKING, 200)
        assert status(f"{url}/destinations/policy?type=s3", session) == 401, "it is a customer's"
        assert status(f"{url}/jobs", session, Authorization="Bearer wrong") == 401


@pytest.mark.usefixtures("customer")
def test_the_operator_names_an_account_where_a_list_takes_one(deployment: Deployment) -> None:
    operator = Api(deployment.url, OPERATOR)
    for path in ("/jobs", "/deliveries"):
        for account, expected in (("northwind", 200), ("1", 200), ("99", 200), ("nobody", 400), ("", 200)):
            answer = operator.call("GET", path, account=account)
            assert answer.status == expected, answer.text
        assert "must be the name of an account" in operator.call("GET", path, account="nobody", limit="0").text
        assert "limit must be" in operator.call("GET", path, account="nobody", limit="0").text
    only = operator.call("GET", "/jobs", account="northwind").json["jobs"]
    assert {each["account_name"] for each in only} <= {"northwind"}


BUTTONS = (
    "/collections/none/results/1/redeliver?account=northwind",
    "/destinations/000000000000/redeliver?account=northwind",
    "/destinations/000000000000/verify?account=northwind",
    "/leftovers/none/retry",
)
OTHERS = (
    ("POST", "/collections/none/results?account=northwind"), ("PUT", "/collections/none?account=northwind"),
    ("DELETE", "/collections/none?account=northwind"), ("POST", "/destinations"),
    ("DELETE", "/destinations/000000000000"), ("DELETE", "/leftovers/none"), ("POST", "/notifications/retry"),
)  # fmt: skip


@pytest.mark.usefixtures("customer")
def test_a_page_elsewhere_can_press_no_button_and_ours_those_that_it_has(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a browser sends unasked is the cookie; the token is in our page, which no other origin can read."""
    page = requests.get(f"{deployment.url}/dashboard", cookies={auth.SESSION: session}, timeout=30).text
    (token,) = re.findall('name="page-token" content="([0-9a-f]{64})"', page)
    monkeypatch.setattr(auth, "SESSION_SECONDS", 60)
    of_another = auth.new_session(auth.Operator(SecretStr(OPERATOR)))
    for path in BUTTONS:
        for url in deployment.urls:
            assert status(url + path, session, "POST") == 401
            assert status(url + path, session, "POST", **{auth.PAGE_TOKEN: "0" * 64}) == 401
            assert status(url + path, session, "POST", **{auth.PAGE_TOKEN: token}) == 404, "there is no such thing"
        assert status(deployment.url + path, "", "POST", **{auth.PAGE_TOKEN: token}) == 401
        assert status(deployment.url + path, of_another, "POST", **{auth.PAGE_TOKEN: token}) == 401
    for method, path in OTHERS:
        assert status(deployment.url + path, session, method, **{auth.PAGE_TOKEN: token}) == 401


@pytest.mark.usefixtures("customer")
def test_who_signed_in_with_the_key_that_only_reads_has_no_button(deployment: Deployment) -> None:
    looking = sign_in(deployment.url, READER).cookies[auth.SESSION]
    page = requests.get(f"{deployment.url}/dashboard", cookies={auth.SESSION: looking}, timeout=30).text
    assert 'name="page-token" content=""' in page
    assert status(f"{deployment.url}/dashboard/overview", looking) == 200
    for path in BUTTONS:
        for token in ({}, {auth.PAGE_TOKEN: ""}, {auth.PAGE_TOKEN: "0" * 64}):
            assert status(deployment.url + path, looking, "POST", **token) == 401
        by_key = {"Authorization": f"Bearer {READER}"}
        assert status(deployment.url + path, "", "POST", **by_key) == 403


def test_a_session_that_is_changed_or_over_or_of_another_key_opens_nothing(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    until, _, signature = session.partition(".")
    forged = [f"{int(until) + 1}.{signature}", f"{until}.{signature[:-1]}", until, "", ".", "ä.ä"]
    forged.append(auth.new_session(auth.Operator(SecretStr("another-key-of-an-operator"))))
    monkeypatch.setattr(auth, "SESSION_SECONDS", -2)
    forged.append(auth.new_session(auth.Operator(SecretStr(OPERATOR))))
    for each in forged:
        cookie = {"Cookie": f"{auth.SESSION}={each}".encode()}
        assert requests.get(f"{deployment.url}/jobs", headers=cookie, timeout=30).status_code == 401
    assert status(f"{deployment.url}/jobs", session) == 200


def test_a_customers_key_counts_for_more_than_a_session(deployment: Deployment, customer: Api, session: str) -> None:
    key = {"Authorization": f"Bearer {customer.key}"}
    assert status(f"{deployment.url}/jobs?account=99", session) == 200
    assert status(f"{deployment.url}/jobs?account=99", session, **key) == 400
    assert status(f"{deployment.url}/metrics", session, **key) == 401


def test_signing_out_ends_the_session_in_this_browser_only(deployment: Deployment, session: str) -> None:
    url = f"{deployment.url}/dashboard/session/end"
    ended = requests.post(url, cookies={auth.SESSION: session}, allow_redirects=False, timeout=30)
    assert (ended.status_code, "Max-Age=0" in ended.headers["Set-Cookie"]) == (303, True)
    # What another site's form brings about: no cookie comes with it.
    assert "Set-Cookie" not in requests.post(url, allow_redirects=False, timeout=30).headers


def test_the_key_is_in_no_log(deployment: Deployment) -> None:
    sign_in(deployment.url)
    sign_in(deployment.url, "SENTINEL-WRONG-KEY")
    assert "/dashboard/session" in deployment.logs()
    assert OPERATOR not in deployment.logs()
    assert "SENTINEL" not in deployment.logs()


@pytest.mark.parametrize("path", ["", "/dashboard.css", "/dashboard.js"])
def test_what_a_browser_gets_runs_nothing_from_elsewhere(deployment: Deployment, session: str, path: str) -> None:
    answer = requests.get(f"{deployment.url}/dashboard{path}", cookies={auth.SESSION: session}, timeout=30)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"""(src|href|action)=["']?(https?:)?//|url\(|import """, answer.text)


def test_no_other_file_is_given_away(deployment: Deployment, session: str) -> None:
    for path in ("__init__.py", "index.html", "..%2f..%2f..%2fpyproject.toml", "dashboardxjs"):
        assert status(f"{deployment.url}/dashboard/{path}", session) == 404


async def test_without_an_operators_key_the_page_says_what_to_set(redis_url: str) -> None:
    clock = Clock()
    async with connect(redis_url) as redis:
        nobody = auth.Operator(SecretStr(""))
        history, heartbeats = History(redis, clock), Heartbeats(redis, clock)
        handlers = DashboardHandlers(history, heartbeats, Nothing(), Nothing(), clock, nobody)
        app = web.Application()
        app.add_routes(handlers.routes())
        async with TestClient(TestServer(app)) as client:
            asked = await client.get("/dashboard", cookies={auth.SESSION: auth.new_session(nobody)})
            tried = await client.post("/dashboard/session", data={"key": ""})
            for answer in (asked, tried):
                assert answer.status == 503
                assert "set DROPOFF_OPERATOR_KEY to at least 16" in await answer.text()
                assert "Set-Cookie" not in answer.headers
