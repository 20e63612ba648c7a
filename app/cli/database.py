"""What an operator's commands ask, answered by the database in the form in which the service answers it."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli import fail
from app.cli.administration import with_database
from app.domain.account import AccountQuery, parse_account, parse_account_change, parse_key
from app.domain.audit import parse_audit_query
from app.domain.destination import Destination, parse_listing, timestamp
from app.domain.notification import Notification
from app.settings import Settings
from app.store.accounts import Accounts, new_key
from app.store.audit import AuditLog
from app.store.destinations import DestinationRepository
from app.store.leftovers import Leftovers
from app.store.notifications import Notifications

Answer = dict[str, Any]


_PAGE = 1000


def _no_leftover(leftover: str) -> NoReturn:
    fail(f"there is no leftover with the id {leftover}: `dropoff leftovers list` shows them")


class ByDatabase:
    """In the database itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def accounts(self, search_term: str) -> Iterator[Answer]:
        async def every(engine: AsyncEngine) -> list[Answer]:
            number, found = 1, []
            while accounts := (await Accounts(engine).page(AccountQuery(search_term, number))).accounts:
                found += [each.as_answer() for each in accounts]
                number += 1
            return found

        yield from with_database(self._settings, every)

    def account(self, name: str) -> Answer:
        return with_database(self._settings, lambda engine: Accounts(engine).get(name)).as_answer()

    def create(self, name: str, own: Mapping[str, Any]) -> Answer:
        async def work(engine: AsyncEngine) -> Answer:
            return (await Accounts(engine).create(*parse_account({"name": name, **own}))).as_answer()

        return with_database(self._settings, work)

    def change(self, name: str, own: Mapping[str, Any]) -> Answer:
        async def work(engine: AsyncEngine) -> Answer:
            return (await Accounts(engine).change(name, parse_account_change(own))).as_answer()

        return with_database(self._settings, work)

    def delete(self, name: str) -> None:
        with_database(self._settings, lambda engine: Accounts(engine).delete(name))

    def keys(self, name: str) -> list[Answer]:
        return [each.as_answer() for each in with_database(self._settings, lambda e: Accounts(e).keys_of(name))]

    def add_key(self, name: str, given: Mapping[str, Any]) -> Answer:
        operators = (
            self._settings.operator_key.get_secret_value(),
            self._settings.operator_read_key.get_secret_value(),
        )

        async def work(engine: AsyncEngine) -> Answer:
            asked = parse_key(given, operators)
            key = asked.key or new_key()
            added = await Accounts(engine).add_key(name, key, asked.name, imported=bool(asked.key))
            return {**added.as_answer(), **({} if asked.key else {"key": key})}

        return with_database(self._settings, work)

    def revoke_key(self, name: str, key: str) -> None:
        with_database(self._settings, lambda engine: Accounts(engine).revoke_key(name, key))

    def every_key(self) -> Iterator[Answer]:
        for key, account, created in with_database(self._settings, lambda engine: Accounts(engine).keys()):
            yield {"id": key, "account_name": account, "created_at": timestamp(created)}

    def ensure_key(self, name: str) -> str:
        key = new_key()
        with_database(self._settings, lambda engine: Accounts(engine).ensure_key(name, key))
        return key

    def destinations(self, query: Mapping[str, str]) -> Iterator[Answer]:
        async def every(engine: AsyncEngine) -> list[Answer]:
            asked = dict(query)
            named = asked.pop("account", "")
            account = (await Accounts(engine).get(named)).id if named else None
            number = 1
            found: list[Destination] = []
            while listed := (
                await DestinationRepository(engine).page(account, parse_listing({**asked, "page": str(number)}))
            ).destinations:
                found += listed
                number += 1
            names = await Accounts(engine).names({each.account for each in found})
            return [
                {"account": each.account, "account_name": names.get(each.account), **each.as_answer()} for each in found
            ]

        yield from with_database(self._settings, every)

    def leftovers(self) -> Iterator[Answer]:
        async def every(engine: AsyncEngine) -> list[Answer]:
            leftovers, number, found = Leftovers(engine), 1, []
            while page := (await leftovers.page(None, number)).leftovers:
                names = await Accounts(engine).names({each.account for each in page})
                whose = [{"account": each.account, "account_name": names.get(each.account)} for each in page]
                found += [{**about, **each.as_answer()} for about, each in zip(whose, page, strict=True)]
                number += 1
            return found

        yield from with_database(self._settings, every)

    def retry_leftover(self, leftover: str) -> None:
        if not with_database(self._settings, lambda engine: Leftovers(engine).retry(leftover, datetime.now(UTC))):
            _no_leftover(leftover)

    def forget_leftover(self, leftover: str) -> None:
        if not with_database(self._settings, lambda engine: Leftovers(engine).forget(leftover)):
            _no_leftover(leftover)

    def notifications(self) -> Iterator[Answer]:
        async def every(engine: AsyncEngine) -> list[Answer]:
            found: list[Notification] = []
            while page := await Notifications(engine).page(found[-1].number if found else 0, _PAGE):
                found += page
            return [each.as_answer() for each in found]

        yield from with_database(self._settings, every)

    def retry_notifications(self, notification: str | None) -> int:
        now = datetime.now(UTC)
        count = with_database(self._settings, lambda engine: Notifications(engine).retry(now, notification))
        if notification is not None and not count:
            fail(f"there is no event with the id {notification} that was given up: see `dropoff notifications list`")
        return count

    def forget_notification(self, notification: str) -> None:
        if not with_database(self._settings, lambda engine: Notifications(engine).forget(notification)):
            fail(f"there is no event with the id {notification}: `dropoff notifications list` shows them")

    def audit(self, query: Mapping[str, str]) -> Answer:
        async def look(engine: AsyncEngine) -> Answer:
            return (await AuditLog(engine).page(parse_audit_query(query))).as_answer()

        return with_database(self._settings, look)
