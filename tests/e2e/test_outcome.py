"""What a client is told when the database fails it in the middle of a call, and how it finds out what became of it."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.store.engine import migrate, open_engine
from tests.servers.postgres import Postgres
from tests.servers.proxy import Link, link
from tests.stack import Answer, Api, Deployment, until

# A create of a destination with this name takes its time to commit; the answer of one with that name is not kept.
SLOW, NOT_KEPT = "slow", "not kept"
TRIGGERS = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN IF NEW.name = '{SLOW}' THEN PERFORM pg_advisory_lock_shared(7); "
    "PERFORM pg_advisory_unlock_shared(7); END IF; RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON destinations DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION slow()",
    'CREATE FUNCTION "full"() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN '
    f"IF NEW.answer LIKE '%{NOT_KEPT}%' THEN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END IF; RETURN NEW; END $$",
    'CREATE TRIGGER "full" BEFORE UPDATE ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION "full"()',
)


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """The database, by a way that nobody cuts."""
    return postgres.new_database()


@pytest.fixture(scope="module")
def cable(direct: str) -> Iterator[Link]:
    port = make_url(direct).port
    assert port
    with link(port) as made:
        yield made


@pytest.fixture(scope="module")
def api(direct: str, cable: Link, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    through = make_url(direct).set(port=cable.port).render_as_string(hide_password=False)
    asyncio.run(prepare(direct))
    # A lease outlasts the hold by five seconds, and the test waits for the end of one.
    times = {"hold_seconds": "3", "verify_seconds": "0.5"}
    with Deployment(tmp_path_factory.mktemp("outcome"), database_url=through, **times) as running:
        yield running.client()


async def prepare(direct: str) -> None:
    async with open_engine(direct) as engine:
        await migrate(engine)
        async with engine.begin() as connection:
            for statement in TRIGGERS:
                await connection.execute(text(statement))


def send(api: Api, name: str) -> Answer:
    """Create a destination called `name`, with an Idempotency-Key of its own; without a verification."""
    body = {
        "name": name, "enabled": False, "type": "s3", "s3_bucket_name": "results",
        "s3_access_key_id": "AKIAIOSFODNN7EXAMPLE", "s3_secret_access_key": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYAA",
    }  # fmt: skip
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"key-of-{name.replace(' ', '-')}"}
    return api.call("POST", "/destinations", json.dumps(body).encode(), headers)


async def test_an_unknown_outcome_is_told_as_such_and_the_same_key_settles_it(
    api: Api, direct: str, cable: Link
) -> None:
    async with open_engine(direct) as engine, engine.connect() as gate:
        await gate.execute(text("SELECT pg_advisory_lock(7)"))
        await gate.commit()
        running = asyncio.create_task(asyncio.to_thread(send, api, SLOW))
        await committing(engine, 1)
        await asyncio.to_thread(cable.cut)
        first = await running
        cable.mend()
        await gate.execute(text("SELECT pg_advisory_unlock(7)"))
        await committing(engine, 0)
    assert (first.status, first.error["code"]) == (503, "outcome_unknown")
    assert "nothing was" not in first.text
    assert first.headers["Retry-After"]
    listed = await asyncio.to_thread(api.list, search_term=SLOW)
    (stored,) = listed.json["destinations"]
    again = await asyncio.to_thread(answered, api, SLOW)
    assert again.json["destination"] == stored
    assert (await asyncio.to_thread(api.list, search_term=SLOW)).json["total_count"] == 1


async def committing(engine: AsyncEngine, count: int) -> None:
    """Return when so many commits are under way, of which one is held."""
    held = "state = 'active' AND query LIKE 'COMMIT%' AND datname = current_database() AND pid <> pg_backend_pid()"
    query = text(f"SELECT count(*) FROM pg_stat_activity WHERE {held}" + " AND wait_event = 'advisory'" * count)
    async with asyncio.timeout(60), engine.connect() as connection:
        while await connection.scalar(query) != count:
            # What one transaction sees of the activity stays as it is.
            await connection.rollback()
            await asyncio.sleep(0.02)


def answered(api: Api, name: str) -> Answer:
    """The answer of the repeat that comes when the lease of the first is over."""
    answers: list[Answer] = []

    def is_over() -> bool:
        answers.append(send(api, name))
        return answers[-1].status != 409

    until(is_over, "the lease is over")
    return answers[-1]


def test_an_answer_that_cannot_be_kept_is_given(api: Api) -> None:
    """It is known: the destination is stored."""
    first = send(api, NOT_KEPT)
    assert first.status == 200
    (stored,) = api.list(search_term=NOT_KEPT).json["destinations"]
    assert stored == first.json["destination"]
