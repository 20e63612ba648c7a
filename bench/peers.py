"""What the product is compared with, each a program of its own that prints what it measured as JSON.

    python -m bench.peers bare|sdk|script ENDPOINT COUNT [IN_FLIGHT]

`bare` is a PUT and a DELETE on one connection, without an SDK; `sdk` is the same by a boto3 client made for each, as
the first draft of such a product would; `script` is one asyncio process with one shared aioboto3 client, which is the
least that can be done with it.
"""

import asyncio
import http.client
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

BODY = b"x" * 150
REGION = "us-east-1"


def bare(endpoint: str) -> Callable[[int], None]:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)

    def call(number: int) -> None:
        for method, body in (("PUT", BODY), ("DELETE", None)):
            connection.request(method, f"/results/{number}", body)
            connection.getresponse().read()

    return call


def sdk(endpoint: str) -> Callable[[int], None]:
    import boto3
    from botocore.config import Config

    config = Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"})

    def call(number: int) -> None:
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=f"key{number}",
            aws_secret_access_key="secret", config=config,
        )  # fmt: skip
        client.put_object(Bucket="results", Key=str(number), Body=BODY)
        client.delete_object(Bucket="results", Key=str(number))

    return call


def one_at_a_time(call: Callable[[int], None], count: int) -> dict[str, Any]:
    held = []
    for number in range(count + 2):
        began = time.perf_counter()
        call(number)
        held.append((time.perf_counter() - began) * 1000)
    # The first ones load what the others find loaded.
    return {"ms": statistics.median(held[2:])}


async def script(endpoint: str, count: int, in_flight: int) -> dict[str, Any]:
    import aioboto3
    from aiobotocore.config import AioConfig

    config = AioConfig(
        max_pool_connections=in_flight, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"},
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
    )  # fmt: skip
    session = aioboto3.Session(aws_access_key_id="key", aws_secret_access_key="secret", region_name=REGION)
    async with session.client("s3", endpoint_url=endpoint, config=config) as client:

        async def one(number: int) -> None:
            await client.put_object(Bucket="results", Key=str(number), Body=BODY)
            await client.delete_object(Bucket="results", Key=str(number))

        async def one_after_another(numbers: Any) -> None:
            for number in numbers:
                await one(number)

        await one(0)
        began, spent, numbers = time.perf_counter(), time.process_time(), iter(range(1, count + 1))
        await asyncio.gather(*(one_after_another(numbers) for _ in range(in_flight)))
        return {
            "rate": count / (time.perf_counter() - began),
            "cpu_ms": (time.process_time() - spent) / count * 1000,
        }


if __name__ == "__main__":
    kind, at, number, *rest = sys.argv[1:]
    if kind == "script":
        found = asyncio.run(script(at, int(number), int(rest[0])))
    else:
        found = one_at_a_time({"bare": bare, "sdk": sdk}[kind](at), int(number))
    print(json.dumps(found))
