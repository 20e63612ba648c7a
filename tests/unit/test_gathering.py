"""What many ask of Redis in one turn of the loop goes together, and each gets its own answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from app.messages.connections import parse_redis_url
from tests.stack import patient


@pytest.fixture
async def gathering(redis_url: str) -> AsyncIterator["Redis[str]"]:
    client = patient(redis_url, gather=True)
    yield client
    await client.aclose()


async def test_one_turns_commands_share_a_connection_and_each_has_its_answer(gathering: "Redis[str]") -> None:
    script = gathering.register_script("return ARGV[1]")
    await gathering.client_setname("gathering")
    answers = await asyncio.gather(
        gathering.set("gathered", "1"),
        gathering.get("gathered"),
        gathering.lpush("gathered", "x"),
        script(args=["two"]),
        gathering.mget(["gathered"]),
        return_exceptions=True,
    )
    assert [answers[n] for n in (0, 1, 3, 4)] == [True, "1", "two", ["1"]]
    assert isinstance(answers[2], ResponseError)
    ours = [client for client in await gathering.client_list() if client["name"] == "gathering"]
    assert len(ours) == 1


async def test_who_goes_away_takes_nothing_of_the_others_along(gathering: "Redis[str]") -> None:
    gone, stays = (asyncio.ensure_future(gathering.set(name, "1")) for name in ("gone", "stays"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays is True
    assert await gathering.get("stays") == "1"


async def test_an_outage_is_told_to_everybody_who_waits() -> None:
    lost = parse_redis_url("redis://127.0.0.1:1/0").connect(gather=True)
    errors = await asyncio.gather(*(lost.get(str(n)) for n in range(3)), return_exceptions=True)
    assert [isinstance(error, RedisConnectionError) for error in errors] == [True] * 3
    await lost.aclose()
