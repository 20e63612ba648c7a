"""The service's own rules, where no queue is needed to see them."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.domain.errors import CredentialsUnreadable, InvalidParameters
from app.domain.specs.base import Spec
from app.domain.verification import Report
from app.service import Destinations, new_id
from app.store.engine import migrate, open_engine
from app.store.repository import Repository
from app.store.sealing import Sealer, new_key
from tests.unit.test_specs import GOOD


class NeverAsked:
    """No verification may be asked for here."""

    async def verify(self, account: int, spec: Spec, key: str, destination: str | None = None) -> Report:
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
