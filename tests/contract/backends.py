"""What the contract is checked with, type by type: bodies that are right, and bodies that are wrong in one way."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from demo.seaweedfs import MISSING, SeaweedFS
from tests.conftest import OSS_SECRET
from tests.servers.aws import Aws
from tests.servers.azure import ACCOUNT, KEY, Azure
from tests.servers.gcs import GcsServer
from tests.servers.oss import Oss

Body = Mapping[str, Any]
Verdict = tuple[str, str]
"""A fault's code, and the step that failed."""

VERDICTS: dict[str, Verdict] = {
    "wrong_secret": ("secret_mismatch", "upload"),
    "unknown_key": ("access_key_unknown", "upload"),
    "missing_bucket": ("bucket_not_found", "upload"),
    "write_refused": ("write_denied", "upload"),
    "delete_refused": ("delete_denied", "delete"),
    "dead": ("connection_refused", "connect"),
    "silent": ("timeout", "upload"),
    "html": ("not_a_storage_endpoint", "upload"),
}


@dataclass(frozen=True)
class Backend:
    """One way to store. `right` is accepted; each of `changes`, by the contract's case, makes it wrong.

    `blames` is the parameter that a case's refusal points at, `verdicts` what differs from VERDICTS, `endpoint` the
    parameter that has the host's address where a type has one, `secrets` what no answer may contain, and `objects`
    everything that there is in its buckets.
    """

    right: Body
    changes: Mapping[str, Body]
    blames: Mapping[str, str]
    objects: Callable[[], list[str]]
    secrets: tuple[str, ...]
    endpoint: str | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    def body(self, case: str) -> dict[str, Any]:
        return {**self.right, **self.changes[case]}

    def at(self, url: str) -> dict[str, Any]:
        """The right body for a host at `url`, where the body says it; elsewhere the service's settings do."""
        return {**self.right, **({self.endpoint: url} if self.endpoint else {})}

    def verdict(self, case: str) -> Verdict:
        return self.verdicts.get(case, VERDICTS[case])


def _s3(key: tuple[str, str]) -> Body:
    return {"s3_access_key_id": key[0], "s3_secret_access_key": key[1]}


def s3(aws: Aws) -> Backend:
    keys = aws.keys
    return Backend(
        right={"type": "s3", "s3_bucket_name": "results", **_s3(keys["full"])},
        changes={
            "wrong_secret": {"s3_secret_access_key": keys["admin"][1]},
            "unknown_key": {"s3_access_key_id": "AKIANOBODYKNOWSTHIS0"},
            "missing_bucket": {"s3_bucket_name": "there-is-none"},
            "write_refused": _s3(keys["read-only"]),
            "delete_refused": _s3(keys["put-only"]),
        },
        blames={
            "wrong_secret": "s3_secret_access_key",
            "unknown_key": "s3_access_key_id",
            "missing_bucket": "s3_bucket_name",
            "write_refused": "s3_path_prefix",
            "delete_refused": "s3_access_key_id",
        },
        objects=lambda: [name for bucket in ("results", "versioned", "other") for name in aws.objects(bucket)],
        secrets=tuple(text for key in keys.values() for text in key),
        # The bucket's region is looked for first.
        verdicts={
            "missing_bucket": ("bucket_not_found", "locate"),
            "dead": ("connection_refused", "locate"),
            "silent": ("timeout", "locate"),
        },
    )


def s3compatible(seaweedfs: SeaweedFS, url: str) -> Backend:
    return Backend(
        right={
            "type": "s3compatible",
            "s3_endpoint": url,
            "s3_bucket_name": "results",
            "s3_path_prefix": "deep/%DATE%/in",
            **_s3(seaweedfs.customer),
        },
        changes={
            "wrong_secret": {"s3_secret_access_key": seaweedfs.admin.secret},
            "unknown_key": {"s3_access_key_id": "AKIANOBODYKNOWSTHIS0"},
            "missing_bucket": {"s3_bucket_name": MISSING},
            "write_refused": _s3(seaweedfs.reader),
            "delete_refused": _s3(seaweedfs.put_only),
        },
        blames={
            "wrong_secret": "s3_secret_access_key",
            "unknown_key": "s3_access_key_id",
            "missing_bucket": "s3_bucket_name",
            "write_refused": "s3_path_prefix",
            "delete_refused": "s3_access_key_id",
        },
        objects=lambda: _everything(seaweedfs),
        secrets=_secrets(seaweedfs),
        endpoint="s3_endpoint",
    )


