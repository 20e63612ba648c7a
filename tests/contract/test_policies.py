"""The policies that the service gives, attached as they are to keys of servers that enforce them."""

from pathlib import Path
from typing import Any

import pytest

from app.domain.policies import policy
from demo.seaweedfs import SeaweedFS
from tests.contract.conftest import SETTINGS
from tests.servers.aws import Aws
from tests.stack import Answer, Api, up

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
        name: policy({"type": "s3compatible", "s3_bucket_name": "results", "s3_path_prefix": prefix}).document
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
