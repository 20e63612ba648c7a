"""Accounts and keys on a real database, also where several change them at once."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.account import Account, AccountQuery, Key
from app.domain.destination import Destination, Query
from app.domain.errors import AccountExists, AccountInUse, AccountNotFound, KeyInUse, KeyNotFound, Unauthorized
from app.store.accounts import Accounts, key_id
from app.store.destinations import DestinationRepository
from tests.stack import account_of
from tests.unit.test_audit import destination


@pytest.fixture
def accounts(shared_engine: AsyncEngine) -> Accounts:
    """Each test makes accounts with names of its own."""
    return Accounts(shared_engine)


async def at_once(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """What each call returned or raised."""
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_accounts_are_listed_by_name_and_found_in_any_case(accounts: Accounts) -> None:
    for name in ("listed beta", "listed alpha", "listed Ärger", "listed 50%_off"):
        await accounts.create(name, {})
    await accounts.delete("listed beta")
    found = [each.name for each in (await accounts.page(AccountQuery("LISTED"))).accounts]
    assert (set(found), len(found)) == ({"listed alpha", "listed Ärger", "listed 50%_off"}, 3)
    for term, names in (("d ALP", ["alpha"]), ("d Är", ["Ärger"]), ("%_", ["50%_off"]), ("d_a", []), ("d beta", [])):
        page = await accounts.page(AccountQuery(term))
        assert ([each.name.removeprefix("listed ") for each in page.accounts], page.matching) == (names, len(names))
    past = await accounts.page(AccountQuery("listed", page=2))
    assert (past.accounts, past.matching) == ((), 3)
    for name in ("nobody", "\0", "a" * 300, "\ud800", "listed beta"):
        with pytest.raises(AccountNotFound):
            await accounts.get(name)


async def test_an_account_keeps_what_is_its_own_until_it_is_taken_back(accounts: Accounts) -> None:
    await accounts.create("neighbour", {"destination_limit": 9})
    await accounts.create("keeping", {"destination_limit": 1, "delete_policy": "lenient"})
    changed = await accounts.change("keeping", {"verification_limit": 2, "delete_policy": None})
    assert (changed.destination_limit, changed.verification_limit, changed.delete_policy) == (1, 2, None)
    assert await accounts.get("keeping") == changed
    assert (await accounts.get("neighbour")).destination_limit == 9


async def test_of_two_that_make_the_same_one_is_told_so(accounts: Accounts) -> None:
    made = await at_once(*(accounts.create("one", {}) for _ in range(5)))
    assert [type(each) for each in made].count(Account) == 1
    assert [type(each) for each in made].count(AccountExists) == 4
    await accounts.create("two", {})
    both = ("one", "two")
    keys = await at_once(*(accounts.add_key(each, "a-key-they-share", None, imported=True) for each in both))
    assert sorted(type(each).__name__ for each in keys) == [Key.__name__, KeyInUse.__name__]
    (has,) = [name for name in both if await accounts.keys_of(name)]
    assert await account_of(accounts, "a-key-they-share") == (await accounts.get(has)).id


async def test_a_key_is_revoked_in_its_account_alone(accounts: Accounts) -> None:
    for name in ("mine", "theirs"):
        await accounts.create(name, {})
        await accounts.add_key(name, f"key-{name}", "k", imported=False)
    mine, theirs = key_id("key-mine"), key_id("key-theirs")
    with pytest.raises(KeyNotFound):
        await accounts.revoke_key("theirs", mine)
    await accounts.revoke_key("mine", mine)
    assert (await account_of(accounts, "key-mine"), await accounts.keys_of("mine")) == (None, [])
    assert await account_of(accounts, "key-theirs") is not None
    for wrong in (mine, "", "%", "\0", theirs[:-1], theirs.upper()):
        with pytest.raises(KeyNotFound):
            await accounts.revoke_key("theirs", wrong)


async def test_an_account_goes_or_a_destination_comes_and_never_both(
    shared_engine: AsyncEngine, accounts: Accounts
) -> None:
    repository = DestinationRepository(shared_engine)
    for number in range(8):
        account = (await accounts.create(f"going {number}", {})).id
        gone, come = await at_once(
            accounts.delete(f"going {number}"), repository.add(destination(account, number), "sealed", 5)
        )
        there = (await repository.page(account, Query())).matching
        assert (type(gone), type(come), there) in (
            (type(None), Unauthorized, 0),
            (AccountInUse, Destination, 1),
        )


async def test_the_page_of_all_accounts_has_everybodys_in_one_order(
    shared_engine: AsyncEngine, accounts: Accounts
) -> None:
    repository, now = DestinationRepository(shared_engine), datetime.now(UTC)
    numbers = [(await accounts.create(name, {"destination_limit": 7})).id for name in ("even", "odd")]
    for number in range(12):
        made = destination(numbers[number % 2], 100 + number)
        await repository.add(Destination(**{**vars(made), "created_at": now, "name": "everybody's"}), "sealed", 50)
    pages = [await repository.page(None, Query("EVERYBODY", page=each)) for each in (1, 2, 3)]
    assert [each.id for page in pages for each in page.destinations] == [f"{100 + each:012X}" for each in range(12)]
    assert {page.matching for page in pages} == {12}
    assert (await repository.page(None, Query())).matching >= 12
    mine = await repository.page(numbers[0], Query())
    assert (mine.matching, mine.used, mine.limit) == (6, 6, 7)
    assert (await repository.get(None, f"{103:012X}")).account == numbers[1]
