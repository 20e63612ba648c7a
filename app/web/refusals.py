"""Notes for the dashboard which requests were refused before they became a job."""

from typing import Any, Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from app.domain.errors import DropoffError
from app.web.errors import HTTP_FAULTS

_ROUTES = ("/destination", "/destinations", "/destinations/verify", "/destinations/{id}", "/destinations/{id}/verify")


class RefusalCounts(Protocol):
    """Where refusals are counted."""

    def note(self, code: str, owner: str) -> None: ...


def has_workers_verify(request: web.Request) -> bool:
    """Whether the call is one of those that have workers verify, or may."""
    resource = request.match_info.route.resource
    return request.method in ("POST", "PUT") and resource is not None and resource.canonical.rstrip("/") in _ROUTES


def noting_refusals(counts: RefusalCounts) -> Middleware:
    """Count in `counts` each refusal of a call that has workers verify, unless a job came of it."""

    @web.middleware
    async def noted(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except DropoffError as error:
            if not {"job", "verification"} & error.details.keys():
                _note(request, error.code)
            raise
        except web.HTTPException as error:
            if error.status in HTTP_FAULTS:
                _note(request, HTTP_FAULTS[error.status][0])
            raise
        return response

    def _note(request: web.Request, code: str) -> None:
        if has_workers_verify(request):
            counts.note(code, structlog.contextvars.get_contextvars().get("account", ""))

    return noted
