"""The command `dropoff`: what it understands. What a command needs is imported when it runs, so that each starts at
once."""

import atexit
import contextlib
import functools
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from app.cli import fail

if TYPE_CHECKING:
    from app.cli.accounts import Administration
    from app.settings import Settings

RESEALED_AT_ONCE = 200


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dropoff", message="%(prog)s %(version)s")
def main() -> None:
    """Register where result files go, and prove it by an upload and a delete.

    Settings are environment variables; docs/operating.md explains each.
    """
    # What is there at the end goes with the process: it need not be gone through before.
    atexit.register(gc.freeze)


def _settings() -> "Settings":
    from app.settings import InvalidSettings, read_settings

    try:
        return read_settings()
    except InvalidSettings as error:
        fail(str(error))


def _database_settings() -> "Settings":
    """For a command that asks no service; ends this process where one is named and no database is, since the one in
    this folder is hardly meant."""
    settings = _settings()
    if os.environ.get("DROPOFF_URL") and not settings.model_fields_set & {"data", "database_url"}:
        fail(
            "this command works on the database and cannot ask the service at DROPOFF_URL: run it beside the service, "
            "with DROPOFF_DATABASE_URL or DROPOFF_DATA"
        )
    return settings


def _whole_settings() -> "Settings":
    """With what `api` and `worker` do not start without; `up` makes these itself."""
    settings = _with_redis(_settings())
    if not settings.sealing_keys:
        fail("DROPOFF_SECRET_KEYS is not set: make a key with `dropoff secrets generate` and give it to every process")
    return settings


def _with_redis(settings: "Settings") -> "Settings":
    """The same; ends this process with a sentence where they name no Redis."""
    from app.messages.connections import BadRedisUrl, parse_redis_url

    if not settings.redis_url.get_secret_value():
        fail("DROPOFF_REDIS_URL is not set, for example redis://:PASSWORD@HOST:6379/0")
    try:
        parse_redis_url(settings.redis_url.get_secret_value())
    except BadRedisUrl as error:
        fail(str(error))
    return settings


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=None, help="Default: ./data")
@click.option("--workers", default=1, show_default=True, help="Worker processes.")
def up(host: str, port: int, data: Path | None, workers: int) -> None:
    """Run everything on this machine: Redis, migrations, one API process, the workers."""
    if data:
        os.environ["DROPOFF_DATA"] = str(data)
    from app.cli.up import run

    sys.exit(run(_settings(), host=host, port=port, workers=workers))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def api(host: str, port: int) -> None:
    """Run one API process."""
    import asyncio

    from app.messages.connections import ClusterMode
    from app.observe import logs
    from app.store.engine import SchemaMismatch
    from app.web.server import serve

    settings = _whole_settings()
    if settings.notifies and not settings.signing_keys:
        fail("DROPOFF_NOTIFY_URL is set and DROPOFF_NOTIFY_SECRET is not: `dropoff secrets make` makes one")
    logs.configure("api", settings.log_level)
    try:
        asyncio.run(serve(settings, host, port))
    except (SchemaMismatch, ClusterMode, ValueError, OSError) as error:
        fail(str(error))


@main.command()
@click.option("--deliveries", is_flag=True, help="Deliver result files rather than verify destinations.")
def worker(deliveries: bool) -> None:
    """Run one worker process."""
    settings = _whole_settings()
    if settings.database_url:
        # It works without a database; where it is told of one, it belongs to the same release as the rest. That is
        # looked at by another process, since this one has no use for what it takes.
        looked = subprocess.run([sys.executable, "-m", "app.cli", "migrate", "--check"], check=False)
        if looked.returncode:
            sys.exit(looked.returncode)
    from workers.main import main as work

    work(settings, deliveries=deliveries)


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def verify(arguments: tuple[str, ...]) -> None:
    """Verify a destination from this terminal: no service, queue or database is needed."""
    from workers.terminal import main as verify_here

    verify_here(arguments, prog_name="dropoff verify")


@main.command()
@click.option("--check", is_flag=True, help="Change nothing; the exit code is 1 where the schema is another.")
def migrate(check: bool) -> None:
    """Bring the database's schema to this release's."""
    from app.cli import administration

    (administration.require_database if check else administration.migrate_database)(_settings())


