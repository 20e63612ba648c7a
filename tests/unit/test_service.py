"""The service's own rules, where no queue is needed to see them."""

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.domain.audit import AuditQuery
from app.domain.deletes import DeletePolicy
from app.domain.destination import Destination
from app.domain.errors import CredentialsUnreadable, EgressUnavailable, InvalidParameters
from app.domain.faults import Fault
from app.domain.types import parse
from app.domain.types.base import Spec
from app.domain.verification import UNKNOWN_LOCATION, Location, Report
from app.messages.sealing import Sealer, new_key
from app.services.destinations import Destinations, new_id
from app.store.accounts import Accounts
from app.store.audit import AuditLog
from app.store.destinations import DestinationRepository
from app.store.engine import migrate, open_engine
from tests.stack import account_of
from tests.types.every import GOOD


class NeverAsked:
    """No verification may be asked for here."""

    async def verify(self, account: int, spec: Spec, key: str, destination: str | None = None, **_: Any) -> Report:
        raise AssertionError("a verification was asked for")


class Unreachable:
    """Every verification ends before it comes to the provider."""

    async def verify(self, account: int, spec: Spec, key: str, destination: str | None = None, **_: Any) -> Report:
        return Report(
            ok=False, code=Fault.EGRESS_UNAVAILABLE, message="m", type=spec.type, host="h", object=key, duration_ms=1,
            job="j", steps=(),
        )  # fmt: skip


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with open_engine(f"sqlite+aiosqlite:///{tmp_path}/d.db") as opened:
        await migrate(opened)
        yield opened


@pytest.fixture
def repository(engine: AsyncEngine) -> DestinationRepository:
    return DestinationRepository(engine)


@pytest.fixture
async def account(engine: AsyncEngine) -> int:
    accounts = Accounts(engine)
    await accounts.ensure_key("a", "key")
    opened = await account_of(accounts, "key")
    assert opened
    return opened


async def test_credentials_that_no_key_opens_hinder_no_rename_and_can_be_sent_again(
    repository: DestinationRepository, account: int
) -> None:
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


async def test_credentials_that_no_key_opens_cannot_be_verified_and_that_is_said(
    repository: DestinationRepository, account: int
) -> None:
    before, after = (
        Destinations(repository, NeverAsked(), Sealer((new_key(),)), limit=9, allow_http=False) for _ in range(2)
    )
    created = await before.create(account, {"name": "n", "enabled": False, "type": "azure", **GOOD["azure"]}, new_id())
    with pytest.raises(CredentialsUnreadable, match=f"send them again with PUT /destinations/{created.id}"):
        await after.verify_existing(account, created.id)
    assert await repository.get(account, created.id) == created


async def test_a_rule_that_came_later_hinders_no_disabling(repository: DestinationRepository, account: int) -> None:
    """An endpoint of http was allowed once and is not any more."""
    sealer = Sealer((new_key(),))
    then, now = (Destinations(repository, NeverAsked(), sealer, limit=9, allow_http=allow) for allow in (True, False))
    body = {**GOOD["s3compatible"], "s3_endpoint": "http://127.0.0.1:9000"}
    created = await then.create(account, {"name": "n", "enabled": False, "type": "s3compatible", **body}, new_id())
    assert (await now.update(account, created.id, {"enabled": False, "name": "m"})).name == "m"
    with pytest.raises(InvalidParameters) as raised, capture_logs() as logs:
        await now.update(account, created.id, {"enabled": True})
    # Who operates it is told the setting, and who is its customer is not.
    assert [(line["event"], line["setting"]) for line in logs] == [("endpoint of http refused", "DROPOFF_ALLOW_HTTP")]
    assert "DROPOFF" not in raised.value.message


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
        ok=True, message="", type="s3compatible", host="h", object="o", duration_ms=1, job="j", steps=(),
        region="ams3", addressing="path",
    )  # fmt: skip
    now = datetime.now(UTC)
    parameters = parse(body, allow_http=False).public()
    current = Destination("1", 1, "n", "s3compatible", True, parameters, 1, now, now, now, report.as_answer())
    spec = parse({**body, **changes}, allow_http=False)
    assert current.known_location(spec) == (Location(region="ams3", addressing="path") if holds else UNKNOWN_LOCATION)


