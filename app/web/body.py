"""One mapping of parameters out of a form or a JSON object."""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from aiohttp import web

from app.domain.errors import InvalidParameters, InvalidRequest, ParameterFault
from app.domain.faults import Fault
from app.domain.prefix import TOKENS
from app.domain.types import KEYS, PREFIXES, printable

BODY_LIMIT = 64 * 1024
RESULT_SET_LIMIT = 1024 * 1024
"""What a result set of a thousand files may take."""
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

# As a form has it in which nothing is escaped. Where two hexadecimal digits follow, an escape may begin there.
_TOKEN = re.compile(rb"%%(%s)%%(?![0-9A-Fa-f]{2})" % "|".join(TOKENS).encode())
_FORM_LIKE = re.compile(rb"\s*[A-Za-z_][\w.%-]*=")
_BARE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
DEEPEST = 20
"""No body of ours has more than a few levels."""
_UNREADABLE = "The body is not JSON that can be read: it is nested too deeply, or has a huge number."
_PERCENT_ADVICE = (
    "The form body is not percent-encoded correctly: a % that stands for itself, as in %DATE%, is written %25 "
    "(curl does that with --data-urlencode)."
)


async def parameters_of(request: web.Request, limit: int = BODY_LIMIT) -> dict[str, Any]:
    """The parameters of a body of at most `limit` bytes. Raises InvalidRequest or InvalidParameters with what to
    correct; aiohttp's own 413 and 415 otherwise."""
    if not request.body_exists:
        return {}
    if request.content_type not in (JSON, FORM) or "Content-Type" not in request.headers:
        raise web.HTTPUnsupportedMediaType
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise web.HTTPUnsupportedMediaType
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType
    if (request.content_length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit, request.content_length or 0)
    body = await request.clone(client_max_size=limit).read()
    return _json(body) if request.content_type == JSON else _form(body)


def _json(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        if _FORM_LIKE.match(body):
            raise InvalidRequest(f"The body is a form: send it with Content-Type: {FORM}.") from None
        message = f"The body is not valid JSON: see line {error.lineno}, column {error.colno}."
        raise InvalidRequest(message) from None
    except (RecursionError, ValueError):
        raise InvalidRequest(_UNREADABLE) from None
    if _is_deep(content):
        raise InvalidRequest(_UNREADABLE)
    if b"\\u" in body and not _encodable(content):
        raise InvalidRequest("The body has half a surrogate pair (as \\ud800 alone), which is no character.")
    if not isinstance(content, dict):
        raise InvalidRequest('The body must be a JSON object of parameters, as in {"name": "…"}.')
    return content


def _is_deep(content: object) -> bool:
    """Whether it is nested deeper than DEEPEST; how much Python itself can read and write differs by release."""
    level = [content]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _inside(each)]
    return bool(level)


def _inside(content: object) -> Iterable[object]:
    return content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()


def _encodable(content: object) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        _repeated(next(name for name in names if names.count(name) > 1))
    return content


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidRequest("The body is not valid JSON: NaN and Infinity are no JSON values.")


def _form(body: bytes) -> dict[str, Any]:
    if body.lstrip()[:1] in (b"{", b"["):
        raise InvalidRequest(f"The body is JSON: send it with Content-Type: {JSON}.")
    content: dict[str, Any] = {}
    faults: list[ParameterFault] = []
    for pair in body.split(b"&"):
        if not pair:
            continue
        name, value = _name_and_value(pair)
        if name in content:
            _repeated(name)
        content[name] = value
        if name in KEYS and (rule := _changed(value, pair)):
            faults.append(ParameterFault(name, Fault.INVALID_PARAMETER, f"{name} {rule}"))
    if faults:
        raise InvalidParameters(faults)
    return content


def _name_and_value(pair: bytes) -> tuple[str, str]:
    first, _, second = pair.partition(b"=")
    name = _decoded(first)
    # Unescaped, %DATE% is neither an escape nor UTF-8, so that it can mean nothing but the token.
    return name, _decoded(_TOKEN.sub(rb"%25\1%25", second) if name in PREFIXES else second)


def _changed(key: str, pair: bytes) -> str | None:
    """Why `key`, which came as `pair`, may be another than the customer's; None where it is not.

    A form reads + as a space. Where that stands at an end, to trim it would be to store another key in silence.
    """
    if b"+" in pair:
        return (
            "has a + that is not escaped, which a form reads as a space: write %2B (curl does with --data-urlencode)."
        )
    if key != key.strip():
        return "begins or ends with white space, which no key does: send it without, and write a + as %2B."
    return None


def _decoded(part: bytes) -> str:
    if _BARE_PERCENT.search(part):
        raise InvalidRequest(_PERCENT_ADVICE)
    try:
        return unquote_to_bytes(part.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(_PERCENT_ADVICE) from None


def _repeated(name: str) -> NoReturn:
    raise InvalidRequest(f"{printable(name)} stands twice in the body: send each parameter once.")
