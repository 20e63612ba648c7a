"""Who calls: the account that the request's key opens, or the operator."""

import hmac
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog
from aiohttp import web
from pydantic import SecretStr

from app.domain.audit import Author, AuthorKind, act_as
from app.domain.errors import (
    DropoffError,
    InvalidParameters,
    InvalidRequest,
    ParameterFault,
    ReadOnlyKey,
    TooManyGuesses,
    Unauthorized,
)
from app.domain.faults import Fault
from app.domain.types import printable
from app.observe.seldom import Seldom
from app.store.accounts import Accounts, Owner, key_hash, key_id

log = structlog.get_logger()

_MESSAGE = (
    "No account has this API key: send a valid one as Authorization: Bearer KEY, or as api_key on the query string."
)
_NO_KEY = (
    "No API key was found in this request: send it as Authorization: Bearer KEY, with the word Bearer, or as api_key "
    "on the query string."
)
_OPERATORS = "This is the operator's key, and a customer's call: make it with a key of the account that is meant."
_READ_ONLY = "This is the operator's read-only key: it looks at everything and changes nothing."
SESSION = "dropoff_operator"
"""The cookie of an operator who has signed in to the dashboard."""
SESSION_SECONDS = 12 * 3600
PAGE_TOKEN = "X-Dropoff-Page"
"""The header in which the dashboard's page proves that it is the one that makes a call (see page_token)."""
GUESSES = 60.0
"""How many wrong keys may come in place of the operator's before each has to wait for a second."""
WRONG_KEPT = 1000
_LOOKING = ("GET", "HEAD")


def key_of(request: web.Request) -> str:
    """The key in the Authorization header or on the query string; empty where there is none."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return str(request.query.get("api_key", ""))


async def account_of(request: web.Request, accounts: Accounts, operator: "Operator") -> int:
    """The caller's account. Raises Unauthorized, which says whether there was no key, a wrong one or the operator's,
    and ReadOnlyKey for the one of the operator's that changes nothing."""
    key = key_of(request)
    owner = await accounts.owner_of(key) if key else None
    if owner is None:
        raise _no_accounts(key, request, operator)
    _sign(AuthorKind.ACCOUNT, key_id(key))
    return told(owner)


def told(owner: Owner) -> int:
    """The account of `owner`, whose name every line of this request has from now on."""
    structlog.contextvars.bind_contextvars(account=owner.name)
    return owner.account


def _no_accounts(key: str, request: web.Request, operator: "Operator") -> DropoffError:
    """Why `key`, empty where there was none, is refused where an account's is wanted."""
    if not key:
        return Unauthorized(_NO_KEY)
    access = operator.access_of_stray(key)
    if access is Access.READ and request.method not in _LOOKING:
        return ReadOnlyKey(_READ_ONLY)
    return Unauthorized(_OPERATORS if access else _MESSAGE)


def _sign(kind: AuthorKind, key: str | None = None) -> None:
    """Put down what this request does to who makes it."""
    act_as(Author(kind, key, structlog.contextvars.get_contextvars().get("request")))


class Access(StrEnum):
    """What a key of the operator's allows."""

    FULL = "full"
    READ = "read"


@dataclass(frozen=True)
class Caller:
    """Who calls. `account` is None for the operator, who has none and sees those of all."""

    account: int | None


