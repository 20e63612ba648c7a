"""One mapping of parameters out of a form or a JSON object."""

import json
import re
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from aiohttp import web

from app.domain.errors import InvalidRequest
from app.domain.specs import printable

BODY_LIMIT = 64 * 1024
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

_BARE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PERCENT_ADVICE = (
    "The form body is not percent-encoded correctly: a % that stands for itself, as in %DATE%, is written %25 "
    "(curl does that with --data-urlencode)."
)


async def parameters_of(request: web.Request) -> dict[str, Any]:
    """The body's parameters. Raises InvalidRequest with what to correct; aiohttp's own 413 and 415 otherwise."""
    if not request.body_exists:
        return {}
    if request.content_type not in (JSON, FORM) or "Content-Type" not in request.headers:
        raise web.HTTPUnsupportedMediaType
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise web.HTTPUnsupportedMediaType
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType
    if (request.content_length or 0) > BODY_LIMIT:
        raise web.HTTPRequestEntityTooLarge(BODY_LIMIT, request.content_length or 0)
    body = await request.read()
    return _json(body) if request.content_type == JSON else _form(body)


def _json(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        message = f"The body is not valid JSON: see line {error.lineno}, column {error.colno}."
        raise InvalidRequest(message) from None
    except (RecursionError, ValueError):
        raise InvalidRequest(
            "The body is not JSON that can be read: it is nested too deeply, or has a huge number."
        ) from None
    if b"\\u" in body and not _encodable(content):
        raise InvalidRequest("The body has half a surrogate pair (as \\ud800 alone), which is no character.")
    if not isinstance(content, dict):
        raise InvalidRequest('The body must be a JSON object of parameters, as in {"name": "…"}.')
    return content


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
    if _BARE_PERCENT.search(body):
        raise InvalidRequest(_PERCENT_ADVICE)
    content: dict[str, Any] = {}
    for pair in body.split(b"&"):
        if not pair:
            continue
        name, _, value = (_decoded(part) for part in pair.partition(b"="))
        if name in content:
            _repeated(name)
        content[name] = value
    return content


def _decoded(part: bytes) -> str:
    try:
        return unquote_to_bytes(part.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(_PERCENT_ADVICE) from None


def _repeated(name: str) -> NoReturn:
    raise InvalidRequest(f"{printable(name)} stands twice in the body: send each parameter once.")
