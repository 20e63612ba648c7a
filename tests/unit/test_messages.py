"""What passes Redis between an API process and a worker: whole, sealed, and looked at for its shape alone."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.types import parse, restore
from app.domain.types.base import Spec
from app.domain.verification import Location
from app.messages.job import Job
from app.messages.sealing import NotSealedByUs, Sealer, new_key
from tests.types.every import STORAGES


def job_of(spec: Spec) -> Job:
    now = time.time()
    return Job(
        id="1", account=7, destination="0123456789AB", spec=spec, location=Location(region="eu-west-1"), key="k",
        submitted=now, start_by=now + 14, deadline=now + 29, reply_to="replies",
    )  # fmt: skip


@pytest.mark.parametrize("name", STORAGES)
def test_a_job_comes_out_of_its_seal_as_it_went_in(name: str) -> None:
    sealer, job = Sealer((new_key(),)), job_of(parse(STORAGES[name].good, allow_http=False))
    opened = Job.model_validate(sealer.open(sealer.seal(job.content())))
    assert opened == job
    assert opened.spec.with_credentials() == job.spec.with_credentials()


@pytest.mark.parametrize("name", STORAGES)
def test_a_job_shows_no_secret(name: str) -> None:
    spec = parse(STORAGES[name].good, allow_http=False)
    for text in (repr(job_of(spec)), str(job_of(spec)), repr(restore(spec.with_credentials()))):
        assert not [secret for secret in spec.secrets().values() if secret in text]


def test_what_a_workers_own_settings_dislike_is_no_reason_not_to_answer() -> None:
    """The rules were checked where the customer's parameters were parsed, by the settings that hold there."""
    endpoint = {"s3_endpoint": "http://127.0.0.1:9000"}
    spec = parse({**STORAGES["s3compatible"].good, **endpoint}, allow_http=True)
    assert Job.model_validate(job_of(spec).content()).spec == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": None}, {"spec": "text"}, {"spec": {}}, {"spec": {"type": "none"}}, {"spec": {"type": ["s3"]}},
        {"spec": {"type": "s3"}}, {"spec": {"type": "s3", "s3_bucket_name": 1}}, {"start_by": "later"},
        {"account": None},
    ],
)  # fmt: skip
def test_what_has_not_the_shape_of_a_job_is_none(changes: dict[str, Any]) -> None:
    content = job_of(parse(STORAGES["s3"].good, allow_http=False)).content()
    with pytest.raises(ValidationError):
        Job.model_validate({**content, **changes})


def test_what_we_did_not_seal_is_not_opened() -> None:
    for sealed in (b"", b"\xff", "ÿ", "text", Sealer((new_key(),)).seal({"ok": True})):
        with pytest.raises(NotSealedByUs):
            Sealer((new_key(),)).open(sealed)
