"""The policies: what they cover, how odd prefixes are written in them, and that the documentation has the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.domain import prefix
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import Role
from app.domain.types import SPECS, TYPES, key_guide, parse_public
from tests.types.every import GOOD
from tests.unit.test_prefix import VALUES

ROOT = Path(__file__).parents[2]
DOCUMENTED = (ROOT / "docs/providers.md").read_text()


def given(kind: str, bucket: str = "BUCKET", path_prefix: str = "PREFIX", **more: str) -> dict[str, str]:
    roles = SPECS[kind].roles
    return {"type": kind, roles[Role.BUCKET]: bucket, roles[Role.PREFIX]: path_prefix, **more}


def resources(document: Any) -> list[str]:
    """What the two statements are about: where files go, and the test files among them."""
    return [resource for statement in document["Statement"] for resource in _listed(statement["Resource"])]


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("kind", SPECS)
def test_the_documentation_has_the_steps_and_the_policy_of_each_type(kind: str) -> None:
    (section,) = re.findall(rf"^## [^\n]*\(`type={kind}`\)\n(.*?)(?=^## )", DOCUMENTED, re.M | re.S)
    told = key_guide(given(kind))
    words = " ".join(section.split())
    assert words.startswith(" ".join(f"{number}. {step}" for number, step in enumerate(told.steps, 1)))
    documents = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", section, re.S)]
    # The same document stands there once.
    before = [key_guide(given(other)).policy for other in TYPES[: TYPES.index(kind)]]
    assert documents == ([] if told.policy is None or told.policy in before else [told.policy])


@pytest.mark.parametrize("kind", SPECS)
def test_the_documentation_lists_the_parameters_of_each_type(kind: str) -> None:
    (row,) = re.findall(rf"^\| `{kind}` \| (.*) \|$", (ROOT / "docs/api.md").read_text(), re.M)
    assert set(re.findall(r"`(\w+)`", row)) == SPECS[kind].parameters()


@pytest.mark.parametrize("kind", SPECS)
def test_the_steps_name_every_credential_of_the_type(kind: str) -> None:
    steps = " ".join(key_guide(given(kind)).steps)
    assert all(name in steps for name in SPECS[kind].credentials())


@pytest.mark.parametrize(
    ("path_prefix", "fixed"),
    [
        ("", ""), ("/", ""), ("a", "a/"), ("/a/b/", "a/b/"), ("%DATE%", ""), ("a/%DATE%/b", "a/"),
        ("a/x-%COLLECTION_ID%", "a/x-"), ("50%/a", "50%/a/"),
    ],
)  # fmt: skip
def test_what_is_fixed_of_a_prefix_is_how_every_key_begins(path_prefix: str, fixed: str) -> None:
    assert prefix.fixed(path_prefix) == fixed
    assert prefix.key(path_prefix, VALUES, "f").startswith(fixed)
    assert [r.partition("BUCKET/")[2] for r in resources(key_guide(given("s3", path_prefix=path_prefix)).policy)] == [
        f"{fixed}*", f"{fixed}*dropoff-verify-*",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "under"),
    [
        ("s3", "arn:aws:s3:::BUCKET/a${*}b${?}c${$}{aws:username}*Ä/"),
        ("s3compatible", "arn:aws:s3:::BUCKET/a?b?c?{aws:username}結Ä/"),
        ("oss", "acs:oss:*:*:BUCKET/a?b?c?{aws:username}結Ä/"),
    ],
)
def test_what_means_something_in_a_policy_is_taken_for_itself(kind: str, under: str) -> None:
    document = key_guide(given(kind, path_prefix="a*b?c${aws:username}結Ä")).policy
    assert resources(document) == [f"{under}*", f"{under}*dropoff-verify-*"]


def test_a_quote_does_not_end_the_text_of_a_condition() -> None:
    document = key_guide(given("gcs", path_prefix='a") || true || ("')).policy
    assert document
    expression = document["condition"]["expression"]
    assert expression == r'resource.name.startsWith("projects/_/buckets/BUCKET/objects/a\") || true || (\"/")'


@pytest.mark.parametrize(
    ("endpoint", "partition"),
    [
        ("https://s3.cn-north-1.amazonaws.com.cn", "aws-cn"),
        ("https://s3.us-gov-west-1.amazonaws.com", "aws-us-gov"),
        ("https://s3.eusc-de-east-1.amazonaws.eu", "aws-eusc"),
        ("https://s3.eusc-de-east-1.amazonaws.eu:8443", "aws-eusc"),
        ("https://minio.example.com", "aws"),
    ],
)
def test_a_bucket_of_another_partition_is_named_as_that_one_does(endpoint: str, partition: str) -> None:
    document = key_guide(given("s3compatible", s3_endpoint=endpoint)).policy
    assert resources(document)[0] == f"arn:{partition}:s3:::BUCKET/PREFIX/*"


def faults(parameters: dict[str, str]) -> list[ParameterFault]:
    with pytest.raises(InvalidParameters) as caught:
        parse_public(parameters, allow_http=False)
    return caught.value.faults


@pytest.mark.parametrize("kind", SPECS)
def test_what_a_policy_is_for_is_all_of_a_type_but_its_credentials_by_the_same_rules(kind: str) -> None:
    public = {name: value for name, value in GOOD[kind].items() if name not in SPECS[kind].credentials()}
    assert parse_public({"type": kind, **public}, allow_http=False) == {"type": kind, **public}
    bucket, path_prefix = (SPECS[kind].roles[role] for role in (Role.BUCKET, Role.PREFIX))
    assert parse_public({"type": kind, bucket: f" {public[bucket]} ", path_prefix: ""}, allow_http=False) == {
        "type": kind, bucket: public[bucket],
    }  # fmt: skip
    told = {fault.parameter: fault.code for fault in faults({"type": kind, path_prefix: "../x"})}
    assert told == {bucket: "missing_parameter", path_prefix: "invalid_parameter"}


@pytest.mark.parametrize("kind", SPECS)
def test_a_credential_is_refused_by_name_and_not_repeated(kind: str) -> None:
    for name in [*SPECS[kind].credentials(), "name", "bogus", "secret\n"]:
        (fault,) = faults({"type": kind, SPECS[kind].roles[Role.BUCKET]: "my-bucket", name: "SENTINEL"})
        assert (fault.parameter, fault.code) == (name.replace("\n", "?"), "unknown_parameter")
        assert "SENTINEL" not in fault.message


@pytest.mark.parametrize("kind", ["", "ftp"])
def test_a_policy_is_for_a_type(kind: str) -> None:
    assert [fault.parameter for fault in faults({"type": kind, "s3_bucket_name": "my-bucket"})] == ["type"]


# What each call of a verification and of a delivery needs, by the providers' own lists.
# https://cloud.google.com/storage/docs/access-control/iam-xml and iam-json
# https://www.alibabacloud.com/help/en/oss/user-guide/ram-policy (the lists of actions)
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html and mpuAndPermissions.html
CALLS: dict[str, dict[str, set[str]]] = {
    "gcs": {
        "upload a file": {"storage.objects.create"},
        "write over a file": {"storage.objects.create", "storage.objects.delete"},
        "delete a file, or a generation of it": {"storage.objects.delete"},
        "begin a multipart upload": {"storage.multipartUploads.create", "storage.objects.create"},
        "upload a part": {"storage.multipartUploads.create", "storage.objects.create"},
        "complete a multipart upload": {
            "storage.multipartUploads.create", "storage.objects.create", "storage.objects.delete"
        },
        "abort a multipart upload": {"storage.multipartUploads.abort"},
        "list the parts of one": {"storage.multipartUploads.listParts"},
    },
    "oss": {
        "upload a file": {"oss:PutObject"},
        "delete a file": {"oss:DeleteObject"},
        "delete a version of it": {"oss:DeleteObjectVersion"},
        "begin, fill or complete a multipart upload": {"oss:PutObject"},
        "abort a multipart upload": {"oss:AbortMultipartUpload"},
        "list the parts of one": {"oss:ListParts"},
    },
    "s3": {
        "upload a file": {"s3:PutObject"},
        "delete a file": {"s3:DeleteObject"},
        "delete a version of it": {"s3:DeleteObjectVersion"},
        "begin, fill or complete a multipart upload": {"s3:PutObject"},
        "abort a multipart upload": {"s3:AbortMultipartUpload"},
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "call"), [(kind, call) for kind, calls in CALLS.items() for call in calls])
def test_a_policy_that_is_attached_is_enough_for_each_call(kind: str, call: str) -> None:
    document = key_guide(given(kind)).policy
    assert document
    if kind == "gcs":
        allowed = set(document["role"]["includedPermissions"])
    else:
        allowed = {action for statement in document["Statement"] for action in statement["Action"]}
    assert CALLS[kind][call] <= allowed


@pytest.mark.parametrize("kind", CALLS)
def test_a_policy_allows_nothing_that_no_call_needs(kind: str) -> None:
    document = key_guide(given(kind)).policy
    assert document
    statements = [document["role"]["includedPermissions"]] if kind == "gcs" else [
        statement["Action"] for statement in document["Statement"]
    ]  # fmt: skip
    assert {action for actions in statements for action in actions} == set().union(*CALLS[kind].values())


def test_of_azure_a_key_opens_everything_and_the_steps_say_so() -> None:
    guide = key_guide(given("azure"))
    assert guide.policy is None and "no policy narrows" in " ".join(guide.steps)