async def test_what_our_own_network_keeps_from_the_provider_changes_nothing_and_says_nothing_about_a_destination(
    repository: DestinationRepository, account: int
) -> None:
    service = Destinations(repository, Unreachable(), Sealer((new_key(),)), limit=9, allow_http=False)
    body = {"name": "n", "enabled": False, "type": "s3", **GOOD["s3"]}
    stored = await service.create(account, body, new_id())
    for call in (
        service.create(account, {**body, "enabled": True}, new_id()),
        service.update(account, stored.id, {"enabled": True}),
        service.verify(account, body),
        service.verify_existing(account, stored.id),
    ):
        with pytest.raises(EgressUnavailable) as caught:
            await call
        assert caught.value.details["verification"]["code"] == "egress_unavailable"
    assert await repository.get(account, stored.id) == stored
    assert (await repository.standing(account)).used == 1


class Asked:
    """Notes how it was asked to verify."""

    def __init__(self) -> None:
        self.lenient: list[bool] = []
        self.at_once: list[int | None] = []

    async def verify(
        self,
        account: int,
        spec: Spec,
        key: str,
        destination: str | None = None,
        *,
        location: Location,
        lenient: bool,
        at_once: int | None,
        account_name: str,
    ) -> Report:
        self.lenient.append(lenient)
        self.at_once.append(at_once)
        return Report(ok=True, message="m", type=spec.type, host="h", object=key, duration_ms=1, job="j", steps=())


@pytest.mark.parametrize(
    ("setting", "own", "lenient"),
    [
        (DeletePolicy.STRICT, None, False),
        (DeletePolicy.LENIENT, None, True),
        (DeletePolicy.STRICT, DeletePolicy.LENIENT, True),
        (DeletePolicy.LENIENT, DeletePolicy.STRICT, False),
    ],
)
async def test_an_accounts_own_delete_policy_wins_over_the_setting(
    engine: AsyncEngine, repository: DestinationRepository, account: int,
    setting: DeletePolicy, own: DeletePolicy | None, lenient: bool,
) -> None:  # fmt: skip
    await Accounts(engine).change("a", {"delete_policy": own})
    asked = Asked()
    service = Destinations(repository, asked, Sealer((new_key(),)), limit=9, allow_http=False, delete=setting)
    body = {"name": "n", "enabled": True, "type": "azure", **GOOD["azure"]}
    created = await service.create(account, body, new_id())
    await service.update(account, created.id, {"azure_container_name": "another"})
    await service.verify(account, body)
    await service.verify_existing(account, created.id)
    assert asked.lenient == [lenient] * 4


async def test_an_accounts_own_limit_of_verifications_goes_with_each_of_them(
    engine: AsyncEngine, repository: DestinationRepository, account: int
) -> None:
    asked = Asked()
    service = Destinations(repository, asked, Sealer((new_key(),)), limit=9, allow_http=False)
    body = {"name": "n", "enabled": True, "type": "azure", **GOOD["azure"]}
    created = await service.create(account, body, new_id())
    await Accounts(engine).change("a", {"verification_limit": 3})
    await service.update(account, created.id, {"azure_container_name": "another"})
    await service.verify(account, body)
    await service.verify_existing(account, created.id)
    assert asked.at_once == [None, 3, 3, 3]


async def test_the_log_names_the_parameters_that_an_update_changes_and_tells_no_value(
    engine: AsyncEngine, repository: DestinationRepository, account: int
) -> None:
    service = Destinations(repository, Asked(), Sealer((new_key(),)), limit=9, allow_http=False)
    created = await service.create(account, {"name": "n", "enabled": True, "type": "azure", **GOOD["azure"]}, new_id())
    new = "bmV3" * 21 + "bg=="
    for changes in ({"azure_account_key": new}, {"enabled": False}, {"type": "s3", **GOOD["s3"]}):
        await service.update(account, created.id, changes)
    entries = (await AuditLog(engine).page(AuditQuery(limit=3))).entries[::-1]
    assert [entry.action for entry in entries] == [
        "destination_changed", "destination_disabled", "destination_changed",
    ]  # fmt: skip
    key, disabled, moved = [entry.details["changed"] for entry in entries]
    assert (key, disabled) == (["azure_account_key"], ["enabled"])
    assert set(moved) == {"type", *GOOD["azure"], *GOOD["s3"]}
    assert new not in repr(entries)
