"""What strangers may ask without a key, and how often the operator's may be guessed."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from pydantic import SecretStr

from app.domain.errors import TooManyGuesses, Unauthorized
from app.messages.clock import Clock
from app.monitor.health import Health
from app.store.accounts import Accounts
from app.store.engine import migrate, open_engine
from app.web import auth, health
from app.web.auth import (
    Access,
    Operator,
    account_of,
    caller_of,
    customer_or_operator,
    new_session,
    require_operator,
    session_of,
)
from app.web.health import HealthHandlers
from tests.stack import patient

KEY, READER = "the-key-of-the-operator", "the-key-of-a-dashboard"
GUESSES = 3


@dataclass
class Standing:
    """A clock that stands, so that no guess comes back because the machine was slow."""

    at: float = 1000.0

    def monotonic(self) -> float:
        return self.at

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Standing:
    standing = Standing()
    monkeypatch.setattr(auth, "time", standing)
    return standing


@pytest.fixture
def operator(clock: Standing, monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setattr(auth, "GUESSES", float(GUESSES))
    return Operator(SecretStr(KEY))


def request(key: str = "", session: str = "") -> web.Request:
    cookie = {"Cookie": f"{auth.SESSION}={session}"} if session else {}
    return make_mocked_request(
        "GET", "/jobs", headers={**cookie, **({"Authorization": f"Bearer {key}"} if key else {})}
    )


async def test_guesses_are_slowed_for_all_who_try_together(operator: Operator, clock: Standing) -> None:
    assert operator.access(KEY)
    assert [operator.access(f"guess-{n}") for n in range(GUESSES)] == [None] * GUESSES
    for key in ("another-guess", KEY):
        with pytest.raises(TooManyGuesses) as caught:
            operator.access(key)
        assert caught.value.retry_after == 1
    require_operator(request(session=new_session(operator)), operator)
    clock.at += 1
    assert operator.access(KEY)
    assert not operator.access("one-guess"), "a second has passed, which is one more"
    with pytest.raises(TooManyGuesses):
        operator.access(KEY)


async def test_the_same_wrong_key_again_and_again_hinders_nobody(operator: Operator) -> None:
    """As a program sends it whose key was withdrawn."""
    for _ in range(10 * GUESSES):
        assert not operator.access("an-old-key")
    assert operator.access(KEY)


@pytest.fixture
async def accounts(tmp_path: Path) -> AsyncIterator[Accounts]:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as engine:
        await migrate(engine)
        opened = Accounts(engine)
        await opened.ensure_key("a", "key-of-an-account")
        yield opened


async def test_an_accounts_key_is_no_guess(operator: Operator, accounts: Accounts) -> None:
    for _ in range(3 * GUESSES):
        assert (await caller_of(request("key-of-an-account"), accounts, operator)).account == 1
    assert (await caller_of(request(KEY), accounts, operator)).account is None
    for number in range(GUESSES):
        with pytest.raises(Unauthorized):
            await caller_of(request(f"guess-{number}"), accounts, operator)
    with pytest.raises(TooManyGuesses):
        await caller_of(request(KEY), accounts, operator)
    assert (await caller_of(request("key-of-an-account"), accounts, operator)).account == 1


async def test_customers_with_keys_of_before_keep_nobody_out(operator: Operator, accounts: Accounts) -> None:
    """As on the day on which they came from somewhere else, and their keys are not imported yet."""
    for number in range(3 * GUESSES):
        for wanted in (account_of, customer_or_operator):
            with pytest.raises(Unauthorized, match="No account"):
                await wanted(request(f"an-old-key-{number}"), accounts, operator)
    assert (await customer_or_operator(request("key-of-an-account"), accounts, operator)).account == 1
    assert (await caller_of(request(KEY), accounts, operator)).account is None
    with pytest.raises(Unauthorized):
        await customer_or_operator(request(KEY), accounts, operator)


async def test_a_customers_call_is_looked_at_by_the_operator_with_each_of_its_keys(accounts: Accounts) -> None:
    both = Operator(SecretStr(KEY), SecretStr(READER))
    for key in (KEY, READER):
        assert (await customer_or_operator(request(key), accounts, both)).account is None
    for session in (new_session(both), new_session(both, Access.READ)):
        assert (await customer_or_operator(request(session=session), accounts, both)).account is None
    for nobody in (request(), request("wrong"), request(session="1.2"), request("wrong", new_session(both))):
        with pytest.raises(Unauthorized):
            await customer_or_operator(nobody, accounts, both)


def test_a_session_ends_with_the_key_that_made_it_and_is_worth_no_more() -> None:
    both, reader = Operator(SecretStr(KEY), SecretStr(READER)), Operator(SecretStr(""), SecretStr(READER))
    sessions = {access: request(session=new_session(both, access)) for access in Access}
    assert {access: session_of(each, both) for access, each in sessions.items()} == {each: each for each in Access}
    assert [session_of(each, reader) for each in sessions.values()] == [None, Access.READ]
    assert session_of(sessions[Access.READ], Operator(SecretStr(KEY))) is None
    assert session_of(sessions[Access.FULL], Operator(SecretStr(""))) is None


async def test_who_has_no_key_is_told_of_readiness_what_was_found_a_moment_ago(
    redis_url: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    async def database() -> None:
        nonlocal looked
        looked += 1

    async with patient(redis_url) as redis:
        handlers = HealthHandlers(Health(database, redis, Clock()), (), operator)
        app = web.Application()
        app.add_routes(handlers.routes())
        async with TestClient(TestServer(app)) as client:

            async def ready(key: str = "") -> set[str]:
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                async with client.get("/readyz", headers=headers) as answer:
                    assert answer.status == 503, "no worker is there"
                    return set(await answer.json())

            monkeypatch.setattr(health, "KEPT_SECONDS", 60.0)
            assert await asyncio.gather(*(ready() for _ in range(50))) == [{"status"}] * 50
            assert looked == 1
            assert [await ready(KEY) for _ in range(2)] == [{"status", "checks"}] * 2
            assert looked == 3, "the operator is told what is so now"
            monkeypatch.setattr(health, "KEPT_SECONDS", 0.0)
            await ready()
            assert looked == 4
            for number in range(GUESSES + 2):
                assert await ready(f"guess-{number}") == {"status"}
            assert await ready(KEY) == {"status"}, "a balancer is answered all the same"
