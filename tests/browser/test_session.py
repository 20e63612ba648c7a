"""The operator's session: what makes it, what it opens and what ends it."""

import re
from pathlib import Path

import pytest
import requests
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from app.jobs.history import History
from app.jobs.queue import connect
from app.jobs.signs import Signs
from app.settings import Settings
from app.web import auth
from app.web.dashboard import DashboardHandlers
from tests.browser.conftest import OPERATOR
from tests.stack import Api, Deployment

PAGES = Path(__file__).parents[2] / "app/web/dashboard"
LOOKING = ("/jobs", "/dashboard/overview", "/metrics")


def sign_in(url: str, key: str = OPERATOR, view: str = "", **headers: str) -> requests.Response:
    form = {"key": key, "view": view}
    return requests.post(f"{url}/dashboard/session", form, headers=headers, allow_redirects=False, timeout=30)


def status(url: str, session: str, method: str = "GET", **headers: str) -> int:
    return requests.request(
        method, url, cookies={auth.SESSION: session}, headers=headers, allow_redirects=False, timeout=30
    ).status_code


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
        assert [status(url + path, session) for path in LOOKING] == [200, 200, 200]
        assert status(f"{url}/destinations", session) == 401
        assert status(f"{url}/jobs", session, Authorization="Bearer wrong") == 401


def test_a_session_that_is_changed_or_over_or_of_another_key_opens_nothing(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    until, _, signature = session.partition(".")
    forged = [f"{int(until) + 1}.{signature}", f"{until}.{signature[:-1]}", until, "", ".", "ä.ä"]
    forged.append(auth.new_session(SecretStr("another-key-of-an-operator")))
    monkeypatch.setattr(auth, "SESSION_SECONDS", -2)
    forged.append(auth.new_session(SecretStr(OPERATOR)))
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
    async with connect(Settings(redis_url=SecretStr(redis_url))) as redis:
        handlers = DashboardHandlers(History(redis), Signs(redis), SecretStr(""))
        app = web.Application()
        app.add_routes(handlers.routes())
        async with TestClient(TestServer(app)) as client:
            asked = await client.get("/dashboard", cookies={auth.SESSION: auth.new_session(SecretStr(""))})
            tried = await client.post("/dashboard/session", data={"key": ""})
            for answer in (asked, tried):
                assert answer.status == 503
                assert "set DROPOFF_OPERATOR_KEY to at least 16" in await answer.text()
                assert "Set-Cookie" not in answer.headers
