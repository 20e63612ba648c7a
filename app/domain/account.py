"""An account, its keys and its limits: what an operator may say of them, and how they are shown."""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.deletes import DeletePolicy
from app.domain.destination import NAME_LIMIT, is_name, timestamp
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import Fault
from app.domain.listing import parse_page, unknown_parameters, whole_number

PAGE_SIZE = 50
KEY_ID_LENGTH = 12
KEY_LENGTH = 16
"""The shortest that a key may be which an account brings along: it is stored under a hash that is fast."""
LIMITS: Mapping[str, tuple[int, int]] = {"destination_limit": (0, 1_000_000), "verification_limit": (1, 100_000)}
"""What an account may have its own of, each with the least and the most."""
OWN = (*LIMITS, "delete_policy")
"""What an account may have its own of; where it has none, it is as the settings say."""

_KEY = re.compile(rf"[\x21-\x7e]{{{KEY_LENGTH},255}}")
_KEY_ID = re.compile(f"[0-9a-f]{{{KEY_ID_LENGTH}}}")


@dataclass(frozen=True)
class Account:
    """One account; `destinations` counts those that it has. What is None is as the settings say."""

    id: int
    name: str
    destinations: int
    created_at: datetime
    destination_limit: int | None = None
    verification_limit: int | None = None
    delete_policy: DeletePolicy | None = None

    def as_answer(self) -> dict[str, Any]:
        return {
            "account": self.id,
            "name": self.name,
            "destinations": self.destinations,
            "destination_limit": self.destination_limit,
            "verification_limit": self.verification_limit,
            "delete_policy": self.delete_policy,
            "created_at": timestamp(self.created_at),
        }


@dataclass(frozen=True)
class Key:
    """An API key as it may be shown: its id opens nothing. `name` is what the operator calls it."""

    id: str
    name: str | None
    created_at: datetime

    def as_answer(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "created_at": timestamp(self.created_at)}


@dataclass(frozen=True)
class KeyDraft:
    """What a key is to be called, and the key itself where the account brings it along."""

    name: str | None
    key: str | None


@dataclass(frozen=True)
class AccountQuery:
    """Which page of the accounts is asked for, in the order of their names."""

    search_term: str = ""
    page: int = 1


@dataclass(frozen=True)
class AccountPage:
    """One page of a listing; `matching` counts all accounts that match."""

    accounts: tuple[Account, ...]
    matching: int


def is_account_name(text: str) -> bool:
    """Whether an account can be called `text`: `.` and `..` are no part that a path can have."""
    return is_name(text) and text == text.strip() and text not in (".", "..")


def is_key_id(text: str) -> bool:
    return bool(_KEY_ID.fullmatch(text))


def parse_account(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the account that `body` asks for, and what it is to have of its own. Raises InvalidParameters with
    every fault at once."""
    faults = unknown_parameters(body, ("name", *OWN), "an account")
    name = body.get("name")
    name = name.strip() if isinstance(name, str) else name
    if name in (None, ""):
        faults.append(ParameterFault("name", "missing_parameter", "name is required."))
    elif not isinstance(name, str) or not is_account_name(name):
        rule = f"name must be 1 to {NAME_LIMIT} characters without control characters, and not just dots."
        faults.append(ParameterFault("name", Fault.INVALID_PARAMETER, rule))
    own = _own(body, faults)
    if faults:
        raise InvalidParameters(faults)
    return str(name), own


def parse_account_change(body: Mapping[str, Any]) -> dict[str, Any]:
    """What `body` gives an account of its own, or takes from it, which null and an empty text do. Raises
    InvalidParameters with every fault at once."""
    faults = unknown_parameters(body, OWN, "an account that can be changed")
    own = _own(body, faults)
    if faults:
        raise InvalidParameters(faults)
    return own


def _own(body: Mapping[str, Any], faults: list[ParameterFault]) -> dict[str, Any]:
    """What `body` has of OWN; what cannot be read is added to `faults`."""
    own: dict[str, Any] = {name: None for name in OWN if name in body and body[name] in (None, "")}
    for name in [each for each in OWN if each in body and each not in own]:
        try:
            own[name] = _limit(name, body[name]) if name in LIMITS else DeletePolicy(body[name])
        except (ValueError, TypeError):
            faults.append(ParameterFault(name, Fault.INVALID_PARAMETER, f"{name} must be {_rule(name)}, or null."))
    return own


def _limit(name: str, value: object) -> int:
    least, most = LIMITS[name]
    number = whole_number(value) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise ValueError
    return number


def _rule(name: str) -> str:
    if name not in LIMITS:
        return " or ".join(DeletePolicy)
    return "a whole number from {} to {}".format(*LIMITS[name])


def parse_key(body: Mapping[str, Any], taken: Container[str]) -> KeyDraft:
    """The key that `body` asks for, which is none of `taken`. Raises InvalidParameters, which never repeats the key."""
    faults = unknown_parameters(body, ("name", "key"), "a key")
    name, key = (body.get(each) or None for each in ("name", "key"))
    if name is not None and (not isinstance(name, str) or not is_name(name)):
        rule = f"name must be 1 to {NAME_LIMIT} characters without control characters."
        faults.append(ParameterFault("name", Fault.INVALID_PARAMETER, rule))
    if key is not None and (not isinstance(key, str) or not _KEY.fullmatch(key)):
        rule = f"key must be {KEY_LENGTH} to 255 printable ASCII characters without spaces (a form has + as %2B)."
        faults.append(ParameterFault("key", Fault.INVALID_PARAMETER, rule))
    elif key is not None and key in taken:
        faults.append(
            ParameterFault("key", Fault.INVALID_PARAMETER, "key must be a customer's, and not the operator's.")
        )
    if faults:
        raise InvalidParameters(faults)
    return KeyDraft(name, key)


def parse_account_listing(parameters: Mapping[str, str]) -> AccountQuery:
    """The page that a query string asks for. Raises InvalidParameters for anything else."""
    faults = unknown_parameters(parameters, ("search_term", "page"), "the list of accounts")
    page = parse_page(parameters.get("page") or "1", faults)
    if faults:
        raise InvalidParameters(faults)
    return AccountQuery(parameters.get("search_term", ""), page)
