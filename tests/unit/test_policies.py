"""The policies: what they cover, how odd prefixes are written in them, and that the documentation has the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.domain import prefix
from app.domain.errors import InvalidParameters, ParameterFault, Role
from app.domain.policies import policy
from app.domain.specs import SPECS, place
from tests.unit.test_prefix import VALUES
from tests.unit.test_specs import GOOD

DOCUMENTED = (Path(__file__).parents[2] / "docs/providers.md").read_text()


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
    told = policy(given(kind))
    words = " ".join(section.split())
    assert words.startswith(" ".join(f"{number}. {step}" for number, step in enumerate(told.steps, 1)))
    documents = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", section, re.S)]
    # The same document stands there once.
    same = kind == "s3compatible" and told.document == policy(given("s3")).document
    assert documents == ([] if same or told.document is None else [told.document])


@pytest.mark.parametrize("kind", SPECS)
def test_the_steps_name_every_credential_of_the_type(kind: str) -> None:
    steps = " ".join(policy(given(kind)).steps)
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
    assert [r.partition("BUCKET/")[2] for r in resources(policy(given("s3", path_prefix=path_prefix)).document)] == [
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
    document = policy(given(kind, path_prefix="a*b?c${aws:username}結Ä")).document
    assert resources(document) == [f"{under}*", f"{under}*dropoff-verify-*"]


def test_a_quote_does_not_end_the_text_of_a_condition() -> None:
    document = policy(given("gcs", path_prefix='a") || true || ("')).document
    assert document
    expression = document["condition"]["expression"]
    assert expression == r'resource.name.startsWith("projects/_/buckets/BUCKET/objects/a\") || true || (\"/")'


@pytest.mark.parametrize(
    ("endpoint", "partition"),
    [
        ("https://s3.cn-north-1.amazonaws.com.cn", "aws-cn"),
        ("https://s3.us-gov-west-1.amazonaws.com", "aws-us-gov"),
        ("https://minio.example.com", "aws"),
    ],
)
def test_a_bucket_of_another_partition_is_named_as_that_one_does(endpoint: str, partition: str) -> None:
    document = policy(given("s3compatible", s3_endpoint=endpoint)).document
    assert resources(document)[0] == f"arn:{partition}:s3:::BUCKET/PREFIX/*"


def faults(parameters: dict[str, str]) -> list[ParameterFault]:
    with pytest.raises(InvalidParameters) as caught:
        place(parameters, allow_http=False)
    return caught.value.faults


@pytest.mark.parametrize("kind", SPECS)
def test_a_place_is_all_of_a_type_but_its_credentials_by_the_same_rules(kind: str) -> None:
    public = {name: value for name, value in GOOD[kind].items() if name not in SPECS[kind].credentials()}
    assert place({"type": kind, **public}, allow_http=False) == {"type": kind, **public}
    bucket, path_prefix = (SPECS[kind].roles[role] for role in (Role.BUCKET, Role.PREFIX))
    assert place({"type": kind, bucket: f" {public[bucket]} ", path_prefix: ""}, allow_http=False) == {
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
