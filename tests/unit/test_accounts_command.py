"""The commands on accounts, destinations and the audit log: the same in the database and by a running service."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import certifi
import click
import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from pydantic import SecretStr

from app.cli import accounts as commands
from app.cli.commands import main
from app.cli.database import ByDatabase
from app.domain.leftover import LeftoverState
from app.messages.sealing import new_key
from app.settings import Settings
from app.store.accounts import Accounts
from app.store.destinations import DestinationRepository
from app.store.engine import migrate, open_engine
from app.store.leftovers import Leftovers
from app.web.server import application
from tests.servers.odd import dead_url
from tests.servers.proxy import link
from tests.stack import account_of, until
from tests.unit.test_audit import destination
from tests.unit.test_leftovers import leftover
from tests.unit.test_notifications import REFUSED, Told
from tests.unit.test_outbox import NOW, ONE

OPERATOR, READER = "the-key-of-the-operator", "the-key-of-a-dashboard"

Run = Callable[..., Result]


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, arguments, **options)


def done(*arguments: str, **options: Any) -> str:
    """What a command prints that succeeds."""
    result = run(*arguments, **options)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(*arguments: str, **options: Any) -> str:
    """The sentence that a command ends with."""
    result = run(*arguments, **options)
    assert isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == 1
    return str(result.exception.code)


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of a deployment with an empty database, which the commands have too."""
    monkeypatch.setenv("DROPOFF_DATA", str(tmp_path))
    settings = Settings(
        data=tmp_path, redis_url=SecretStr(dead_url().replace("http", "redis")), secret_keys=SecretStr(new_key()),
        operator_key=SecretStr(OPERATOR), operator_read_key=SecretStr(READER),
    )  # fmt: skip
    asyncio.run(in_database(settings, lambda engine: migrate(engine)))
    return settings


