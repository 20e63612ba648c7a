#!/usr/bin/env bash
# One put_object of boto3 is another request over https than over http: there a checksum leaves the body unsigned
#
# Expected: the scheme changes the transport alone; and a call with one more integrity header has everything else that
# a call without it has.
#
# What happens: over http the body is always signed. Over https it is signed only where there is no checksum beside
# it: with Content-MD5 the request says UNSIGNED-PAYLOAD, and with the checksum that boto3 adds by default it becomes
# a chunked one with a trailer (STREAMING-UNSIGNED-PAYLOAD-TRAILER). `payload_signing_enabled` has both for
# Content-MD5.
#
# Why it matters here: buckets with object lock demand a checksum, some bucket policies deny UNSIGNED-PAYLOAD (403
# AccessDenied, as if a right were missing), and several services of the S3 dialect refuse the trailer. A test against
# a server on http sees nothing of all that, so the tests of storage run over TLS as well.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq boto3==1.40.61 botocore==1.40.61

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import base64
import hashlib
import sys
from importlib.metadata import version

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

BODY = b"body"
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
SIGNED = hashlib.sha256(BODY).hexdigest()


class Empty:
    def stream(self):
        return iter(())


def sent(scheme, checksums, options, **parameters):
    """What the request says of its body. It is answered before it is sent."""
    seen = {}

    def answer(request, **_):
        seen.update((name.lower(), value) for name, value in request.headers.items())
        return AWSResponse(request.url, 200, {"ETag": '"e"'}, Empty())

    config = Config(signature_version="s3v4", request_checksum_calculation=checksums, s3=options)
    client = boto3.client(
        "s3",
        endpoint_url=f"{scheme}://storage.invalid",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=config,
    )
    client.meta.events.register("before-send.s3.PutObject", answer)
    client.put_object(Bucket="bucket", Key="key", Body=BODY, **parameters)
    said = seen["x-amz-content-sha256"]
    said = said.decode() if isinstance(said, bytes) else said
    return "signed" if said == SIGNED else said


CALLS = {
    "no checksum": ("when_required", {}, {}),
    "Content-MD5": ("when_required", {}, {"ContentMD5": MD5}),
    "boto3's default": ("when_supported", {}, {}),
    "Content-MD5, payload_signing_enabled": ("when_required", {"payload_signing_enabled": True}, {"ContentMD5": MD5}),
}
EXPECTED = {
    "no checksum": ("signed", "signed"),
    "Content-MD5": ("signed", "UNSIGNED-PAYLOAD"),
    "boto3's default": ("signed", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
    "Content-MD5, payload_signing_enabled": ("signed", "signed"),
}
for name in ("boto3", "botocore"):
    print(name, version(name))
seen = {}
for name, (checksums, options, parameters) in CALLS.items():
    seen[name] = tuple(sent(scheme, checksums, options, **parameters) for scheme in ("http", "https"))
    print(f"{name:37} http: {seen[name][0]}   https: {seen[name][1]}")
if seen != EXPECTED:
    sys.exit("It behaves otherwise now.")
PYTHON
