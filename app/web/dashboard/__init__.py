"""The dashboard: its page, the operator's signing in and out, and the figures that it shows."""

import asyncio
import html
import time
from collections.abc import Iterable
from pathlib import Path
from string import Template

from aiohttp import web
from pydantic import SecretStr
from yarl import URL

from app.domain.errors import Fault
from app.domain.job import State
from app.domain.specs import TYPES
from app.jobs.history import History, reading
from app.jobs.rates import faults, rates
from app.jobs.signs import Signs
from app.settings import OPERATOR_KEY_LENGTH
from app.web.auth import SESSION, SESSION_SECONDS, has_session, is_operator, new_session, require_operator
from app.web.body import parameters_of
from app.web.errors import answer

MINUTES = 60
# A wrong key is answered this much later. What keeps guesses out is the key's length; this keeps a log of them short.
WRONG_KEY_SECONDS = 1.0

_FOLDER = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NO_KEY = (
    "The dashboard is for the operator, and no operator's key is set: set DROPOFF_OPERATOR_KEY to at least "
    f"{OPERATOR_KEY_LENGTH} characters for every API process, start them again, and sign in here."
)
_WRONG_KEY = "This is not the operator's key: it is the value of DROPOFF_OPERATOR_KEY, or what dropoff up printed."


class DashboardHandlers:
    """Anybody may have the sign-in page and the files; the rest is for the operator."""

    def __init__(self, history: History, signs: Signs, operator: SecretStr) -> None:
        self._history = history
        self._signs = signs
        self._operator = operator
        options = {"states": _options(State), "types": _options(TYPES), "faults": _options(Fault)}
        self._page = Template((_FOLDER / "index.html").read_text()).substitute(options)
        self._sign_in = Template((_FOLDER / "sign_in.html").read_text())

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/dashboard", self.page),
            web.get("/dashboard/overview", self.overview),
            web.get("/dashboard/{name:dashboard\\.(?:css|js)}", self.file),
            web.post("/dashboard/session", self.sign_in),
            web.post("/dashboard/session/end", self.sign_out),
        ]

    async def page(self, request: web.Request) -> web.Response:
        if has_session(request, self._operator):
            return _html(self._page)
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            # A link on another site brings no cookie along; asked once more by this page, the browser sends it.
            return web.Response(headers={**_HEADERS, "Cache-Control": "no-store", "Refresh": "0"})
        return self._asking(request.rel_url.raw_query_string)

    async def file(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(_FOLDER / request.match_info["name"], headers={**_HEADERS, "Cache-Control": "no-cache"})

    async def sign_in(self, request: web.Request) -> web.Response:
        """Give a session for the operator's key, and go on to the view that was asked for."""
        parameters = await parameters_of(request)
        view = str(parameters.get("view", ""))
        if not is_operator(str(parameters.get("key", "")).strip(), self._operator):
            await asyncio.sleep(WRONG_KEY_SECONDS)
            return self._asking(view, _WRONG_KEY)
        response = _see_dashboard(view)
        response.set_cookie(
            SESSION, new_session(self._operator), max_age=SESSION_SECONDS, httponly=True, samesite="Strict",
            secure="https" in (request.scheme, request.headers.get("X-Forwarded-Proto")),
        )  # fmt: skip
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """End the session in this browser; another site's form brings no cookie and ends nothing."""
        response = _see_dashboard()
        if SESSION in request.cookies:
            response.del_cookie(SESSION, httponly=True, samesite="Strict")
        return response

    async def overview(self, request: web.Request) -> web.Response:
        """What the page shows above its jobs; times in seconds since the epoch, durations in milliseconds."""
        require_operator(request, self._operator)
        minutes = await self._history.minutes(MINUTES)
        async with reading():
            depth, oldest, held, workers = await asyncio.gather(
                self._signs.waiting(), self._signs.oldest(), self._signs.held(), self._signs.alive()
            )
        return answer(
            {
                "request_info": {"success": True},
                "now": time.time(),
                "queue": {"depth": depth, "oldest": oldest},
                "held": held,
                "workers": [sign.model_dump() for sign in workers],
                "minutes": [minute * 60 for minute in minutes],
                "rates": rates(minutes),
                "faults": faults(minutes),
            }
        )

    def _asking(self, view: str, said: str = "") -> web.Response:
        """The page that asks for the key; `view` is the query string of what is to be shown after it."""
        is_set = bool(self._operator.get_secret_value())
        fields = {"said": said if is_set else _NO_KEY, "view": view, "state": "" if is_set else "disabled"}
        text = self._sign_in.substitute({name: html.escape(value) for name, value in fields.items()})
        return _html(text, 200 if is_set and not said else 403 if is_set else 503)


def _options(values: Iterable[str]) -> str:
    return "".join(f"<option>{html.escape(value)}</option>" for value in values)


def _html(text: str, status: int = 200) -> web.Response:
    headers = {**_HEADERS, "Cache-Control": "no-store"}
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)


def _see_dashboard(view: str = "") -> web.Response:
    place = URL(f"/dashboard?{view}" if view else "/dashboard")
    return web.Response(status=303, headers={"Location": str(place), "Cache-Control": "no-store"})
