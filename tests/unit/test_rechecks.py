"""Scheduled checks: who is due, once each, and what a check that fails leaves."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.destination import Destination, Query
from app.domain.errors import DestinationNotFound, TooManyVerifications
from app.domain.faults import Fault
from app.domain.verification import Report
from app.services.rechecks import Rechecks
from app.store.accounts import Accounts
from app.store.destinations import DestinationRepository
from app.store.engine import migrate, open_engine

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
PASSED = Report(ok=True, message="m", type="s3", host="h", object="o", duration_ms=1, job="1", steps=())


class Verifying:
    """Stores the report `says`, as the service does, or raises it."""

    def __init__(self, store: DestinationRepository) -> None:
        self._store = store
        self.says: Report | Exception = PASSED
        self.checked: list[str] = []

    async def verify_existing(self, account: int, destination: str) -> Report:
        self.checked.append(destination)
        if isinstance(self.says, Exception):
            raise self.says
        await self._store.verified(account, destination, self.says, NOW, expected_version=1)
        return self.says


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[DestinationRepository]:
    async with open_engine(database_url) as engine:
        await migrate(engine)
        await Accounts(engine).ensure_key("a", "key")
        yield DestinationRepository(engine)


async def add(store: DestinationRepository, number: int, verified: timedelta, **changes: Any) -> str:
    at = NOW - verified
    values: dict[str, Any] = {
        "id": f"{number:012X}", "account": 1, "name": "n", "type": "s3", "enabled": True, "parameters": {},
        "version": 1, "created_at": at, "updated_at": at, "verified_at": at,
        "verification": PASSED.as_answer(), **changes,
    }  # fmt: skip
    await store.add(Destination(**values), "sealed", 50)
    return str(values["id"])


async def test_each_enabled_destination_is_checked_once_in_a_while_the_longest_ago_first(
    store: DestinationRepository,
) -> None:
    verifying = Verifying(store)
    rechecks = Rechecks(store, verifying, hours=24)
    later, sooner = await add(store, 1, 25 * HOUR), await add(store, 2, 30 * HOUR)
    await add(store, 3, 23 * HOUR)
    await add(store, 4, 30 * HOUR, enabled=False)
    assert [await rechecks.check_one() for _ in range(3)] == [True, True, False]
    assert verifying.checked == [sooner, later]
    assert await store.enabled() == 3


@pytest.mark.parametrize(
    ("code", "marked"), [(Fault.SECRET_MISMATCH, True), (Fault.THROTTLED, False), (Fault.INTERNAL_ERROR, False)]
)
async def test_a_check_that_fails_disables_nothing_and_marks_what_the_customer_must_mend(
    store: DestinationRepository, code: Fault, marked: bool
) -> None:
    verifying = Verifying(store)
    verifying.says = PASSED.model_copy(update={"ok": False, "code": code})
    checked = await add(store, 1, 25 * HOUR)
    assert await Rechecks(store, verifying, hours=24).check_one()
    found = await store.get(1, checked)
    assert (found.enabled, found.version, found.verification) == (True, 1, verifying.says.as_answer())
    assert (found.failing_since is not None) is marked
    assert found.failing == ({"code": code, "message": verifying.says.message} if marked else None)
    assert (await store.page(1, Query(failing=True))).matching == int(marked)


@pytest.mark.parametrize("error", [DestinationNotFound("gone"), TooManyVerifications("busy")])
async def test_a_check_that_cannot_be_made_has_another_turn_later(
    store: DestinationRepository, error: Exception
) -> None:
    verifying = Verifying(store)
    verifying.says = error
    await add(store, 1, 25 * HOUR)
    rechecks = Rechecks(store, verifying, hours=24)
    assert [await rechecks.check_one() for _ in range(2)] == [True, False]
