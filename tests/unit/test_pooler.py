"""A pooler between the product and PostgreSQL, which gives each transaction another connection."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import Unavailable
from app.store.accounts import Accounts
from app.store.destinations import DestinationRepository
from app.store.engine import migrate, open_engine, require_schema
from tests.servers.pgbouncer import CONNECTIONS, PgBouncer
from tests.servers.postgres import Postgres
from tests.stack import account_of
from tests.unit.test_outcome import CHANGED, STORED

PROCESSES, CLIENTS, CALLS = 3, 8, 10


@pytest.fixture(scope="module")
def pooler(postgres: Postgres) -> Iterator[PgBouncer]:
    with PgBouncer(postgres.new_database()) as running:
        yield running


@pytest.fixture
async def engines(pooler: PgBouncer) -> AsyncIterator[list[AsyncEngine]]:
    """As of several processes: more connections than the pooler has to the server."""
    assert PROCESSES > CONNECTIONS
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_engine(pooler.url)) for _ in range(PROCESSES)]
        await migrate(opened[0])
        await asyncio.gather(*map(require_schema, opened))
        yield opened


async def test_several_processes_work_behind_a_pooler_in_transaction_mode(engines: list[AsyncEngine]) -> None:
    await Accounts(engines[0]).ensure_key("a", "key")

    async def work(engine: AsyncEngine) -> None:
        accounts, repository = Accounts(engine), DestinationRepository(engine)
        for _ in range(CALLS):
            account = await account_of(accounts, "key")
            assert account
            new = replace(STORED, id=secrets.token_hex(6).upper(), account=account)
            assert await repository.add(new, "sealed", 1000) == new
            after = replace(CHANGED, id=new.id, account=account)
            await repository.change(after, "sealed", expected_version=1, verified=False)
            assert await repository.get(account, new.id) == after
            await repository.delete(account, new.id)

    await asyncio.gather(*(work(engines[n % PROCESSES]) for n in range(CLIENTS)))
    account = await account_of(Accounts(engines[0]), "key")
    assert account
    assert (await DestinationRepository(engines[0]).standing(account)).used == 0


async def test_a_pooler_that_ends_is_an_outage(postgres: Postgres) -> None:
    with PgBouncer(postgres.new_database()) as running:
        url = running.url
        async with open_engine(url) as engine:
            await migrate(engine)
            await Accounts(engine).ensure_key("a", "key")
            running.__exit__(None, None, None)
            with pytest.raises(Unavailable):
                await account_of(Accounts(engine), "key")
