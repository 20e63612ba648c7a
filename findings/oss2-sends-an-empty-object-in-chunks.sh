#!/usr/bin/env bash
# oss2 announces the length of every body but the empty one, which it sends in chunks
#
# Expected: bytes have a length, so that a PUT of no bytes has `Content-Length: 0`, as that of one byte has 1.
#
# What happens: with the checksum that oss2 compares by default, the bytes are wrapped in something that is read as it
# is sent. requests takes a length of 0 for an unknown one, and sends `Transfer-Encoding: chunked`. Without the checksum
# (`enable_crc=False`) the same call has `Content-Length: 0`. OSS itself takes both.
#
# Why it matters here: a result file may be empty. A server or proxy between that reads bodies by their Content-Length
# alone leaves the last chunk on the connection and takes it for the next request: the empty file is stored, and it is
# the *next* call on that connection, of another file, that fails, and only where it comes before the server has closed
# it. The OSS double of our own tests was such a server.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq oss2==2.19.1 requests==2.34.2 setuptools

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import oss2
import requests
from requests.adapters import BaseAdapter


class Answering(BaseAdapter):
    """Answers a request in place of a server, and keeps it."""

    def send(self, request, **_):
        self.request = request
        request.body and list(request.body)
        answer = requests.Response()
        answer.status_code, answer.request, answer._content = 200, request, b""
        answer.headers.update({"ETag": '"e"', "x-oss-request-id": "1"})
        return answer

    def close(self):
        pass


def sent(body, **options):
    """How the request tells the length of its body."""
    session, adapter = oss2.Session(), Answering()
    session.session.mount("http://", adapter)
    bucket = oss2.Bucket(
        oss2.AuthV4("key", "secret"), "http://storage.invalid", "bucket", session=session, region="cn-hangzhou", **options
    )
    bucket.put_object("k", body)
    headers = adapter.request.headers
    return {name: headers[name] for name in ("Content-Length", "Transfer-Encoding") if name in headers}


EXPECTED = [
    ("one byte", sent(b"x"), {"Content-Length": "1"}),
    ("no byte", sent(b""), {"Transfer-Encoding": "chunked"}),
    ("one byte, enable_crc=False", sent(b"x", enable_crc=False), {"Content-Length": "1"}),
    ("no byte, enable_crc=False", sent(b"", enable_crc=False), {"Content-Length": "0"}),
]
for name in ("oss2", "requests"):
    print(name, version(name))
for name, seen, _ in EXPECTED:
    print(f"{name:27} {seen}")
if any(seen != expected for _, seen, expected in EXPECTED):
    sys.exit("It behaves otherwise now.")
PYTHON
