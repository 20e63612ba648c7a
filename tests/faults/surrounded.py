"""Verifies a good body of every way to store at its provider's own address, in a process of its own, and prints the
reports, one a line. Every name leads to the port of this machine that is its argument."""

import asyncio
import json
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from app.settings import Settings
from tests.faults.verifying import KEY, LOOPBACK
from tests.types.every import STORAGES
from workers.egress.asynchronous import guarded_session
from workers.storage import registry
from workers.verify import verify

WITHIN = 30.0
OLD = "My_Legacy_Bucket"
"""A name that cannot be part of a host's, as some have in us-east-1."""


class Here(AbstractResolver):
    """Finds every name at one port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=self._port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def main(port: int) -> None:
    def find(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    # What blocks looks its names up by the system's resolver.
    socket.getaddrinfo = find
    registry.guarded_session = partial(guarded_session, resolver=Here(port))
    async with AsyncExitStack() as stack:
        provider_for = await registry.open_providers(stack, Settings(egress_allow=LOOPBACK))
        specs = {name: storage.spec() for name, storage in STORAGES.items()}
        for name, spec in (*specs.items(), ("an old bucket", STORAGES["s3"].spec(s3_bucket_name=OLD))):
            report = await verify(await provider_for(spec), spec, KEY, timeout=WITHIN, job="job")
            print(json.dumps({"name": name, **report.as_answer()}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
