"""What an operator's commands ask a running service, or the database itself, and how they print what is answered."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import click

from app.cli import fail
from app.cli.remote import NoAnswer, Refused, Service

if TYPE_CHECKING:
    from app.settings import Settings

Answer = dict[str, Any]

FOLLOW_SECONDS = 2.0


class Administration(Protocol):
    """What can be asked; each answers as the call of the same name does, and ends the process where it is refused."""

    def accounts(self, search_term: str) -> Iterator[Answer]: ...
    def account(self, name: str) -> Answer: ...
    def create(self, name: str, own: Mapping[str, Any]) -> Answer: ...
    def change(self, name: str, own: Mapping[str, Any]) -> Answer: ...
    def delete(self, name: str) -> None: ...
    def keys(self, name: str) -> list[Answer]: ...
    def add_key(self, name: str, given: Mapping[str, Any]) -> Answer: ...
    def revoke_key(self, name: str, key: str) -> None: ...
    def every_key(self) -> Iterator[Answer]:
        """The keys of all accounts, each with the `account_name`."""

    def ensure_key(self, name: str) -> str:
        """A new key of the account, which is made where there is none."""

    def destinations(self, query: Mapping[str, str]) -> Iterator[Answer]: ...
    def leftovers(self) -> Iterator[Answer]: ...
    def retry_leftover(self, leftover: str) -> None: ...
    def forget_leftover(self, leftover: str) -> None: ...
    def notifications(self) -> Iterator[Answer]: ...
    def retry_notifications(self, notification: str | None) -> int:
        """Those that were given up, or this one; how many."""

    def forget_notification(self, notification: str) -> None: ...
    def audit(self, query: Mapping[str, str]) -> Answer:
        """Raises NoAnswer where the same may succeed later."""


def administration(settings: "Settings", url: str | None, key: str | None) -> Administration:
    """The service at `url`, or the database of `settings` where there is none."""
    if not url:
        # A service is asked without what the database needs, which takes a while to import.
        from app.cli.database import ByDatabase

        return ByDatabase(settings)
    made = settings.data / "operator_key"
    given = key or settings.operator_key.get_secret_value() or settings.operator_read_key.get_secret_value()
    if not given and made.exists():
        given = made.read_text().strip()
    if not given:
        fail("the operator's key is missing: give --key, or DROPOFF_OPERATOR_KEY in the environment")
    try:
        return ByService(Service(url, given))
    except ValueError:
        fail("--url (or DROPOFF_URL) must be the address of the service, as in https://dropoff.example")


class ByService:
    """By the calls of a running service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def accounts(self, search_term: str) -> Iterator[Answer]:
        yield from self._every("/accounts", "accounts", {"search_term": search_term})

    def account(self, name: str) -> Answer:
        return self._one(self._call("GET", _path(name)), "account")

    def create(self, name: str, own: Mapping[str, Any]) -> Answer:
        return self._one(self._call("POST", "/accounts", {"name": name, **own}), "account")

    def change(self, name: str, own: Mapping[str, Any]) -> Answer:
        return self._one(self._call("PUT", _path(name), own), "account")

    def delete(self, name: str) -> None:
        self._call("DELETE", _path(name))

    def keys(self, name: str) -> list[Answer]:
        listed: list[Answer] = self._call("GET", f"{_path(name)}/keys")["keys"]
        return listed

    def add_key(self, name: str, given: Mapping[str, Any]) -> Answer:
        return self._one(self._call("POST", f"{_path(name)}/keys", given), "key")

    def revoke_key(self, name: str, key: str) -> None:
        self._call("DELETE", f"{_path(name)}/keys/{quote(key, safe='')}")

    def every_key(self) -> Iterator[Answer]:
        for account in self.accounts(""):
            yield from ({**key, "account_name": account["name"]} for key in self.keys(account["name"]))

    def ensure_key(self, name: str) -> str:
        if all(each["name"] != name for each in self.accounts(name)):
            self.create(name, {})
        return str(self.add_key(name, {})["key"])

    def destinations(self, query: Mapping[str, str]) -> Iterator[Answer]:
        yield from self._every("/destinations", "destinations", query)

    def leftovers(self) -> Iterator[Answer]:
        yield from self._every("/leftovers", "leftovers", {})

    def retry_leftover(self, leftover: str) -> None:
        self._call("POST", f"/leftovers/{quote(leftover, safe='')}/retry")

    def forget_leftover(self, leftover: str) -> None:
        self._call("DELETE", f"/leftovers/{quote(leftover, safe='')}")

    def notifications(self) -> Iterator[Answer]:
        cursor: int | None = 0
        while cursor is not None:
            page = self._call("GET", "/notifications", query={"cursor": str(cursor)})
            yield from page["notifications"]
            cursor = page["next_cursor"]

    def retry_notifications(self, notification: str | None) -> int:
        which = "" if notification is None else f"/{quote(notification, safe='')}"
        return int(self._call("POST", f"/notifications{which}/retry")["retried"])

    def forget_notification(self, notification: str) -> None:
        self._call("DELETE", f"/notifications/{quote(notification, safe='')}")

    def audit(self, query: Mapping[str, str]) -> Answer:
        try:
            return self._service.call("GET", "/audit", query=query)
        except Refused as error:
            fail(str(error))

    def _every(self, path: str, what: str, query: Mapping[str, str]) -> Iterator[Answer]:
        number, pages = 1, 1
        while number <= pages:
            page = self._call("GET", path, query={**query, "page": str(number)})
            yield from page[what]
            number, pages = number + 1, int(page["total_pages"])

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> Answer:
        try:
            return self._service.call(method, path, body, query)
        except (Refused, NoAnswer) as error:
            fail(str(error))

    def _one(self, answer: Answer, what: str) -> Answer:
        one: Answer = answer[what]
        return one