def gcs_by_hmac(seaweedfs: SeaweedFS) -> Backend:
    def hmac(key: tuple[str, str]) -> Body:
        return {"gcs_access_key": key[0], "gcs_secret_key": key[1]}

    return Backend(
        right={"type": "gcs", "gcs_bucket_name": "results", **hmac(seaweedfs.customer)},
        changes={
            "wrong_secret": {"gcs_secret_key": seaweedfs.admin.secret},
            "unknown_key": {"gcs_access_key": "GOOG" + "A" * 20},
            "missing_bucket": {"gcs_bucket_name": MISSING},
            "write_refused": hmac(seaweedfs.reader),
            "delete_refused": hmac(seaweedfs.put_only),
        },
        blames={
            "wrong_secret": "gcs_secret_key",
            "unknown_key": "gcs_access_key",
            "missing_bucket": "gcs_bucket_name",
            "write_refused": "gcs_path_prefix",
            "delete_refused": "gcs_access_key",
        },
        objects=lambda: _everything(seaweedfs),
        secrets=_secrets(seaweedfs),
    )


def gcs_by_service_account(gcs: GcsServer) -> Backend:
    def account(name: str, **changes: str) -> Body:
        return {"gcs_service_account_key": json.dumps({**gcs.service_account_key(name), **changes})}

    key = "gcs_service_account_key"
    return Backend(
        right={"type": "gcs", "gcs_bucket_name": "results", "gcs_path_prefix": "sub folder", **account("owner")},
        changes={
            "wrong_secret": account("owner", private_key=gcs.service_account_key("writer")["private_key"]),
            "unknown_key": account("owner", client_email="nobody@nowhere.iam.gserviceaccount.com"),
            "missing_bucket": {"gcs_bucket_name": "there-is-none"},
            "write_refused": account("reader"),
            "delete_refused": account("writer"),
        },
        blames={
            "wrong_secret": key,
            "unknown_key": key,
            "missing_bucket": "gcs_bucket_name",
            "write_refused": "gcs_path_prefix",
            "delete_refused": key,
        },
        objects=lambda: [name for bucket in ("results", "versioned", "kept") for name in gcs.generations(bucket)],
        secrets=tuple(gcs.service_account_key(name)["private_key"].split("\n")[5] for name in ("owner", "writer")),
    )


def azure(azure: Azure) -> Backend:
    return Backend(
        right={
            "type": "azure",
            "azure_account_name": ACCOUNT,
            "azure_account_key": KEY,
            "azure_container_name": "results",
            "azure_path_prefix": "sub/ordner ä",
        },
        changes={
            "wrong_secret": {"azure_account_key": base64.b64encode(b"another" * 9 + b"!").decode()},
            "unknown_key": {"azure_account_name": "nobody"},
            "missing_bucket": {"azure_container_name": "there-is-none"},
            "write_refused": {"azure_container_name": "write-refused"},
            "delete_refused": {"azure_container_name": "delete-refused"},
        },
        blames={
            "wrong_secret": "azure_account_key",
            "unknown_key": "azure_account_key",
            "missing_bucket": "azure_container_name",
            "write_refused": "azure_path_prefix",
            "delete_refused": "azure_account_key",
        },
        objects=lambda: [
            name for c in ("results", "write-refused", "delete-refused", "delete-kept") for name in azure.objects(c)
        ],
        secrets=(KEY,),
    )


def oss(oss: Oss) -> Backend:
    return Backend(
        right={
            "type": "oss",
            "oss_access_key": "LTAI5tOwner000000000",
            "oss_secret_key": OSS_SECRET,
            "oss_bucket_name": "results",
            "oss_region_id": "oss-cn-hangzhou",
            "oss_path_prefix": "%COLLECTION_NAME%/x",
        },
        changes={
            "wrong_secret": {"oss_secret_key": "another-secret"},
            "unknown_key": {"oss_access_key": "LTAI5tNobody00000000"},
            "missing_bucket": {"oss_bucket_name": "there-is-none"},
            "write_refused": {"oss_access_key": "LTAI5tReadOnly000000"},
            "delete_refused": {"oss_access_key": "LTAI5tPutOnly0000000"},
        },
        blames={
            "wrong_secret": "oss_secret_key",
            "unknown_key": "oss_access_key",
            "missing_bucket": "oss_bucket_name",
            "write_refused": "oss_path_prefix",
            "delete_refused": "oss_access_key",
        },
        objects=lambda: [name for bucket in oss.buckets for name in oss.objects(bucket)],
        secrets=(OSS_SECRET, *oss.identities),
    )


def _everything(seaweedfs: SeaweedFS) -> list[str]:
    return [name for bucket in seaweedfs.buckets for name in seaweedfs.objects(bucket)]


def _secrets(seaweedfs: SeaweedFS) -> tuple[str, ...]:
    keys = (seaweedfs.admin, seaweedfs.customer, seaweedfs.put_only, seaweedfs.reader)
    return tuple(text for key in keys for text in key)
