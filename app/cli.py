"""The command `dropoff`."""

import asyncio
import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import click
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app import logs
from app.domain.errors import Unavailable
from app.health import Check, Health
from app.jobs.queue import connect
from app.settings import InvalidSettings, Settings, read_settings
from app.store.engine import SchemaMismatch, migrate, open_engine, require_schema
from app.store.repository import Repository
from app.store.rotation import BATCH, Progress, Rotation
from app.store.sealing import Sealer, new_key

T = TypeVar("T")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Register where result files go, and prove it by an upload and a delete.

    Settings are environment variables; docs/operating.md explains each.
    """


def _settings() -> Settings:
    try:
        return read_settings()
    except InvalidSettings as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    sys.exit(f"dropoff: {message}")


def _require(settings: Settings) -> None:
    """What `api` and `worker` do not start without; `up` makes these itself."""
    if not settings.redis_url.get_secret_value():
        _fail("DROPOFF_REDIS_URL is not set, for example redis://:PASSWORD@HOST:6379/0")
    if not settings.sealing_keys:
        _fail("DROPOFF_SECRET_KEYS is not set: make a key with `dropoff secrets generate` and give it to every process")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=None, help="Default: ./data")
@click.option("--workers", default=1, show_default=True, help="Worker processes.")
def up(host: str, port: int, data: Path | None, workers: int) -> None:
    """Run everything on this machine: Redis, migrations, one API process, the workers."""
    if data:
        os.environ["DROPOFF_DATA"] = str(data)
    from app.up import run

    sys.exit(run(_settings(), host=host, port=port, workers=workers))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def api(host: str, port: int) -> None:
    """Run one API process."""
    from app.web.server import serve

    settings = _settings()
    _require(settings)
    logs.configure("api", settings.log_level)
    try:
        asyncio.run(serve(settings, host, port))
    except (SchemaMismatch, ValueError, OSError) as error:
        _fail(str(error))


@main.command()
def worker() -> None:
    """Run one worker process."""
    settings = _settings()
    _require(settings)
    if settings.database_url:
        # It works without a database; where it is told of one, it belongs to the same release as the rest.
        _with_database(_nothing)
    # The same process goes on as the worker, which this package must not import.
    os.execv(sys.executable, [sys.executable, "-m", "workers.main"])  # noqa: S606


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def verify(arguments: tuple[str, ...]) -> None:
    """Verify a destination from this terminal: no service, queue or database is needed."""
    # As for `worker`: what can verify is what this package must not import.
    os.execv(sys.executable, [sys.executable, "-m", "workers.terminal", *arguments])  # noqa: S606


@main.command("migrate")
def migrate_command() -> None:
    """Bring the database's schema to this release's."""
    _with_database(migrate, check=False)
    click.echo("The schema is up to date.")


@main.command()
def status() -> None:
    """Say of the database, Redis and the workers whether each is well; the exit code is 1 where one is not."""
    settings = _settings()
    _require(settings)

    async def look() -> list[Check]:
        redis = connect(settings)
        async with open_engine(settings.database) as engine, redis:
            return await Health(engine, redis).checks()

    checks = asyncio.run(look())
    for check in checks:
        click.echo(f"{check.name:10}{'ok' if check.ok else 'not ok':8}{check.detail}")
    sys.exit(0 if all(check.ok for check in checks) else 1)


@main.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.argument("account")
def create_key(account: str) -> None:
    """Make a key for ACCOUNT (made where there is none yet) and print it; it cannot be shown again."""
    key = secrets.token_urlsafe(32)
    _with_repository(lambda repository: repository.ensure_key(account, key))
    click.echo(key)


@keys.command("list")
def list_keys() -> None:
    """Print the id, the account and the time of creation of every key; never a key."""
    for key_id, account, created in _with_repository(lambda repository: repository.keys()):
        click.echo(f"{key_id}  {created:%Y-%m-%d %H:%M:%S}  {account}")


@keys.command("revoke")
@click.argument("key_id")
def revoke_key(key_id: str) -> None:
    """Let the key with this id (see `keys list`) open nothing any more, at once and on every process."""
    if not _with_repository(lambda repository: repository.revoke(key_id)):
        _fail(f"there is no key with the id {key_id}: `dropoff keys list` shows them")
    click.echo("Revoked.")


def _with_repository(call: Callable[[Repository], Awaitable[T]]) -> T:
    return _with_database(lambda engine: call(Repository(engine)))


async def _nothing(_: AsyncEngine) -> None:
    """For who only wants the schema to be looked at."""


def _with_database(call: Callable[[AsyncEngine], Awaitable[T]], *, check: bool = True) -> T:
    """What `call` returns; ends this process with a sentence where the database or its schema is not ready."""
    settings = _settings()

    async def work() -> T:
        async with open_engine(settings.database) as engine:
            if check:
                await require_schema(engine)
            return await call(engine)

    try:
        return asyncio.run(work())
    except (SchemaMismatch, Unavailable) as error:
        _fail(str(error))
    except (DBAPIError, OSError) as error:
        _fail(f"the database does not answer ({type(error).__name__}): see DROPOFF_DATABASE_URL")


@main.group("secrets")
def secrets_group() -> None:
    """Sealing keys."""


@secrets_group.command()
def generate() -> None:
    """Print a new sealing key for DROPOFF_SECRET_KEYS."""
    click.echo(new_key())


@secrets_group.command()
@click.option("--batch", default=BATCH, show_default=True, help="Destinations in one transaction.")
def rotate(batch: int) -> None:
    """Seal all credentials anew with the first of DROPOFF_SECRET_KEYS, while the service runs."""
    settings = _settings()
    try:
        sealer = Sealer(settings.sealing_keys)
    except ValueError as error:
        _fail(str(error))

    async def run(engine: AsyncEngine) -> Progress:
        progress = Progress()
        async for progress in Rotation(engine).run(sealer, batch):
            click.echo(f"{progress.resealed} sealed anew, {progress.left} left")
        return progress

    unreadable = _with_database(run).unreadable
    for destination in unreadable:
        click.echo(f"{destination}: none of the keys opens it; it stays as it is", err=True)
    if unreadable:
        _fail(f"{len(unreadable)} could not be opened: add the key that sealed them to DROPOFF_SECRET_KEYS")


if __name__ == "__main__":
    main()
