"""What the commands do that look at a deployment or change its database; each ends the process with a sentence where
it cannot."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import NoReturn, TypeVar

import click
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli import fail
from app.domain.errors import DropoffError
from app.domain.leftover import Leftover
from app.domain.notification import Notification
from app.messages.clock import Clock
from app.messages.connections import connect
from app.messages.sealing import Sealer
from app.monitor.health import Check, Health
from app.settings import Settings
from app.store.accounts import Accounts, new_key
from app.store.engine import check_database, migrate, open_engine, require_schema
from app.store.leftovers import Leftovers
from app.store.notifications import Notifications
from app.store.rotation import Progress, Rotation

T = TypeVar("T")

_PAGE = 1000


def with_database(settings: Settings, call: Callable[[AsyncEngine], Awaitable[T]], *, any_schema: bool = False) -> T:
    """What `call` returns, once the database has this release's schema. Ends the process with the sentence of a
    DropoffError that is raised."""

    async def work() -> T:
        async with open_engine(settings.database, patient=any_schema) as engine:
            if not any_schema:
                await require_schema(engine)
            return await call(engine)

    try:
        return asyncio.run(work())
    except DropoffError as error:
        fail(error.message)
    except (DBAPIError, OSError) as error:
        fail(f"the database does not answer ({type(error).__name__}): see DROPOFF_DATABASE_URL")


def require_database(settings: Settings) -> None:
    """Return where the database answers and has this release's schema."""

    async def nothing(_: AsyncEngine) -> None:
        """The schema was looked at already."""

    with_database(settings, nothing)


def migrate_database(settings: Settings) -> None:
    with_database(settings, migrate, any_schema=True)
    click.echo("The schema is up to date.")


def tell_status(settings: Settings) -> int:
    """Print a line for each part of the deployment; 1 where one is not well."""

    async def look() -> list[Check]:
        clock = Clock()
        url = settings.redis_url.get_secret_value()
        async with open_engine(settings.database) as engine, connect(url) as redis:
            with contextlib.suppress(RedisError, OSError):
                await clock.renew(redis)
            return await Health(partial(check_database, engine), redis, clock, delivers=settings.delivers).checks()

    checks = asyncio.run(look())
    for check in checks:
        click.echo(f"{check.name:10}{'ok' if check.ok else 'not ok':8}{check.detail}")
    return 0 if all(check.ok for check in checks) else 1


def _with_accounts(settings: Settings, call: Callable[[Accounts], Awaitable[T]]) -> T:
    return with_database(settings, lambda engine: call(Accounts(engine)))


def create_key(settings: Settings, account: str) -> None:
    key = new_key()
    _with_accounts(settings, lambda accounts: accounts.ensure_key(account, key))
    click.echo(key)


def list_keys(settings: Settings) -> None:
    for key_id, account, created in _with_accounts(settings, lambda accounts: accounts.keys()):
        click.echo(f"{key_id}  {created:%Y-%m-%d %H:%M:%S}  {account}")


def revoke_key(settings: Settings, key_id: str) -> None:
    if not _with_accounts(settings, lambda accounts: accounts.revoke(key_id)):
        fail(f"there is no key with the id {key_id}: `dropoff keys list` shows them")
    click.echo("Revoked.")


def list_leftovers(settings: Settings) -> None:
    async def every(engine: AsyncEngine) -> list[tuple[Leftover, str]]:
        leftovers, number, found = Leftovers(engine), 1, []
        while page := (await leftovers.page(None, number)).leftovers:
            names = await Accounts(engine).names({each.account for each in page})
            found += [(each, names.get(each.account, str(each.account))) for each in page]
            number += 1
        return found

    for leftover, account in with_database(settings, every):
        where = " ".join(f"{name}={value}" for name, value in leftover.parameters.items())
        state = f"{leftover.state}  {leftover.reason or '-'}  {leftover.tries} tries"
        click.echo(f"{leftover.id}  {leftover.created_at:%Y-%m-%d %H:%M:%S}  {account}  {state}  {leftover.type}")
        click.echo(f"    {leftover.object}  {where}")


def retry_leftover(settings: Settings, leftover: str) -> None:
    if not with_database(settings, lambda engine: Leftovers(engine).retry(leftover, datetime.now(UTC))):
        _no_leftover(leftover)
    click.echo("Its delete is tried again within seconds.")


def forget_leftover(settings: Settings, leftover: str) -> None:
    if not with_database(settings, lambda engine: Leftovers(engine).forget(leftover)):
        _no_leftover(leftover)
    click.echo("Forgotten.")


def _no_leftover(leftover: str) -> NoReturn:
    fail(f"there is no leftover with the id {leftover}: `dropoff leftovers list` shows them")


def list_notifications(settings: Settings) -> None:
    async def every(engine: AsyncEngine) -> list[Notification]:
        found: list[Notification] = []
        while page := await Notifications(engine).page(found[-1].number if found else 0, _PAGE):
            found += page
        return found

    for each in with_database(settings, every):
        state = f"{each.state}  {each.attempts} attempts  {each.reason or '-'}"
        click.echo(f"{each.id}  {each.created_at:%Y-%m-%d %H:%M:%S}  {each.type}  {state}")
        click.echo(f"    {each.payload}")


def retry_notifications(settings: Settings, notification: str | None) -> None:
    count = with_database(settings, lambda engine: Notifications(engine).retry(datetime.now(UTC), notification))
    if notification and not count:
        fail(f"there is no event with the id {notification} that was given up: see `dropoff notifications list`")
    click.echo(f"{count} told again from now on.")


def forget_notification(settings: Settings, notification: str) -> None:
    if not with_database(settings, lambda engine: Notifications(engine).forget(notification)):
        fail(f"there is no event with the id {notification}: `dropoff notifications list` shows them")
    click.echo("Forgotten.")


def rotate(settings: Settings, batch: int) -> None:
    try:
        sealer = Sealer(settings.sealing_keys)
    except ValueError as error:
        fail(str(error))

    async def run(engine: AsyncEngine) -> Progress:
        progress = Progress()
        async for progress in Rotation(engine).run(sealer, batch):
            click.echo(f"{progress.resealed} sealed anew, {progress.left} left")
        return progress

    unreadable = with_database(settings, run).unreadable
    for destination in unreadable:
        click.echo(f"{destination}: none of the keys opens it; it stays as it is", err=True)
    if unreadable:
        fail(f"{len(unreadable)} could not be opened: add the key that sealed them to DROPOFF_SECRET_KEYS")
