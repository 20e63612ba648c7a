"""The policies that let a key do what is needed here and nothing else, and how such a key is made at each provider."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.domain import prefix
from app.domain.errors import Role
from app.domain.specs import SPECS


@dataclass(frozen=True)
class Policy:
    """`document` is ready to be pasted, None where a provider has nothing that narrows its keys; `steps` say in order
    how the key is made."""

    document: dict[str, Any] | None
    steps: tuple[str, ...]


def policy(place: Mapping[str, str]) -> Policy:
    """The policy for the place that `place` names: a `type`, and parameters of it that are no credentials."""
    roles = SPECS[place["type"]].roles
    return _POLICIES[place["type"]](place, place[roles[Role.BUCKET]], prefix.fixed(place.get(roles[Role.PREFIX], "")))


def _s3(_: Mapping[str, str], bucket: str, fixed: str) -> Policy:
    # A $ begins a variable, and IAM takes no character behind ÿ.
    literal = re.sub(r"[^ -ÿ]", "*", re.sub(r"[*?$]", r"${\g<0>}", fixed))
    return Policy(
        _in_amazons_form(f"arn:aws:s3:::{bucket}/{literal}"),
        (
            "Create a policy with this document (IAM, Policies, Create policy, JSON).",
            "Create a user for Dropoff alone, without access to the console, and attach the policy to it (IAM, Users).",
            "Create an access key for the user (Security credentials, Create access key) and send it as "
            "s3_access_key_id and s3_secret_access_key.",
            "If the bucket encrypts with a KMS key of your own, allow the user kms:GenerateDataKey and kms:Decrypt on "
            "that key too.",
        ),
    )


def _s3compatible(place: Mapping[str, str], bucket: str, fixed: str) -> Policy:
    host = place.get("s3_endpoint", "")
    partition = "aws-cn" if host.endswith(".amazonaws.com.cn") else "aws-us-gov" if ".us-gov-" in host else "aws"
    return Policy(
        _in_amazons_form(f"arn:{partition}:s3:::{bucket}/{_with_wildcards(fixed)}"),
        (
            "Create a user or a key for Dropoff alone in the console of the service.",
            "Attach this policy to it where the service takes policies in Amazon's form, as most do; elsewhere limit "
            "the key to this bucket, and let it write and delete objects.",
            "Send the key as s3_access_key_id and s3_secret_access_key, and the address of the service as s3_endpoint.",
        ),
    )


def _in_amazons_form(under: str) -> dict[str, Any]:
    write = ["s3:PutObject", "s3:AbortMultipartUpload"]
    delete = ["s3:DeleteObject", "s3:DeleteObjectVersion"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": "Deliver", "Effect": "Allow", "Action": write, "Resource": f"{under}*"},
            {
                "Sid": "RemoveOurTestFile",
                "Effect": "Allow",
                "Action": delete,
                "Resource": f"{under}*{prefix.TEST_FILE}*",
            },
        ],
    }


def _gcs(_: Mapping[str, str], bucket: str, fixed: str) -> Policy:
    account = "dropoff@PROJECT.iam.gserviceaccount.com"
    # A text in JSON is one in the language of conditions.
    objects = json.dumps(f"projects/_/buckets/{bucket}/objects/{fixed}", ensure_ascii=False)
    return Policy(
        {
            "role": {
                "title": "Dropoff",
                "stage": "GA",
                "includedPermissions": [
                    "storage.objects.create",
                    "storage.objects.delete",
                    "storage.multipartUploads.create",
                    "storage.multipartUploads.abort",
                    "storage.multipartUploads.listParts",
                ],
            },
            "condition": {"title": "dropoff", "expression": f"resource.name.startsWith({objects})"},
        },
        (
            "Create a service account for Dropoff alone: gcloud iam service-accounts create dropoff --project=PROJECT",
            "Save what stands under role as role.json and create the role. Google asks for the right to delete also "
            "where a file is written over another, so it is not limited to the test files: gcloud iam roles create "
            "dropoff --project=PROJECT --file=role.json",
            "Save what stands under condition as condition.json and give the role to the account, on a bucket with "
            f"uniform bucket-level access: gcloud storage buckets add-iam-policy-binding gs://{bucket} "
            f"--member=serviceAccount:{account} --role=projects/PROJECT/roles/dropoff "
            "--condition-from-file=condition.json",
            f"Create an HMAC key (gcloud storage hmac create {account}) and send it as gcs_access_key and "
            f"gcs_secret_key, or a JSON key (gcloud iam service-accounts keys create key.json --iam-account={account}) "
            "and send the file's content as gcs_service_account_key.",
        ),
    )


def _azure(_: Mapping[str, str], container: str, __: str) -> Policy:
    return Policy(
        None,
        (
            "Create a storage account for Dropoff alone: its keys open everything in it, and no policy narrows them.",
            f"Create the container {container} in it.",
            "Send the account's name as azure_account_name, without .blob.core.windows.net, and one of its two keys as "
            "azure_account_key (Security + networking, Access keys). The account must allow access with keys.",
        ),
    )


def _oss(_: Mapping[str, str], bucket: str, fixed: str) -> Policy:
    under = f"acs:oss:*:*:{bucket}/{_with_wildcards(fixed)}"
    write = ["oss:PutObject", "oss:AbortMultipartUpload", "oss:ListParts"]
    delete = ["oss:DeleteObject", "oss:DeleteObjectVersion"]
    return Policy(
        {
            "Version": "1",
            "Statement": [
                {"Effect": "Allow", "Action": write, "Resource": [f"{under}*"]},
                {"Effect": "Allow", "Action": delete, "Resource": [f"{under}*{prefix.TEST_FILE}*"]},
            ],
        },
        (
            "Create a policy with this document (RAM console, Policies, Create Policy, JSON).",
            "Create a RAM user for Dropoff alone, with a permanent AccessKey and without access to the console, and "
            "grant it the policy.",
            "Send the AccessKey as oss_access_key and oss_secret_key.",
            "If the bucket encrypts with a KMS key of your own, allow the user kms:GenerateDataKey and kms:Decrypt on "
            "that key too.",
        ),
    )


def _with_wildcards(text: str) -> str:
    """`text` where nothing but a wildcard can stand for what means something in a policy: for one character each."""
    return re.sub(r"[*?$]", "?", text)


_POLICIES: dict[str, Callable[[Mapping[str, str], str, str], Policy]] = {
    "s3": _s3,
    "s3compatible": _s3compatible,
    "gcs": _gcs,
    "azure": _azure,
    "oss": _oss,
}
