"""The policies that the service gives, attached as they are to keys of servers that enforce them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.domain import prefix as prefixes
from app.domain.faults import Fault
from app.domain.types import key_guide
from app.domain.types.base import Spec
from app.domain.verification import Report
from demo.seaweedfs import SeaweedFS
from tests.contract.conftest import SETTINGS
from tests.faults.verifying import providers, spec_of
from tests.servers.aws import Aws
from tests.servers.gcs import GcsServer
from tests.servers.oss import Identity, Oss
from tests.stack import Answer, Api, up
from tests.types.gcs import LIMITED
from workers.verify import verify

# A prefix; others, that its key may write to; and others yet, that it may not.
SCOPES = [
    ("results/%DATE%", ["results/%COLLECTION_NAME%", "results", "results/deep/er"], ["", "results2", "other/results"]),
    ("results", ["results/%DATE%"], ["", "results2"]),
    ("run-%COLLECTION_ID%/x", ["run-%DATE%", "run-7"], ["", "ran", "other/run-1"]),
    ("", ["", "anything/%DATE%"], []),
]


@pytest.mark.parametrize(("prefix", "inside", "outside"), SCOPES)
def test_a_key_with_amazons_policy_delivers_there_and_nowhere_else(
    service: Api, aws: Aws, prefix: str, inside: list[str], outside: list[str]
) -> None:
    where = {"s3_bucket_name": "results", **({"s3_path_prefix": prefix} if prefix else {})}
    given = service.call("GET", "/destinations/policy", type="s3", **where)
    assert given.status == 200, given.text
    user = f"limited-to-{SCOPES.index((prefix, inside, outside))}"
    key, secret = aws.add_user(user, given.json["policy"])

    def verified(bucket: str, prefix: str) -> Answer:
        body = {"type": "s3", "s3_access_key_id": key, "s3_secret_access_key": secret}
        return service.create({**body, "s3_bucket_name": bucket, "s3_path_prefix": prefix})

    for allowed in (prefix, *inside):
        answer = verified("results", allowed)
        assert answer.status == 200, answer.text
        assert answer.report["warnings"] == []
    for bucket, elsewhere in [*(("results", each) for each in outside), ("other", prefix)]:
        answer = verified(bucket, elsewhere)
        assert (answer.status, answer.error["code"]) == (400, "write_denied"), answer.text
    # What is delivered is not for this key to delete, nor to read.
    client = aws.client(user=user)
    delivered = f"{inside[0].partition('%')[0].rstrip('/')}/a-result".lstrip("/")
    client.put_object(Bucket="results", Key=delivered, Body=b"x")
    for call in (client.delete_object, client.get_object):
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            call(Bucket="results", Key=delivered)
    aws.client().delete_object(Bucket="results", Key=delivered)


def test_a_key_with_the_policy_of_a_compatible_service_delivers_there_and_nowhere_else(tmp_path: Path) -> None:
    prefixes = {"plain": "in/%DATE%", "odd": "what? 50*$/x"}
    documents = {
        name: key_guide({"type": "s3compatible", "s3_bucket_name": "results", "s3_path_prefix": prefix}).policy
        for name, prefix in prefixes.items()
    }
    with SeaweedFS(("results", "other"), policies=documents) as store, up(tmp_path, **SETTINGS) as api:

        def verified(name: str, **changes: str) -> Answer:
            key, secret = store.limited[name]
            body: dict[str, Any] = {
                "type": "s3compatible", "s3_endpoint": store.url, "s3_bucket_name": "results",
                "s3_access_key_id": key, "s3_secret_access_key": secret,
            }  # fmt: skip
            return api.create({**body, **changes})

        for name, prefix in prefixes.items():
            assert verified(name, s3_path_prefix=prefix).status == 200
            for changes in ({"s3_path_prefix": "elsewhere"}, {"s3_bucket_name": "other", "s3_path_prefix": prefix}, {}):
                answer = verified(name, **changes)
                assert (answer.status, answer.error["code"]) == (400, "write_denied"), answer.text
        assert store.objects("results") == []


PREFIXES = {
    "limited-plain": ("in/%DATE%", ["in", "in/deep/er", "in/%COLLECTION_NAME%"], ["", "inner", "other/in"]),
    "limited-token": ("run-%COLLECTION_ID%/x", ["run-7", "run-%DATE%"], ["", "ran-1", "other/run-1"]),
    "limited-odd": (LIMITED["limited-odd"], [LIMITED["limited-odd"]], ["", "a", "b"]),
}
"""A prefix; others, that its key may write to; and others yet, that it may not."""


async def delivers(spec: Spec, **settings: Any) -> Report:
    """What the calls of a verification come to, which are an upload's and a delete's."""
    async with providers(**settings) as provider_for:
        key = prefixes.test_key(spec.path_prefix, datetime.now(UTC))
        return await verify(await provider_for(spec), spec, key, timeout=30, job="job")


@pytest.mark.parametrize("name", PREFIXES)
async def test_an_account_with_googles_policy_delivers_there_and_nowhere_else(gcs: GcsServer, name: str) -> None:
    prefix, inside, outside = PREFIXES[name]
    assert prefix == LIMITED[name]
    places = {"gcs_endpoint": gcs.url, "gcs_token_endpoint": gcs.token_url}

    async def report(prefix: str, bucket: str = "results") -> Report:
        given = {"gcs_service_account_key": gcs.service_account_key(name), "gcs_bucket_name": bucket}
        return await delivers(spec_of("gcs by service account", gcs_path_prefix=prefix, **given), **places)

    before = gcs.objects("results")
    for each in (prefix, *inside):
        answer = await report(each)
        assert answer.ok and not answer.warnings, (each, answer)
    for each, bucket in [*((each, "results") for each in outside), (prefix, "versioned")]:
        answer = await report(each, bucket)
        assert answer.code == Fault.WRITE_DENIED, (each, answer)
    assert gcs.objects("results") == before


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("name", PREFIXES)
async def test_a_user_with_alibabas_policy_delivers_there_and_nowhere_else(
    oss: Oss, name: str, versioned: bool
) -> None:
    prefix, inside, outside = PREFIXES[name]
    bucket = "versioned" if versioned else "results"
    policy = key_guide({"type": "oss", "oss_bucket_name": bucket, "oss_path_prefix": prefix}).policy
    oss.identities["LTAI5tLimited0000000"] = Identity("limited", policy=policy)
    pair = {"oss_access_key": "LTAI5tLimited0000000", "oss_secret_key": "limited", "oss_region_id": "cn-hangzhou"}

    async def report(prefix: str, bucket: str) -> Report:
        return await delivers(
            spec_of("oss", oss_path_prefix=prefix, oss_bucket_name=bucket, **pair), oss_endpoint=oss.url
        )

    before = oss.objects(bucket)
    for each in (prefix, *inside):
        answer = await report(each, bucket)
        assert answer.ok and not answer.warnings, (each, answer)
    for each, where in [*((each, bucket) for each in outside), (prefix, "results" if versioned else "versioned")]:
        answer = await report(each, where)
        assert answer.code == Fault.WRITE_DENIED, (each, answer)
    assert oss.objects(bucket) == before
    # What is delivered is not for this key to delete, nor to read.
    user, key = oss.identities.pop("LTAI5tLimited0000000"), f"{bucket}/{prefixes.fixed(prefix)}a-result"
    assert user.may("oss:PutObject", key)
    assert not user.may("oss:DeleteObject", key) and not user.may("oss:GetObject", key)