class AccountNames:
    """The names of accounts, which the operator sees beside what belongs to them."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        # An account is never renamed.
        self._names: dict[int, str] = {}

    async def learn(self, caller: Caller, accounts: Iterable[int]) -> None:
        """Look up those that `caller` is to see."""
        if caller.account is None and (unknown := set(accounts) - self._names.keys()):
            self._names |= await self._accounts.names(unknown)

    def shown(self, caller: Caller, account: int) -> dict[str, Any]:
        """Whose something is, as `caller` sees it."""
        named = {"account_name": self._names.get(account)} if caller.account is None else {}
        return {"account": account, **named}


def _bytes(text: str) -> bytes:
    """`text` of a request, in which a byte that was not UTF-8 stands as half a surrogate pair."""
    return text.encode(errors="surrogatepass")


class _Guesses:
    """How many wrong keys may yet come: GUESSES, and one more a second."""

    def __init__(self) -> None:
        self._left = GUESSES
        self._at = time.monotonic()

    def are_left(self) -> bool:
        now = time.monotonic()
        self._left, self._at = min(GUESSES, self._left + now - self._at), now
        return self._left >= 1

    def add(self, number: int) -> None:
        self._left += number


class Operator:
    """The operator's keys, of which one only reads, and how fast they may be guessed: GUESSES wrong keys, and then one
    more a second, by all who try together. A wrong key that comes again is no other guess, so that a program with an
    old key hinders nobody; and a session is signed, and is none. What comes where a customer's key is wanted is counted
    by itself: many customers with keys that are no longer good must not keep the operator out."""

    def __init__(self, key: SecretStr, read_key: SecretStr | None = None) -> None:
        given = {Access.FULL: key, Access.READ: read_key}
        self._keys = {
            access: each.get_secret_value() for access, each in given.items() if each and each.get_secret_value()
        }
        self._guesses, self._strays = _Guesses(), _Guesses()
        self._telling = Seldom()
        # The hashes of the last wrong keys, and where each still counts as a guess.
        self._wrong: OrderedDict[str, _Guesses | None] = OrderedDict()

    @property
    def is_set(self) -> bool:
        return bool(self._keys)

    @property
    def keys(self) -> frozenset[str]:
        """The keys themselves, which no customer's may be."""
        return frozenset(self._keys.values())

    def access(self, key: str) -> Access | None:
        """What `key` allows, None where it is none of the operator's; where none is set, no key is. Raises
        TooManyGuesses, and then it was not looked at."""
        if self._is_unknown(key) and not self._guesses.are_left():
            if self._telling.is_due():
                log.warning("the operator's key is guessed")
            raise TooManyGuesses("Too many wrong keys came in place of the operator's: try again in a second.")
        return self._access(key, self._guesses)

    def access_of_stray(self, key: str) -> Access | None:
        """What `key` allows, which came where a customer's is wanted and is none. None also where too many wrong ones
        came, and then it was not looked at."""
        return self._access(key, self._strays) if key and self._strays.are_left() else None

    def _is_unknown(self, key: str) -> bool:
        """Whether it must be compared with the operator's, since it is not known to be wrong."""
        return bool(self._keys) and key_hash(key) not in self._wrong

    def _access(self, key: str, guesses: _Guesses) -> Access | None:
        if not self._is_unknown(key):
            return None
        for access, right in self._keys.items():
            if hmac.compare_digest(_bytes(key), right.encode()):
                return access
        guesses.add(-1)
        self._wrong[key_hash(key)] = guesses
        if len(self._wrong) > WRONG_KEPT:
            self._wrong.popitem(last=False)
        return None

    def pardon(self, key: str) -> None:
        """`key` is an account's, and was no guess."""
        hashed = key_hash(key)
        if guesses := self._wrong.get(hashed):
            self._wrong[hashed] = None
            guesses.add(1)

    def sign(self, text: str, access: Access = Access.FULL) -> str:
        """The signature of `text` by the key that allows this; nobody's where there is none."""
        key = self._keys.get(access)
        return hmac.digest(key.encode(), _bytes(text), "sha256").hex() if key else ""


def new_session(operator: Operator, access: Access = Access.FULL) -> str:
    """A cookie's value that lets its bearer look at what the operator may, for SESSION_SECONDS. It is signed with the
    operator's key that was given, so that every process can check it, and a new key ends it."""
    expires = str(round(time.time()) + SESSION_SECONDS)
    return f"{expires}.{operator.sign(f'{SESSION} {expires}', access)}"


def session_of(request: web.Request, operator: Operator) -> Access | None:
    """What the key allows that the request's session was signed with; None where it has none, or one that expired."""
    expires, _, signature = request.cookies.get(SESSION, "").partition(".")
    for access in Access:
        right = operator.sign(f"{SESSION} {expires}", access)
        if right and hmac.compare_digest(_bytes(signature), right.encode()):
            return access if int(expires) > time.time() else None
    return None


def has_session(request: web.Request, operator: Operator) -> bool:
    """Whether the request has a session that was signed with a key of the operator's and has not expired."""
    return session_of(request, operator) is not None