@main.command()
def status() -> None:
    """Say of the database, Redis and the workers whether each is well; the exit code is 1 where one is not.

    Beside a `dropoff up` it needs no setting but that one's data folder.
    """
    from app.cli import administration
    from app.cli.up import REDIS_URL

    settings = _settings()
    address = settings.data / REDIS_URL
    if not settings.redis_url.get_secret_value() and address.exists():
        os.environ["DROPOFF_REDIS_URL"] = address.read_text()
    sys.exit(administration.tell_status(_with_redis(_settings())))


@main.command()
@click.option("--port", default=8080, show_default=True, help="Where the API process listens.")
@click.option("--pid", default=1, show_default=True, help="The process that is asked after.")
def healthcheck(port: int, pid: int) -> None:
    """End with 0 where one API or worker process of this machine is well, and with 1 where it is not."""
    from app.cli import healthcheck as process

    is_worker = process.serves(pid) == "worker"
    well = process.worker_is_well(_with_redis(_settings()), pid) if is_worker else process.api_is_well(port)
    sys.exit(0 if well else 1)


F = TypeVar("F", bound=Callable[..., None])


def _operators(command: F) -> F:
    """A command that a service can be asked for too: it is given `asked`, who carries it out."""

    @functools.wraps(command)
    def run(*, url: str | None, key: str | None, **given: Any) -> None:
        from app.cli.accounts import administration

        command(administration(_settings(), url, key), **given)

    service = click.option("--url", envvar="DROPOFF_URL", help="Ask this service, in place of the database.")
    by = click.option("--key", help="The operator's key; else DROPOFF_OPERATOR_KEY. Others may see arguments.")
    return cast(F, service(by(run)))


_as_json = click.option("--json", "as_json", is_flag=True, help="A JSON object a line, as the API has it.")
_destinations = click.option("--destinations", metavar="N", help="How many it may have; or `default`.")
_verifications = click.option("--verifications", metavar="N", help="How many it may have at once; or `default`.")


def _limits(destinations: str | None, verifications: str | None) -> dict[str, str | None]:
    given = {"destination_limit": destinations, "verification_limit": verifications}
    return {name: None if value == "default" else value for name, value in given.items() if value is not None}


@main.group()
def keys() -> None:
    """API keys of all accounts, as `accounts` says; `accounts make-key` and the like are about one account."""


@keys.command("create")
@click.argument("account")
@_operators
def create_key(asked: "Administration", account: str) -> None:
    """Make a key for ACCOUNT (made where there is none yet) and print it; it cannot be shown again."""
    click.echo(asked.ensure_key(account))


@keys.command("list")
@_operators
def list_keys(asked: "Administration") -> None:
    """Print the id, the account and the time of creation of every key; never a key."""
    for key in asked.every_key():
        click.echo(f"{key['id']}  {key['created_at']}  {key['account_name']}")


@keys.command("revoke")
@click.argument("key_id")
@_operators
def revoke_key(asked: "Administration", key_id: str) -> None:
    """Let the key with this id (see `keys list`) open nothing any more, at once and on every process."""
    found = next((each["account_name"] for each in asked.every_key() if each["id"] == key_id), None)
    if found is None:
        fail(f"there is no key with the id {key_id}: `dropoff keys list` shows them")
    asked.revoke_key(found, key_id)
    click.echo("Revoked.")


@main.group("leftovers")
def leftovers_group() -> None:
    """Test files that may have been left behind, as `accounts` says."""


@leftovers_group.command("list")
@_as_json
@_operators
def list_leftovers(asked: "Administration", as_json: bool) -> None:
    """Print every file on record: its id, account, state, reason, and where it may be."""
    from app.cli.accounts import tell_leftover

    for leftover in asked.leftovers():
        tell_leftover(leftover, as_json=as_json)


@leftovers_group.command("retry")
@click.argument("leftover")
@_operators
def retry_leftover(asked: "Administration", leftover: str) -> None:
    """Have the file with this id (see `leftovers list`) deleted again, for 24 hours from now on."""
    asked.retry_leftover(leftover)
    click.echo("Its delete is tried again within seconds.")


