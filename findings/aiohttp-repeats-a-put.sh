#!/usr/bin/env bash
# aiobotocore with retries switched off sends one put_object as two PUTs
#
# Expected: with `total_max_attempts` 1 a call is one request, which is answered or fails.
#
# What happens: below the SDK, aiohttp repeats a GET, HEAD, OPTIONS, TRACE, PUT or DELETE once by itself when a
# connection that was kept alive ends before its answer. RFC 9112 allows that for methods that are idempotent. The
# call returns 200 with `RetryAttempts` 0, and nothing tells of the first request, which the store may have carried
# out. aiohttp has no public option for it. (aio-libs/aiohttp#7363)
#
# Why it matters here: PUT is idempotent in HTTP and not in a bucket that keeps versions. Two versions are made there
# and the id of one is returned: when that one is deleted, the other is the current version again. A verification that
# deletes what it was told of would leave a file in the customer's bucket and report that none is left.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq aiobotocore==2.25.1 botocore==1.40.61 aiohttp==3.14.5

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
from importlib.metadata import version

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

puts = []


async def bucket_with_versions(reader, writer):
    """Stores each PUT as a version. It ends the connection of the second one where the answer should come."""
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode().splitlines():
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            if "expect" in headers:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await reader.readexactly(int(headers.get("content-length", 0)))
            puts.append(head[0].split()[1])
            if len(puts) == 2:
                break
            answer = f'HTTP/1.1 200 OK\r\nETag: "e"\r\nx-amz-version-id: v{len(puts)}\r\nContent-Length: 0\r\n\r\n'
            writer.write(answer.encode())
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(bucket_with_versions, "127.0.0.1", 0)
    async with get_session().create_client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=AioConfig(retries={"total_max_attempts": 1}),
    ) as s3:
        await s3.put_object(Bucket="bucket", Key="first", Body=b"1")
        return await s3.put_object(Bucket="bucket", Key="second", Body=b"2")


for name in ("aiobotocore", "aiohttp"):
    print(name, version(name))
answer = asyncio.run(main())
told = (answer["ResponseMetadata"]["RetryAttempts"], answer["VersionId"])
print(f"put_object of 'second' returned version {told[1]} with RetryAttempts {told[0]}")
print(f"PUTs that the store received: {puts}")
if puts != ["/bucket/first", "/bucket/second", "/bucket/second"] or told != (0, "v3"):
    sys.exit("It behaves otherwise now.")
PYTHON
