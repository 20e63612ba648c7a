"""Who calls: the account that the request's key opens, or the operator."""

import hmac
import time
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from pydantic import SecretStr

from app.domain.errors import InvalidRequest, Unauthorized

_MESSAGE = (
    "No account has this API key: send a valid one as Authorization: Bearer KEY, or as api_key on the query string."
)


SESSION = "dropoff_operator"
"""The cookie of an operator who has signed in to the dashboard."""
SESSION_SECONDS = 12 * 3600


class KnowsKeys(Protocol):
    """Where keys are looked up."""

    async def account_of(self, key: str) -> int | None: ...


def key_of(request: web.Request) -> str:
    """The key in the Authorization header or on the query string; empty where there is none."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return str(request.query.get("api_key", ""))


async def account_of(request: web.Request, keys: KnowsKeys) -> int:
    """The caller's account. Raises Unauthorized for no key and for a wrong one, in the same words."""
    key = key_of(request)
    account = await keys.account_of(key) if key else None
    if account is None:
        raise Unauthorized(_MESSAGE)
    return account


@dataclass(frozen=True)
class Caller:
    """Who calls. `account` is None for the operator, who has none and sees those of all."""

    account: int | None


def is_operator(key: str, operator: SecretStr) -> bool:
    """Whether `key` is the operator's; where none is set, no key is."""
    known = operator.get_secret_value().encode()
    return bool(known) and hmac.compare_digest(key.encode(errors="surrogatepass"), known)


def new_session(operator: SecretStr) -> str:
    """What opens for SESSION_SECONDS what the operator may look at. Any process can tell that it was made with the
    key, which cannot be read out of it; another key ends it."""
    until = str(round(time.time()) + SESSION_SECONDS)
    return f"{until}.{_signature(until, operator)}"


def _signature(until: str, operator: SecretStr) -> str:
    return hmac.digest(operator.get_secret_value().encode(), f"{SESSION} {until}".encode(), "sha256").hex()


def has_session(request: web.Request, operator: SecretStr) -> bool:
    """Whether the request has a session that was made with the operator's key and is not over."""
    until, _, signature = request.cookies.get(SESSION, "").partition(".")
    known = bool(operator.get_secret_value()) and hmac.compare_digest(
        signature.encode(errors="surrogatepass"), _signature(until, operator).encode()
    )
    return known and int(until) > time.time()


def operator_calls(request: web.Request, operator: SecretStr) -> bool:
    """Whether the operator calls: by the key, or by the session of the dashboard where nothing but that is sent. A
    browser sends the session by itself, so it is good for looking only."""
    if key := key_of(request):
        return is_operator(key, operator)
    return request.method in ("GET", "HEAD") and has_session(request, operator)


async def caller_of(request: web.Request, keys: KnowsKeys, operator: SecretStr) -> Caller:
    """The account or the operator who calls. Raises Unauthorized as account_of does."""
    if operator_calls(request, operator):
        return Caller(None)
    return Caller(await account_of(request, keys))


def require_operator(request: web.Request, operator: SecretStr) -> None:
    """Raises Unauthorized unless the operator calls."""
    if not operator_calls(request, operator):
        raise Unauthorized("This is for the operator: send DROPOFF_OPERATOR_KEY as Authorization: Bearer KEY.")


def query_of(request: web.Request) -> dict[str, str]:
    """The query string's parameters without the key. Raises InvalidRequest where one is repeated."""
    parameters = {name: value for name, value in request.query.items() if name != "api_key"}
    if len(request.query.getall("api_key", [])) > 1 or len(parameters) < sum(n != "api_key" for n in request.query):
        raise InvalidRequest("A parameter stands twice on the query string: send each once.")
    return parameters
