"""What the commands do that look at a deployment or change its database; each ends the process with a sentence where
it cannot."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import click
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli import fail
from app.domain.errors import DropoffError
from app.messages.clock import Clock
from app.messages.connections import connect
from app.messages.sealing import Sealer
from app.monitor.health import Check, Health
from app.settings import Settings
from app.store.engine import check_database, migrate, open_engine, require_schema
from app.store.rotation import Progress, Rotation

T = TypeVar("T")


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