@leftovers_group.command("forget")
@click.argument("leftover")
@_operators
def forget_leftover(asked: "Administration", leftover: str) -> None:
    """Take the file with this id off the record: it is gone, or nobody wants to know of it."""
    asked.forget_leftover(leftover)
    click.echo("Forgotten.")


@main.group("notifications")
def notifications_group() -> None:
    """Events that the platform was not told of yet, or not at all, as `accounts` says."""


@notifications_group.command("list")
@_as_json
@_operators
def list_notifications(asked: "Administration", as_json: bool) -> None:
    """Print every event that waits or was given up: its id, type, state, and why it was not taken."""
    from app.cli.accounts import tell_notification

    for notification in asked.notifications():
        tell_notification(notification, as_json=as_json)


@notifications_group.command("retry")
@click.argument("notification", required=False)
@_operators
def retry_notification(asked: "Administration", notification: str | None) -> None:
    """Have all events that were given up, or the one with this id (see `notifications list`), told again."""
    click.echo(f"{asked.retry_notifications(notification)} told again from now on.")


@notifications_group.command("forget")
@click.argument("notification")
@_operators
def forget_notification(asked: "Administration", notification: str) -> None:
    """Take the event with this id off the record, so that those behind it are told."""
    asked.forget_notification(notification)
    click.echo("Forgotten.")


@main.group()
def accounts() -> None:
    """Accounts: in the database, or with --url (or DROPOFF_URL) and the operator's key by a running service."""


@accounts.command("list")
@click.option("--search", default="", help="Only those whose name contains this.")
@_as_json
@_operators
def list_accounts(asked: "Administration", search: str, as_json: bool) -> None:
    """Print every account, and what it has of its own."""
    from app.cli.accounts import tell_account

    for account in asked.accounts(search):
        tell_account(account, as_json=as_json)


@accounts.command("show")
@click.argument("account")
@_as_json
@_operators
def show_account(asked: "Administration", account: str, as_json: bool) -> None:
    """Print one account."""
    from app.cli.accounts import tell_account

    tell_account(asked.account(account), as_json=as_json)


@accounts.command("create")
@click.argument("account")
@_destinations
@_verifications
@_as_json
@_operators
def create_account(
    asked: "Administration", account: str, destinations: str | None, verifications: str | None, as_json: bool
) -> None:
    """Make an account, which has no key yet: see `accounts make-key` and `accounts import-key`."""
    from app.cli.accounts import tell_account

    tell_account(asked.create(account, _limits(destinations, verifications)), as_json=as_json)


@accounts.command("limits")
@click.argument("account")
@_destinations
@_verifications
@_as_json
@_operators
def limit_account(
    asked: "Administration", account: str, destinations: str | None, verifications: str | None, as_json: bool
) -> None:
    """Give ACCOUNT limits of its own, or take them from it with `default`."""
    from app.cli.accounts import tell_account

    tell_account(asked.change(account, _limits(destinations, verifications)), as_json=as_json)


@accounts.command("delete-policy")
@click.argument("account")
@click.argument("policy", type=click.Choice(["strict", "lenient", "default"]))
@_operators
def set_delete_policy(asked: "Administration", account: str, policy: str) -> None:
    """Whether ACCOUNT may have destinations that take files and do not let them be deleted: `lenient` accepts them with
    a warning, `strict` refuses them, `default` is as DROPOFF_DELETE says."""
    asked.change(account, {"delete_policy": None if policy == "default" else policy})
    click.echo("It holds from the next verification on.")


@accounts.command("delete")
@click.argument("account")
@_operators
def delete_account(asked: "Administration", account: str) -> None:
    """Delete ACCOUNT, which must have no destinations and no collections, and its keys."""
    asked.delete(account)
    click.echo("Deleted.")


@accounts.command("keys")
@click.argument("account")
@_as_json
@_operators
def account_keys(asked: "Administration", account: str, as_json: bool) -> None:
    """Print the id, the time of creation and the name of each key of ACCOUNT; never a key."""
    from app.cli.accounts import tell_key

    for key in asked.keys(account):
        tell_key(key, as_json=as_json)


