"""Amazon S3 in the tests: moto's server, which checks keys, signatures and IAM policies.

Once it checks them, moto answers an unsigned request with 500. S3 answers an unsigned HEAD of a bucket with 403 and its
region, or with 404; a gateway says that in moto's place.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.servers.gateway import Canned, gateway
from tests.stack import Process, accepts, clean_environment, free_port, until

REGION = "eu-west-1"
BUCKETS = ("results", "versioned", "other", "kept")
USERS = {
    "full": ["s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion"],
    "put-only": ["s3:PutObject"],
    "no-versions": ["s3:PutObject", "s3:DeleteObject"],
    "read-only": ["s3:GetObject"],
    "admin": ["s3:*", "iam:*"],
}


@dataclass
class Aws:
    """A running one; `keys` has the access key id and the secret of each user."""

    url: str
    direct: str = field(repr=False)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def client(self, service: str = "s3", user: str = "admin") -> Any:
        """A boto3 client that signs as `user`; anybody will do until authentication has begun."""
        key, secret = self.keys.get(user, ("AKIABOOTSTRAP0000000", "bootstrap"))
        return boto3.client(
            service, endpoint_url=self.direct, region_name=REGION, aws_access_key_id=key, aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )  # fmt: skip

    def add_user(self, user: str, policy: object) -> tuple[str, str]:
        """The access key id and the secret of a new user with this policy alone."""
        iam = self.client("iam")
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        self.keys[user] = (key["AccessKeyId"], key["SecretAccessKey"])
        return self.keys[user]

    def objects(self, bucket: str) -> list[str]:
        """What is in the bucket, every version of it and every delete marker."""
        listed = self.client().list_object_versions(Bucket=bucket)
        return [entry["Key"] for kind in ("Versions", "DeleteMarkers") for entry in listed.get(kind, [])]


@contextlib.contextmanager
def aws() -> Iterator[Aws]:
    """moto with its users, policies and buckets, authenticating every call from then on."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, gateway(port, _unsigned_head) as address:
        running = Aws(address, f"http://127.0.0.1:{port}")
        calls = _bootstrap(running)
        process = Process(
            (sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)),
            Path(folder) / "moto.log",
            # moto authenticates after so many calls: one too few and a call below fails, one too many and the
            # test of an unknown key does.
            clean_environment(INITIAL_NO_AUTH_ACTION_COUNT=str(len(calls))),
        )
        process.start()
        try:
            until(lambda: accepts(port), f"moto accepts connections\n{process.log}")
            for call in calls:
                call()
            yield running
        finally:
            process.stop()


def _bootstrap(running: Aws) -> list[Callable[[], Any]]:
    """The calls that make users and buckets, one request each."""
    iam, s3 = running.client("iam"), running.client()
    calls: list[Callable[[], Any]] = []

    def keep_key(user: str) -> None:
        key = iam.create_access_key(UserName=user)["AccessKey"]
        running.keys[user] = (key["AccessKeyId"], key["SecretAccessKey"])

    for user, actions in USERS.items():
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        attach = {"UserName": user, "PolicyName": "p", "PolicyDocument": json.dumps(policy)}
        calls += [
            lambda user=user: iam.create_user(UserName=user),
            lambda attach=attach: iam.put_user_policy(**attach),
            lambda user=user: keep_key(user),
        ]
    place = {"LocationConstraint": REGION}
    calls += [
        lambda b=b: s3.create_bucket(Bucket=b, CreateBucketConfiguration=place, ObjectLockEnabledForBucket=b == "kept")
        for b in BUCKETS
    ]
    versioning = {"Status": "Enabled"}
    calls.append(lambda: s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration=versioning))
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    calls.append(lambda: s3.put_object_lock_configuration(Bucket="kept", ObjectLockConfiguration=rule))
    return calls


def _unsigned_head(method: str, path: str, headers: Mapping[str, str]) -> Canned | None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html"""
    if method != "HEAD" or "Authorization" in headers:
        return None
    if path.removeprefix("/") not in BUCKETS:
        return Canned(404, {"x-amz-request-id": "0A49CE4060975EAC"})
    return Canned(403, {"x-amz-request-id": "0A49CE4060975EAC", "x-amz-bucket-region": REGION})
