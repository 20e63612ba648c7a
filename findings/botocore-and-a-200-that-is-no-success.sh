#!/usr/bin/env bash
# What botocore makes of a 200 with a body: success, an outage, or a refusal that is tried again
#
# Expected: 200 to an upload means that it is stored; a refusal such as AccessDenied is not tried again.
#
# What happens: botocore reads the body of a 200, since S3 can report a late failure in one. If it is XML, the call
# has succeeded, whatever the XML says: the start page of a web server, without an ETag, is a stored object. If it is
# not (HTML as most pages are, JSON, a word), the 200 becomes "500 Internal Server Error" and the upload is sent
# again. An error document of S3 in a 200 is a 500 too, and tried again whatever its code is.
#
# Why it matters here: people give the address of a console or of a proxy as their endpoint. Only a page that happens
# not to be XML fails, and then it is said that the store is down. So an upload counts only with an ETag, and a page
# is recognised before botocore sees it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq boto3==1.40.61 botocore==1.40.61

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ATTEMPTS = 2
BODIES = {
    "nothing": b"",
    "a page that is XML": b"<html><body>Welcome</body></html>",
    "a page that is not": b"<!DOCTYPE html><html><body>Welcome<br></body></html>",
    "JSON": b'{"status": "ok"}',
    "an error of S3": b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
}
EXPECTED = {
    "nothing": ("success, ETag None", 1),
    "a page that is XML": ("success, ETag None", 1),
    "a page that is not": ("500 500", ATTEMPTS),
    "JSON": ("500 500", ATTEMPTS),
    "an error of S3": ("500 AccessDenied", ATTEMPTS),
}


class Server(BaseHTTPRequestHandler):
    """Answers each PUT with 200 and the body that is named by its key."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = list(BODIES.values())[int(self.path.rpartition("/")[2])]
        self.server.puts += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def outcome(s3, number):
    server.puts = 0
    try:
        answer = s3.put_object(Bucket="bucket", Key=str(number), Body=b"body")
        result = f"success, ETag {answer.get('ETag')}"
    except ClientError as error:
        result = f"{error.response['ResponseMetadata']['HTTPStatusCode']} {error.response['Error']['Code']}"
    return result, server.puts


for name in ("boto3", "botocore"):
    print(name, version(name))
server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{server.server_port}", region_name="us-east-1",
    aws_access_key_id="key", aws_secret_access_key="secret",
    config=Config(retries={"total_max_attempts": ATTEMPTS}),
)
seen = {name: outcome(client, number) for number, name in enumerate(BODIES)}
server.shutdown()
for name, (result, puts) in seen.items():
    print(f"200 with {name:19} -> {result:19} after {puts} of at most {ATTEMPTS} requests")
if seen != EXPECTED:
    sys.exit("It behaves otherwise now.")
PYTHON
