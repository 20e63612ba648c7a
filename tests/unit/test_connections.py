"""DROPOFF_REDIS_URL: what may stand there, and what is said of the rest."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import RedisError

from app.messages.connections import Address, BadRedisUrl, ClusterMode, parse_redis_url, refuse_cluster
from tests.servers.proxy import link
from tests.stack import REDIS_PASSWORD, free_port, patient, redis_server

SECRET = "SENTINEL"

GOOD = {
    "redis://127.0.0.1": Address("redis", (("127.0.0.1", 6379),)),
    "redis://h:7000/3": Address("redis", (("h", 7000),), database=3),
    "redis://:p%40ss%2F@h/": Address("redis", (("h", 6379),), password="p@ss/"),
    "redis://me:p@[::1]:7000": Address("redis", (("::1", 7000),), username="me", password="p"),
    "rediss://h/0?ssl_cert_reqs=required": Address("rediss", (("h", 6379),)),
    "unix:///run/redis.sock": Address("unix", path="/run/redis.sock"),
    "unix://me:p@/run/redis.sock?db=2": Address(
        "unix", path="/run/redis.sock", database=2, username="me", password="p"
    ),
    "sentinel://me:p@a,b:7000/1?master=m&sentinel_user=s&sentinel_password=q": Address(
        "sentinel", (("a", 26379), ("b", 7000)), database=1, username="me", password="p", master="m",
        sentinel_username="s", sentinel_password="q",
    ),
    "sentinels://a/?master=m": Address("sentinels", (("a", 26379),), master="m"),
}  # fmt: skip

BAD = {
    f"http://:{SECRET}@h": "must begin with",
    f":{SECRET}": "must begin with",
    f"redis://:{SECRET}/x@h": "must name a HOST",
    f"redis://:{SECRET}#@h": "%23",
    "redis://": "must name a HOST",
    f"redis://:{SECRET}@h:0": "must name a HOST",
    f"redis://:{SECRET}@h:seven": "must name a HOST",
    f"redis://:{SECRET}@a,b": "must name a HOST",
    f"redis://:{SECRET}@[::1": "is no URL",
    f"redis://:{SECRET}@h/zero": "number of a database",
    f"redis://:{SECRET}@h?socket_timeout=1": "does not know",
    f"redis://h?{SECRET}@h": "does not know",
    f"redis://:{SECRET}@h?ssl_ca_certs=/ca": "rediss://",
    f"rediss://:{SECRET}@h?ssl_cert_reqs=none": "may not weaken",
    f"rediss://:{SECRET}@h?ssl_cert_reqs=CERT_NONE": "may not weaken",
    f"rediss://:{SECRET}@h?ssl_cert_reqs=CERT_REQUIRED": "ssl_cert_reqs=required",
    f"rediss://:{SECRET}@h?ssl_check_hostname=false": "does not know",
    f"rediss://:{SECRET}@h?ssl_ca_certs=/is/not/there": "cannot be read",
    f"sentinel://:{SECRET}@h": "?master=NAME",
    f"sentinel://:{SECRET}@h?master=m&master=n": "twice",
    f"unix://:{SECRET}@h/run/redis.sock": "socket's path",
    f"unix://:{SECRET}@": "socket's path",
}


@pytest.mark.parametrize("url", GOOD)
def test_what_may_stand_there(url: str) -> None:
    assert parse_redis_url(url) == GOOD[url]


@pytest.mark.parametrize("url", BAD)
def test_what_may_not_is_told_on_one_line_without_a_password(url: str) -> None:
    with pytest.raises(BadRedisUrl) as refused:
        parse_redis_url(url)
    said = str(refused.value)
    assert said.startswith("DROPOFF_REDIS_URL ")
    assert BAD[url] in said
    assert SECRET not in said
    assert "\n" not in said


def test_no_password_is_shown() -> None:
    address = parse_redis_url(f"sentinel://me:{SECRET}@a,b/1?master=m&sentinel_password={SECRET}")
    assert address.shown == "sentinel://a:26379,b:26379/1"
    assert SECRET not in repr(address)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("connections"), "--requirepass", REDIS_PASSWORD) as url:
        yield url.replace("://", f"://:{REDIS_PASSWORD}@")


async def test_who_finds_all_connections_in_use_waits_for_one(redis_url: str) -> None:
    async with parse_redis_url(redis_url).connect(connections=2, wait_seconds=60, seconds=60) as client:
        waiting = [client.blpop(["nothing"], timeout=1) for _ in range(2)]
        answers = await asyncio.gather(*waiting, *(client.ping() for _ in range(50)))
    assert answers[2:] == [True] * 50


async def test_who_waits_too_long_for_one_is_refused(redis_url: str) -> None:
    address = parse_redis_url(redis_url)
    async with address.connect(connections=1, wait_seconds=0.2, seconds=60) as client, patient(redis_url) as other:
        held = asyncio.create_task(client.blpop(["awaited"], timeout=60))
        async with asyncio.timeout(30):
            while "blpop" not in [each["cmd"] for each in await other.client_list()]:
                await asyncio.sleep(0.01)
        with pytest.raises(RedisError):
            await client.ping()
        await other.rpush("awaited", "x")
        assert await held


async def test_a_socket_is_an_address_too(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--unixsocket", str(tmp_path / "s")):
        async with patient(f"unix://{tmp_path}/s?db=1") as client:
            assert await client.ping()
        pool = parse_redis_url(f"unix://{tmp_path}/s").blocking_pool(seconds=30)
        assert redis.Redis(connection_pool=pool).ping()
        pool.disconnect()


async def test_tls_is_verified_by_both_clients(
    redis_url: str, authority: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = parse_redis_url(redis_url).hosts[0][1]
    with link(port, certificate) as tls:
        url = f"rediss://:{REDIS_PASSWORD}@127.0.0.1:{tls.port}/0"
        assert await answers(f"{url}?ssl_ca_certs={authority}") == (True, True)
        # One that is not known, by anybody.
        assert await answers(url) == (False, False)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert await answers(url) == (True, True)
        # A name for which the certificate is not.
        assert await answers(url.replace("127.0.0.1", "127.0.0.2")) == (False, False)


async def answers(url: str) -> tuple[bool, bool]:
    """Whether Redis answers the asyncio client, and the blocking one."""
    address = parse_redis_url(url)
    async with patient(url) as client:
        try:
            first = bool(await client.ping())
        except (RedisError, OSError):
            first = False
    pool = address.blocking_pool(seconds=30, connect_seconds=30)
    try:
        second = bool(await asyncio.to_thread(redis.Redis(connection_pool=pool).ping))
    except (RedisError, OSError):
        second = False
    pool.disconnect()
    return first, second


async def test_cluster_mode_is_refused_and_one_that_does_not_answer_passes(redis_url: str, tmp_path: Path) -> None:
    # Else it would listen on a port that is 10,000 more than its own, which may be none.
    bus = ("--cluster-port", str(free_port()))
    with redis_server(tmp_path, "--cluster-enabled", "yes", *bus) as clustered:
        async with patient(clustered) as client:
            with pytest.raises(ClusterMode, match="cluster mode"):
                await refuse_cluster(client)
    for url in (redis_url, "redis://127.0.0.1:1/0"):
        async with patient(url) as client:
            await refuse_cluster(client)