def page_token(request: web.Request, operator: Operator) -> str:
    """What the dashboard's page of this request's session is given, and sends with what its buttons do: no page of
    another origin can read it. Empty where the session only looks."""
    session = request.cookies.get(SESSION, "")
    return operator.sign(f"{PAGE_TOKEN} {session}") if session_of(request, operator) is Access.FULL else ""


def _session_may(request: web.Request, operator: Operator, *, button: bool) -> Access | None:
    """What the request's session allows it. A browser sends a session unasked, whoever made the page, so that it only
    allows to read; and, with the page's token, to do what the dashboard has a `button` for."""
    if request.method in _LOOKING:
        return session_of(request, operator)
    token, right = request.headers.get(PAGE_TOKEN, ""), page_token(request, operator)
    pressed = button and right and hmac.compare_digest(_bytes(token), right.encode())
    return Access.FULL if pressed else None


def operator_calls(request: web.Request, operator: Operator, *, button: bool = False) -> bool:
    """Whether the operator calls: with a key, or, where there is no key at all, with the session of the dashboard, as
    far as that may: `button` says that the dashboard has one for this call. Raises TooManyGuesses, and ReadOnlyKey
    where the key is the one that only reads and the call would change something."""
    if key := key_of(request):
        access = operator.access(key)
        if access is Access.READ and request.method not in _LOOKING:
            raise ReadOnlyKey(_READ_ONLY)
    else:
        access = _session_may(request, operator, button=button)
    if access:
        _sign(AuthorKind.OPERATOR)
    return access is not None


async def caller_of(request: web.Request, accounts: Accounts, operator: Operator, *, button: bool = False) -> Caller:
    """The account or the operator who calls. Raises Unauthorized as account_of does, and TooManyGuesses where the key
    is no account's either."""
    try:
        if operator_calls(request, operator, button=button):
            return Caller(None)
    except TooManyGuesses:
        owner = await accounts.owner_of(key_of(request))
        if owner is None:
            raise
        _sign(AuthorKind.ACCOUNT, key_id(key_of(request)))
        return Caller(told(owner))
    account = await account_of(request, accounts, operator)
    operator.pardon(key_of(request))
    return Caller(account)


async def customer_or_operator(
    request: web.Request, accounts: Accounts, operator: Operator, *, button: bool = False
) -> Caller:
    """The account whose customer calls, or the operator, who may do the same; `button` says that the dashboard has one
    for this call. Raises Unauthorized and ReadOnlyKey as account_of does."""
    key = key_of(request)
    owner = await accounts.owner_of(key) if key else None
    if owner is not None:
        _sign(AuthorKind.ACCOUNT, key_id(key))
        return Caller(told(owner))
    access = operator.access_of_stray(key) if key else _session_may(request, operator, button=button)
    if not access:
        raise Unauthorized(_MESSAGE if key else _NO_KEY)
    if access is Access.READ and request.method not in _LOOKING:
        raise ReadOnlyKey(_READ_ONLY)
    _sign(AuthorKind.OPERATOR)
    return Caller(None)


def require_operator(request: web.Request, operator: Operator, *, button: bool = False) -> None:
    """Raises Unauthorized unless the operator calls, and TooManyGuesses; `button` says that the dashboard has one for
    this call."""
    if not operator_calls(request, operator, button=button):
        raise Unauthorized("This is for the operator: send DROPOFF_OPERATOR_KEY as Authorization: Bearer KEY.")


def query_of(request: web.Request) -> dict[str, str]:
    """The query string's parameters without the key.

    Raises InvalidRequest where one is repeated, InvalidParameters where a value has a NUL, which no database takes.
    """
    parameters = {name: value for name, value in request.query.items() if name != "api_key"}
    names = [printable(name) for name, value in parameters.items() if "\0" in value]
    if names:
        raise InvalidParameters(
            [ParameterFault(name, Fault.INVALID_PARAMETER, f"{name} has a NUL (%00) in it.") for name in names]
        )
    if len(request.query.getall("api_key", [])) > 1 or len(parameters) < sum(n != "api_key" for n in request.query):
        raise InvalidRequest("A parameter stands twice on the query string: send each once.")
    return parameters