@accounts.command("make-key")
@click.argument("account")
@click.option("--name", help="What to call it.")
@_operators
def make_key(asked: "Administration", account: str, name: str | None) -> None:
    """Make a key for ACCOUNT and print it; it cannot be shown again."""
    click.echo(asked.add_key(account, {"name": name})["key"])


@accounts.command("import-key")
@click.argument("account")
@click.option("--name", help="What to call it.")
@_as_json
@_operators
def import_key(asked: "Administration", account: str, name: str | None, as_json: bool) -> None:
    """Let a key that the customer has already, from standard input, open ACCOUNT."""
    from app.cli.accounts import read_key, tell_key

    if not (key := read_key()):
        fail('standard input has no key: printf %s "$KEY" | dropoff accounts import-key ACCOUNT')
    tell_key(asked.add_key(account, {"name": name, "key": key}), as_json=as_json)


@accounts.command("revoke-key")
@click.argument("account")
@click.argument("key_id")
@_operators
def revoke_account_key(asked: "Administration", account: str, key_id: str) -> None:
    """Let the key of ACCOUNT with this id (see `accounts keys`) open nothing any more, at once."""
    asked.revoke_key(account, key_id)
    click.echo("Revoked.")


@main.group()
def destinations() -> None:
    """The destinations of all accounts, as `accounts` says."""


@destinations.command("list")
@click.option("--account", default="", help="Only those of the account with this name.")
@click.option("--search", default="", help="Only those whose name contains this.")
@click.option("--failing", is_flag=True, help="Only those that fail.")
@_as_json
@_operators
def list_destinations(asked: "Administration", account: str, search: str, failing: bool, as_json: bool) -> None:
    """Print every destination: its id, account, type, state and name; no secret."""
    from app.cli.accounts import tell_destination

    query = {"account": account, "search_term": search, "failing": "true" if failing else ""}
    for destination in asked.destinations({name: value for name, value in query.items() if value}):
        tell_destination(destination, as_json=as_json)


@main.command()
@click.option("--account", default="", help="Only what was done to the account with this name.")
@click.option("--action", default="", help="Only this, as in key_revoked.")
@click.option(
    "--object", "about", default="", help="Only about the destination, collection, key, leftover or event with this id."
)
@click.option("--from", "since", default="", help="From this time on, as in 2026-01-31T12:00:00Z.")
@click.option("--to", "until", default="", help="Until this time.")
@click.option("--limit", default="50", show_default=True, help="At most so many, the newest.")
@click.option("--follow", is_flag=True, help="Go on with what is done from now on.")
@_as_json
@_operators
def audit(
    asked: "Administration",
    account: str,
    action: str,
    about: str,
    since: str,
    until: str,
    limit: str,
    follow: bool,
    as_json: bool,
) -> None:
    """Print who changed what or had what done, and when."""
    from app.cli.accounts import tell_audit

    query = {"account": account, "action": action, "object": about, "from": since, "to": until, "limit": limit}
    with contextlib.suppress(KeyboardInterrupt):
        tell_audit(asked, query, follow=follow, as_json=as_json)


@main.group("secrets")
def secrets_group() -> None:
    """Sealing keys."""


@secrets_group.command()
def generate() -> None:
    """Print a new sealing key for DROPOFF_SECRET_KEYS."""
    from app.messages.sealing import new_key

    click.echo(new_key())


@secrets_group.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("secrets"))
@click.option("--redis", default="redis:6379", show_default=True, metavar="HOST:PORT", help="Where Redis will be.")
@click.option("--postgres", default="postgres:5432", show_default=True, metavar="HOST:PORT", help="And PostgreSQL.")
def make(folder: Path, redis: str, postgres: str) -> None:
    """Make the secrets of a deployment that are missing in FOLDER, and there a folder for each kind of process."""
    from app.cli import secret_files

    secret_files.make(folder, redis, postgres)


@secrets_group.command()
@click.option("--batch", default=RESEALED_AT_ONCE, show_default=True, help="Rows in one transaction.")
def rotate(batch: int) -> None:
    """Seal all credentials anew with the first of DROPOFF_SECRET_KEYS, while the service runs."""
    from app.cli import administration

    administration.rotate(_database_settings(), batch)