async def in_database(settings: Settings, call: Callable[[Any], Any]) -> Any:
    async with open_engine(settings.database) as engine:
        return await call(engine)


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """The address of the service, in a thread of its own."""
    ready: list[str] = []
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with application(settings) as app:
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ready.append("http://{}:{}".format(*runner.addresses[0][:2]))
            await stop.wait()
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield until(lambda: ready and ready[0], "the service listens")
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture(params=["database", "service"])
def way(request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "service":
        monkeypatch.setenv("DROPOFF_URL", f"{request.getfixturevalue('url')}/")
        monkeypatch.setenv("DROPOFF_OPERATOR_KEY", OPERATOR)
    return str(request.param)


def opens(settings: Settings, key: str) -> int | None:
    found: int | None = asyncio.run(in_database(settings, lambda engine: account_of(Accounts(engine), key)))
    return found


def test_accounts_are_made_limited_listed_and_deleted(way: str) -> None:
    made = json.loads(done("accounts", "create", "a/b c", "--destinations", "3", "--json"))
    assert (made["name"], made["destination_limit"], made["verification_limit"]) == ("a/b c", 3, None)
    done("accounts", "limits", "a/b c", "--verifications", "7", "--destinations", "default")
    done("accounts", "delete-policy", "a/b c", "lenient")
    shown = json.loads(done("accounts", "show", "a/b c", "--json"))
    own = {"destination_limit": None, "verification_limit": 7, "delete_policy": "lenient"}
    assert shown == {**made, **own}
    done("accounts", "delete-policy", "a/b c", "default")
    done("accounts", "create", "other")
    listed = done("accounts", "list")
    assert [line.split("  ")[0] for line in listed.splitlines()] == ["a/b c", "other"]
    assert "verifications 7  delete default" in listed
    assert lines(done("accounts", "list", "--search", "THE", "--json"))[0]["name"] == "other"
    assert "already" in refused("accounts", "create", "other")
    assert "destination_limit must be" in refused("accounts", "limits", "other", "--destinations", "many")
    done("accounts", "delete", "other")
    for command in (("show",), ("delete",), ("keys",), ("make-key",), ("limits",)):
        assert "no account" in refused("accounts", *command, "other")
    assert "no account" in refused("accounts", "delete-policy", "nobody", "lenient")
    assert run("accounts", "delete-policy", "a/b c", "soft").exit_code == 2


def test_keys_are_made_imported_listed_and_revoked(way: str, settings: Settings) -> None:
    done("accounts", "create", "a")
    key = done("accounts", "make-key", "a", "--name", "importer").strip()
    old = "a-key-from-elsewhere"
    assert old not in done("accounts", "import-key", "a", input=f"{old}\n")
    assert opens(settings, key) == opens(settings, old) == 1
    first, second = lines(done("accounts", "keys", "a", "--json"))
    assert (first["name"], second["name"]) == ("importer", None)
    assert first["id"] in done("keys", "list"), "the ids are those of the older command"
    assert "16 to 255" in refused("accounts", "import-key", "a", input="short\n")
    assert "standard input has no key" in refused("accounts", "import-key", "a", input="")
    done("accounts", "revoke-key", "a", first["id"])
    assert (opens(settings, key), opens(settings, old)) == (None, 1)
    assert "no key with this id" in refused("accounts", "revoke-key", "a", first["id"])


def test_keys_of_all_accounts_are_made_listed_and_revoked(way: str, settings: Settings) -> None:
    done("accounts", "create", "an a")
    made = {name: done("keys", "create", name).strip() for name in ("an a", "a", "b")}
    another = done("keys", "create", "a").strip()
    assert [each["name"] for each in lines(done("accounts", "list", "--json"))] == ["a", "an a", "b"]
    listed = [line.split("  ") for line in done("keys", "list").splitlines()]
    assert sorted(account for *_, account in listed) == ["a", "a", "an a", "b"]
    of_b = next(identity for identity, _, account in listed if account == "b")
    assert done("keys", "revoke", of_b) == "Revoked.\n"
    assert f"no key with the id {of_b}" in refused("keys", "revoke", of_b)
    assert [opens(settings, key) is not None for key in (*made.values(), another)] == [True, True, False, True]


def test_test_files_that_may_remain_are_listed_tried_again_and_forgotten(way: str, settings: Settings) -> None:
    done("accounts", "create", "a")

    async def add(engine: Any) -> None:
        for number in range(60):
            await Leftovers(engine).add(leftover(number, 1, state=LeftoverState.KEPT), "sealed")

    asyncio.run(in_database(settings, add))
    listed = lines(done("leftovers", "list", "--json"))
    assert {each["id"] for each in listed} == {f"job-{n}" for n in range(60)}
    assert {(each["account_name"], each["state"], each["next_try_at"]) for each in listed} == {("a", "kept", None)}
    assert "sealed" not in json.dumps(listed)
    assert done("leftovers", "retry", "job-7") == "Its delete is tried again within seconds.\n"
    before = {each["id"]: each["created_at"] for each in listed}
    # The service may have tried already, and found that it cannot be.
    again = [each for each in lines(done("leftovers", "list", "--json")) if each["created_at"] != before[each["id"]]]
    assert [each["id"] for each in again] == ["job-7"]
    assert done("leftovers", "forget", "job-7") == "Forgotten.\n"
    told = [line for line in done("leftovers", "list").splitlines() if line.startswith("job-")]
    assert (len(told), "  a  kept  " in told[0]) == (59, True)
    for command in ("retry", "forget"):
        for unknown in ("job-7", "a/b", "%00"):
            assert "there is no" in refused("leftovers", command, unknown).lower()


def test_events_that_the_platform_was_not_told_of_are_listed_told_again_and_forgotten(
    way: str, settings: Settings
) -> None:
    ids = asyncio.run(in_database(settings, lambda engine: Told(engine).two_of_which_are_kept(60)))
    assert [each["id"] for each in lines(done("notifications", "list", "--json"))] == ids
    kept = [each for each in lines(done("notifications", "list", "--json")) if each["state"] == "kept"]
    assert [(each["reason"], each["next_attempt_at"]) for each in kept] == [("answered 500", None)] * 2
    assert kept[0]["event"]["type"] == kept[0]["type"]
    first, second = [each["id"] for each in kept]
    assert refused("notifications", "retry", ""), "a script's variable that is empty is not all of them"
    assert done("notifications", "retry", first) == done("notifications", "retry") == "1 told again from now on.\n"
    assert done("notifications", "retry") == "0 told again from now on.\n"
    assert "no event with" in refused("notifications", "retry", second)
    assert done("notifications", "forget", second) == "Forgotten.\n"
    assert second not in done("notifications", "list")
    for unknown in (second, "a/b", "%00"):
        assert "no event with" in refused("notifications", "forget", unknown)


def test_destinations_of_all_accounts_are_listed(way: str, settings: Settings) -> None:
    for name in ("a", "b"):
        done("accounts", "create", name)

    async def add(engine: Any) -> None:
        for number in range(12):
            await DestinationRepository(engine).add(destination(1 + number % 2, number), "sealed", 50)

    async def fail(engine: Any) -> None:
        await DestinationRepository(engine).verified(2, f"{1:012X}", REFUSED, NOW, expected_version=1)

    asyncio.run(in_database(settings, add))
    assert [each["id"] for each in lines(done("destinations", "list", "--json"))] == [f"{n:012X}" for n in range(12)]
    of_b = done("destinations", "list", "--account", "b").splitlines()
    assert of_b == [f"{n:012X}  b  s3  disabled  n" for n in range(1, 12, 2)]
    assert done("destinations", "list", "--failing") == ""
    asyncio.run(in_database(settings, fail))
    since = "disabled, failing since 2026-03-01T12:00:00Z (secret_mismatch)"
    assert done("destinations", "list", "--failing").splitlines() == [f"{1:012X}  b  s3  {since}  n"]
    (shown,) = lines(done("destinations", "list", "--failing", "--json"))
    assert shown["failing"] == {"code": "secret_mismatch", "message": "Wrong."}
    assert "no account" in refused("destinations", "list", "--account", "nobody")
    assert "6 destinations" in refused("accounts", "delete", "b")


def test_the_log_is_told_the_oldest_first_and_says_which_way_it_was_done(way: str) -> None:
    done("accounts", "create", "a", "--destinations", "3")
    done("accounts", "delete", "a")
    done("accounts", "create", "b")
    author = {"database": "command", "service": "operator"}[way]
    told = [line.split("  ", 1)[1] for line in done("audit", "--account", "a").splitlines()]
    assert told == [
        f'{author}  account_created  a  -  {{"destination_limit": 3}}',
        f"{author}  account_deleted  a  -  {{}}",
    ]
    assert [each["account_name"] for each in lines(done("audit", "--limit", "2", "--json"))] == ["a", "b"]
    assert "action must be one of" in refused("audit", "--action", "told")


def test_the_log_is_followed(way: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    done("accounts", "create", "a")
    names = iter(("first", "second"))

    def wait() -> None:
        """In place of a pause between two looks: something is done, and at last the operator has seen enough."""
        if not (name := next(names, "")):
            raise KeyboardInterrupt
        asyncio.run(in_database(settings, lambda engine: Accounts(engine).create(name, {})))

    monkeypatch.setattr(commands, "_wait", wait)
    told = lines(done("audit", "--follow", "--json"))
    assert [each["account_name"] for each in told] == ["a", "first", "second"]


def test_who_follows_waits_for_a_service_that_is_away_and_says_so_once(
    settings: Settings, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("accounts", "create", "a")
    there = commands.administration(settings, url, OPERATOR)
    away = commands.administration(settings, dead_url(), OPERATOR)
    answers, waits = iter((there, away, away, there)), iter((True, True, False))

    class Reached(ByDatabase):
        def audit(self, query: Mapping[str, str]) -> dict[str, Any]:
            return next(answers).audit(query)

    def wait() -> None:
        if not next(waits):
            raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_wait", wait)
    monkeypatch.setattr(commands, "administration", lambda *_: Reached(settings))
    result = run("audit", "--follow")
    assert result.exit_code == 0
    assert next(answers, None) is next(waits, None) is None
    assert result.stderr.count("does not answer") == 1
    assert result.stdout.count("account_created") == 1


def test_what_keeps_a_command_from_the_service_is_told_in_a_sentence(
    url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "operator's key is missing" in refused("accounts", "list", "--url", url)
    assert "for the operator" in refused("accounts", "list", "--url", url, "--key", "not-the-operators-key")
    assert "does not answer" in refused("accounts", "list", "--url", dead_url(), "--key", OPERATOR)
    for wrong in ("dropoff.example", "ftp://dropoff.example", "http://", "http://h:port", "http://h:99999"):
        assert "must be the address" in refused("accounts", "list", "--url", wrong, "--key", OPERATOR)
    assert "answers 404" not in done("accounts", "list", "--url", url, "--key", READER)
    for changing in (
        ("accounts", "create", "a"), ("keys", "create", "a"), ("leftovers", "retry", "1"), ("leftovers", "forget", "1"),
        ("notifications", "retry"), ("notifications", "retry", "1"), ("notifications", "forget", "1"),
    ):  # fmt: skip
        assert "read-only" in refused(*changing, "--url", url, "--key", READER)
    for looking in ("keys", "leftovers", "notifications"):
        assert done(looking, "list", "--url", url, "--key", READER) == ""
    assert done("accounts", "list", "--url", url, "--key", OPERATOR) == ""
    (settings.data / "operator_key").write_text(f"{OPERATOR}\n")
    assert done("accounts", "list", "--url", url) == "", "beside a dropoff up, which has put its key there"


@pytest.mark.parametrize("trusted", ["SSL_CERT_FILE", "certifi", "nowhere"])
def test_the_service_is_asked_where_its_authority_is_one_that_the_service_itself_would_trust(
    url: str, authority: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, trusted: str
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if trusted == "SSL_CERT_FILE":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    elif trusted == "certifi":
        monkeypatch.setattr(certifi, "where", lambda: str(authority))
    with link(int(url.rpartition(":")[2]), certificate) as tls:
        asked = ("accounts", "list", "--url", f"https://127.0.0.1:{tls.port}", "--key", OPERATOR)
        if trusted == "nowhere":
            assert "does not answer (SSLCertVerificationError)" in refused(*asked)
        else:
            assert done(*asked) == ""


_LOOKS, _RUNS = "it only looks", "it runs processes, which say who works with them"
NOT_IN_THE_LOG = {
    "up": "it makes an account and a key of a demo as `keys create` does, and runs processes",
    "api": _RUNS, "worker": _RUNS, "verify": "it works without a database",
    "migrate": "it changes the schema, and nothing of an account", "status": _LOOKS, "healthcheck": _LOOKS,
    "keys list": _LOOKS, "leftovers list": _LOOKS, "notifications list": _LOOKS, "accounts list": _LOOKS,
    "accounts show": _LOOKS, "accounts keys": _LOOKS, "destinations list": _LOOKS, "audit": _LOOKS,
    "secrets generate": "it prints a key", "secrets make": "it makes files",
    "secrets rotate": "the credentials stay what they are, whoever's; how they are sealed is the deployment's",
}  # fmt: skip
"""The commands that leave no entry, each with the reason."""


def leaves(group: click.Group, above: str = "") -> Iterator[str]:
    """Every command, as it is typed."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def test_every_command_that_changes_something_leaves_one_entry_or_has_a_reason_not_to(settings: Settings) -> None:
    async def furnish(engine: Any) -> list[str]:
        told = Told(engine)
        await told.fill()
        await Leftovers(engine).add(leftover(1, told.mine), "sealed")
        for n in range(2):
            await told.happen(ONE, n=n)
        (first,) = await told.notifications.claim(NOW, NOW, 9)
        await told.notifications.keep(first, "answered 500")
        return [each.id for each in await told.notifications.page(0, 9)]

    given_up, waiting = asyncio.run(in_database(settings, furnish))
    first, second = [line.split()[0] for line in done("keys", "list").splitlines()]
    secret = "a-key-from-elsewhere"
    acts = {
        "keys create": ("key_created", "*", ["mine"]),
        "keys revoke": ("key_revoked", first, [first]),
        "leftovers retry": ("leftover_retried", "job-1", ["job-1"]),
        "leftovers forget": ("leftover_forgotten", "job-1", ["job-1"]),
        "notifications retry": ("notification_retried", given_up, [given_up]),
        "notifications forget": ("notification_forgotten", waiting, [waiting]),
        "accounts create": ("account_created", None, ["new"]),
        "accounts limits": ("account_changed", None, ["new", "--destinations", "3"]),
        "accounts delete-policy": ("account_changed", None, ["new", "lenient"]),
        "accounts make-key": ("key_created", "*", ["new"]),
        "accounts import-key": ("key_imported", "*", ["new"]),
        "accounts revoke-key": ("key_revoked", second, ["theirs", second]),
        "accounts delete": ("account_deleted", None, ["new"]),
    }
    assert set(leaves(main)) == acts.keys() | NOT_IN_THE_LOG.keys(), "a command that is new, or gone"
    before = lines(done("audit", "--json"))
    for command, (action, about, arguments) in acts.items():
        done(*command.split(), *arguments, input=secret)
        after = lines(done("audit", "--json"))
        assert len(after) == len(before) + 1, command
        entry, before = after[-1], after
        assert (entry["action"], entry["author"], entry["request"]) == (action, "command", None), command
        assert (entry["object"] and about == "*") or entry["object"] == about, command
        assert secret not in json.dumps(entry)


def test_a_command_on_the_database_says_so_where_a_service_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("secrets", "rotate")
    monkeypatch.setenv("DROPOFF_SECRET_KEYS", new_key())
    for name in ("DROPOFF_DATA", "DROPOFF_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DROPOFF_URL", "https://dropoff.example")
    monkeypatch.setenv("DROPOFF_OPERATOR_KEY", OPERATOR)
    monkeypatch.chdir(tmp_path)
    assert "works on the database" in refused(*command)
    # Whoever names a database means it.
    monkeypatch.setenv("DROPOFF_DATA", str(tmp_path / "data"))
    assert "there is no database at" in refused(*command)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("accounts", "list"),
        ("keys", "list"),
        ("leftovers", "list"),
        ("notifications", "list"),
        ("destinations", "list"),
        ("audit",),
        ("migrate", "--check"),
        ("secrets", "rotate"),
    ],
    ids=" ".join,
)
def test_a_command_that_only_looks_makes_no_database(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DROPOFF_URL", "DROPOFF_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DROPOFF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DROPOFF_SECRET_KEYS", new_key())
    assert "there is no database at" in refused(*command)
    assert list(tmp_path.iterdir()) == []
    assert done("migrate") and [path.name for path in (tmp_path / "data").glob("*.db")] == ["dropoff.db"]