def _path(name: str) -> str:
    return f"/accounts/{quote(name, safe='')}"


def tell_account(account: Answer, *, as_json: bool) -> None:
    own = (("destinations", "destination_limit"), ("verifications", "verification_limit"), ("delete", "delete_policy"))
    said = "  ".join(f"{word} {'default' if account[name] is None else account[name]}" for word, name in own)
    _tell(account, f"{account['name']}  has {account['destinations']} destinations  limits: {said}", as_json=as_json)


def tell_key(key: Answer, *, as_json: bool) -> None:
    _tell(key, f"{key['id']}  {key['created_at']}  {key['name'] or '-'}", as_json=as_json)


def tell_destination(destination: Answer, *, as_json: bool) -> None:
    state = "enabled" if destination["enabled"] else "disabled"
    if destination["failing_since"]:
        state = f"{state}, failing since {destination['failing_since']}"
    if destination.get("failing"):
        state = f"{state} ({destination['failing']['code']})"
    line = f"{destination['id']}  {destination['account_name']}  {destination['type']}  {state}  {destination['name']}"
    _tell(destination, line, as_json=as_json)


def tell_leftover(leftover: Answer, *, as_json: bool) -> None:
    where = " ".join(f"{name}={value}" for name, value in leftover["parameters"].items())
    account = leftover.get("account_name") or leftover["account"]
    state = f"{leftover['state']}  {leftover['reason'] or '-'}  {leftover['tries']} tries"
    line = f"{leftover['id']}  {leftover['created_at']}  {account}  {state}  {leftover['type']}"
    _tell(leftover, f"{line}\n    {leftover['object']}  {where}", as_json=as_json)


def tell_notification(notification: Answer, *, as_json: bool) -> None:
    state = f"{notification['state']}  {notification['attempts']} attempts  {notification['reason'] or '-'}"
    line = f"{notification['id']}  {notification['created_at']}  {notification['type']}  {state}"
    event = json.dumps(notification["event"], ensure_ascii=False)
    _tell(notification, f"{line}\n    {event}", as_json=as_json)


def tell_audit(asked: Administration, query: Mapping[str, str], *, follow: bool, as_json: bool) -> None:
    """Print the entries, the oldest first, and with `follow` those that come, until this process is interrupted."""
    query = {name: value for name, value in query.items() if value}
    page = _audit(asked, query)
    told = _tell_entries(page["entries"][::-1], as_json=as_json)
    filters = {name: value for name, value in query.items() if name != "limit"}
    while follow:
        page = _audit(asked, {**filters, "after": str(page["latest"])}, patient=True)
        # An entry may be in the list before it is certain that none comes before it.
        _tell_entries([each for each in page["entries"] if each["id"] not in told], as_json=as_json)
        if not page["entries"]:
            _wait()


def _audit(asked: Administration, query: Mapping[str, str], *, patient: bool = False) -> Answer:
    """One page; a `patient` one waits for a service that does not answer, and says so once."""
    said = False
    while True:
        try:
            return asked.audit(query)
        except NoAnswer as error:
            if not patient:
                fail(str(error))
            if not said:
                click.echo(f"dropoff: {error}", err=True)
            said = True
            _wait()


def _wait() -> None:
    time.sleep(FOLLOW_SECONDS)


def _tell_entries(entries: list[Answer], *, as_json: bool) -> set[int]:
    for entry in entries:
        author = " ".join(filter(None, (entry["author"], entry["author_key"])))
        details = json.dumps(entry["details"], ensure_ascii=False)
        line = (
            f"{entry['at']}  {author}  {entry['action']}  {entry['account_name']}  {entry['object'] or '-'}  {details}"
        )
        _tell(entry, line, as_json=as_json)
    return {entry["id"] for entry in entries}


def _tell(content: Answer, line: str, *, as_json: bool) -> None:
    click.echo(json.dumps(content, ensure_ascii=False) if as_json else line)


def read_key() -> str:
    """A key from standard input, of which nothing is shown: among the arguments, others on the machine could see it."""
    if sys.stdin.isatty():
        return str(click.prompt("The key", hide_input=True))
    return sys.stdin.readline().strip()
