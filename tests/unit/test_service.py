"""The service's own rules, where no queue is needed to see them."""

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.domain.destination import Destination
from app.domain.errors import CredentialsUnreadable, InvalidParameters
from app.domain.specs import parse
from app.domain.specs.base import Spec
from app.domain.verification import NOTHING_FOUND, Found, Report
from app.service import Destinations, new_id
from app.store.engine import migrate, open_engine
from app.store.repository import Repository
from app.store.sealing import Sealer, new_key
from tests.unit.test_specs import GOOD


class NeverAsked:
    """No verification may be asked for here."""

    async def verify(
        self, account: int, spec: Spec, key: str, destination: str | None = None, *, found: Found
    ) -> Report:
        raise AssertionError("a verification was asked for")

    def stored(self, job: str, destination: str) -> None:
        raise AssertionError("nothing was verified")


@pytest.fixture
async def repository(tmp_path: Path) -> AsyncIterator[Repository]:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as engine:
        await migrate(engine)
        yield Repository(engine)


async def test_credentials_that_no_key_opens_hinder_no_rename_and_can_be_sent_again(repository: Repository) -> None:
    await repository.ensure_key("a", "key")
    account = await repository.account_of("key")
    assert account
    before, after = (
        Destinations(repository, NeverAsked(), Sealer((new_key(),)), limit=9, allow_http=False) for _ in range(2)
    )
    created = await before.create(account, {"name": "n", "enabled": False, "type": "azure", **GOOD["azure"]}, new_id())
    renamed = await after.update(account, created.id, {"name": "m"})
    assert (renamed.name, renamed.version) == ("m", 2)
    with pytest.raises(InvalidParameters) as caught:
        await after.update(account, created.id, {"azure_container_name": "another"})
    assert [fault.parameter for fault in caught.value.faults] == ["azure_account_key"]
    key = base64.b64encode(b"n" * 64).decode()
    with pytest.raises(AssertionError, match="verification"):
        await after.update(account, created.id, {"azure_account_key": key})


async def test_credentials_that_no_key_opens_cannot_be_verified_and_that_is_said(repository: Repository) -> None:
    await repository.ensure_key("a", "key")
    account = await repository.account_of("key")
    assert account
    before, after = (
        Destinations(repository, NeverAsked(), Sealer((new_key(),)), limit=9, allow_http=False) for _ in range(2)
    )
    created = await before.create(account, {"name": "n", "enabled": False, "type": "azure", **GOOD["azure"]}, new_id())
    with pytest.raises(CredentialsUnreadable, match=f"send them again with PUT /destinations/{created.id}"):
        await after.verify_existing(account, created.id)
    assert await repository.get(account, created.id) == created


async def test_a_rule_that_came_later_hinders_no_disabling(repository: Repository) -> None:
    """An endpoint of http was allowed once and is not any more."""
    await repository.ensure_key("a", "key")
    account = await repository.account_of("key")
    assert account
    sealer = Sealer((new_key(),))
    then, now = (Destinations(repository, NeverAsked(), sealer, limit=9, allow_http=allow) for allow in (True, False))
    body = {**GOOD["s3compatible"], "s3_endpoint": "http://127.0.0.1:9000"}
    created = await then.create(account, {"name": "n", "enabled": False, "type": "s3compatible", **body}, new_id())
    assert (await now.update(account, created.id, {"enabled": False, "name": "m"})).name == "m"
    with pytest.raises(InvalidParameters):
        await now.update(account, created.id, {"enabled": True})


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"s3_secret_access_key": "another", "s3_path_prefix": "elsewhere"}, True),
        ({"s3_bucket_name": "another"}, False),
        ({"s3_endpoint": "https://fra1.digitaloceanspaces.com"}, False),
        ({"s3_region": "eu-west-1"}, False),
        ({"type": "s3", **GOOD["s3"], "s3_endpoint": None}, False),
    ],
)
def test_what_was_found_holds_for_the_same_place_only(changes: dict[str, Any], holds: bool) -> None:
    body = {"type": "s3compatible", **GOOD["s3compatible"], "s3_bucket_name": "my-bucket"}
    report = Report(
        ok=True, message="", provider="s3compatible", host="h", object="o", duration_ms=1, job="j", steps=(),
        region="ams3", addressing="path",
    )  # fmt: skip
    now = datetime.now(UTC)
    parameters = parse(body, allow_http=False).public()
    current = Destination("1", 1, "n", "s3compatible", True, parameters, 1, now, now, now, report)
    spec = parse({**body, **changes}, allow_http=False)
    assert current.found_of(spec) == (Found(region="ams3", addressing="path") if holds else NOTHING_FOUND)
