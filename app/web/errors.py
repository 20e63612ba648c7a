"""The error envelope: every refusal, ours or aiohttp's, in the one form that the contract gives."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from aiohttp import web

from app.domain.errors import (
    AccountExists,
    AccountInUse,
    AccountNotFound,
    CollectionNotFound,
    CredentialsUnreadable,
    DeliveryNotFound,
    DestinationChanged,
    DestinationInUse,
    DestinationNotFound,
    DropoffError,
    JobNotFound,
    KeyInUse,
    KeyNotFound,
    KeyReused,
    LeftoverNotFound,
    NotificationNotFound,
    ReadOnlyKey,
    ResultSetDiffers,
    ResultSetNotFound,
    SourceNotConfigured,
    StillUnderWay,
    TooManyGuesses,
    TooManyStreams,
    TooManyVerifications,
    Unauthorized,
    Unavailable,
    VerificationTimedOut,
)

log = structlog.get_logger()

_STATUS: tuple[tuple[type[DropoffError], int], ...] = (
    (Unauthorized, 401),
    (ReadOnlyKey, 403),
    (DestinationNotFound, 404),
    (JobNotFound, 404),
    (CollectionNotFound, 404),
    (ResultSetNotFound, 404),
    (DeliveryNotFound, 404),
    (AccountNotFound, 404),
    (KeyNotFound, 404),
    (LeftoverNotFound, 404),
    (NotificationNotFound, 404),
    (DestinationChanged, 409),
    (DestinationInUse, 409),
    (ResultSetDiffers, 409),
    (CredentialsUnreadable, 409),
    (AccountExists, 409),
    (AccountInUse, 409),
    (KeyInUse, 409),
    (StillUnderWay, 409),
    (KeyReused, 422),
    (TooManyVerifications, 429),
    (TooManyStreams, 429),
    (TooManyGuesses, 429),
    (Unavailable, 503),
    (SourceNotConfigured, 503),
    (VerificationTimedOut, 504),
    (DropoffError, 400),
)

# What aiohttp itself refuses, in words for a client.
HTTP_FAULTS = {
    400: ("invalid_request", "The request is not valid HTTP, or its body cannot be read."),
    404: ("not_found", "There is no such path: destinations are at /destinations and /destinations/ID."),
    405: ("method_not_allowed", "This path does not take this method; the Allow header names those it takes."),
    408: ("body_too_slow", "The body did not come within 30 seconds: send the whole of it with the request."),
    413: ("body_too_large", "The body is larger than 64 KiB, or than 1 MiB for a result set: no call needs that much."),
    415: (
        "unsupported_media_type",
        "Send the body as application/json or application/x-www-form-urlencoded, in UTF-8, and say so in Content-Type; "
        "a multipart form is not read (curl sends a plain one with --data-urlencode in place of -F).",
    ),
}


def answer(content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`content` as JSON."""
    return web.json_response(content, status=status, headers=headers, dumps=_dumps)


def _dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def refusal(
    status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, **details: Any
) -> web.Response:
    """The envelope of an answer that is not a success; `details` join the error object."""
    error = {"code": code, **{name: value for name, value in details.items() if value is not None}}
    envelope = {"request_info": {"success": False, "message": message}, "error": error}
    return answer(envelope, status=status, headers=headers)


def refused(error: DropoffError) -> web.Response:
    """The answer that `error` stands for."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return refusal(status, error.code, error.message, headers=headers, parameter=error.parameter, **error.details)


def broken() -> web.Response:
    """The answer where this service itself fails."""
    message = "Something broke on our side: look what became of the call, and tell us the X-Request-Id of this answer."
    return refusal(500, DropoffError.code, message)


@web.middleware
async def envelope(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer every error in the envelope, and give every answer a request id that the logs have too."""
    request_id = str(uuid.uuid4())
    with structlog.contextvars.bound_contextvars(request=request_id):
        response = await _enveloped(request, handler)
        response.headers["X-Request-Id"] = request_id
        return response


async def _enveloped(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except DropoffError as error:
        return refused(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code, message = HTTP_FAULTS.get(error.status, ("http_error", error.reason))
        headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return refusal(error.status, code, message, headers=headers)
    except Exception:
        log.exception("request broke")
        return broken()
