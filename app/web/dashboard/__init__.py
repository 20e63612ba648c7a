"""The dashboard: its page, the operator's signing in and out, and the figures that it shows."""

import asyncio
import html
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any, Protocol

from aiohttp import web
from yarl import URL

from app.domain.delivery import DeliveryState
from app.domain.destination import Destination, timestamp
from app.domain.errors import DestinationNotFound, InvalidParameters, ParameterFault, TooManyGuesses, Unavailable
from app.domain.faults import Fault, Role
from app.domain.types import SPECS, TYPES
from app.messages.clock import Clock
from app.monitor.failures import Failing, Failures
from app.monitor.heartbeats import Heartbeats
from app.monitor.history import History, reading
from app.monitor.job import JobState
from app.monitor.rates import faults, rates
from app.settings import OPERATOR_KEY_LENGTH
from app.web.auth import (
    SESSION,
    SESSION_SECONDS,
    Operator,
    has_session,
    new_session,
    page_token,
    query_of,
    require_operator,
)
from app.web.body import parameters_of
from app.web.connections import in_time
from app.web.dashboard.words import OF_DELIVERIES, OF_FAULTS, WORDS
from app.web.destinations import refuse_query
from app.web.errors import answer

MINUTES = 60
WORST = 8
"""How many failing accounts, and failing destinations, are shown before all of them are asked for."""
MOST_DESTINATIONS = 200
"""How many failing destinations are all that are shown."""
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


class DeliveryCounts(Protocol):
    """What tells how many deliveries are in which state."""

    async def counts(self) -> Mapping[DeliveryState, int]: ...


class DestinationStore(Protocol):
    """Where a destination is found, of any account where that is None, and those that fail."""

    async def get(self, account: int | None, destination: str) -> Destination: ...
    async def failing(self, most: int) -> tuple[list[tuple[Destination, str]], int]: ...


class DashboardHandlers:
    """Anybody may have the sign-in page and the files; the rest is for the operator."""

    def __init__(
        self,
        history: History,
        heartbeats: Heartbeats,
        deliveries: DeliveryCounts,
        destinations: DestinationStore,
        clock: Clock,
        operator: Operator,
    ) -> None:
        self._history = history
        self._heartbeats = heartbeats
        self._deliveries = deliveries
        self._destinations = destinations
        self._clock = clock
        self._operator = operator
        options = {
            "states": _options(JobState),
            "delivery_states": _options(OF_DELIVERIES, OF_DELIVERIES, DeliveryState.FAILED),
            "types": _options(TYPES),
            "faults": _options(Fault, WORDS),
            "reasons": _options(OF_FAULTS, WORDS),
            "words": "".join(f'<option value="{code}">{html.escape(word)}</option>' for code, word in WORDS.items()),
        }
        self._page = Template(Template((_FOLDER / "index.html").read_text()).safe_substitute(options))
        self._sign_in = Template((_FOLDER / "sign_in.html").read_text())

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/dashboard", self.page),
            web.get("/dashboard/overview", self.overview),
            web.get("/dashboard/destinations/{id}", self.destination),
            web.get("/dashboard/{name:dashboard\\.(?:css|js)}", self.file),
            web.post("/dashboard/session", self.sign_in),
            web.post("/dashboard/session/end", self.sign_out),
        ]

    async def page(self, request: web.Request) -> web.Response:
        if has_session(request, self._operator):
            return _html(self._page.substitute(token=page_token(request, self._operator)))
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            # The browser sends no cookie when it follows a link from another site; when this page reloads, it does.
            return web.Response(headers={**_HEADERS, "Cache-Control": "no-store", "Refresh": "0"})
        return self._sign_in_page(request.rel_url.raw_query_string)

    async def file(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(_FOLDER / request.match_info["name"], headers={**_HEADERS, "Cache-Control": "no-cache"})

    async def sign_in(self, request: web.Request) -> web.Response:
        """Answer the operator's key with a session, and redirect to the view that was asked for."""
        parameters = await in_time(parameters_of(request))
        view = str(parameters.get("view", ""))
        try:
            access = self._operator.access(str(parameters.get("key", "")).strip())
        except TooManyGuesses as error:
            return self._sign_in_page(view, error.message, 429)
        if access is None:
            return self._sign_in_page(view, _WRONG_KEY, 403)
        response = _see_dashboard(view)
        response.set_cookie(
            SESSION, new_session(self._operator, access), max_age=SESSION_SECONDS, httponly=True, samesite="Strict",
            secure="https" in (request.scheme, request.headers.get("X-Forwarded-Proto")),
        )  # fmt: skip
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """End the session in this browser. A form on another site sends no cookie, so it ends nothing."""
        response = _see_dashboard()
        if SESSION in request.cookies:
            response.del_cookie(SESSION, httponly=True, samesite="Strict")
        return response

    async def overview(self, request: web.Request) -> web.Response:
        """What the page shows above its jobs; times in seconds since the epoch by Redis' clock, durations in
        milliseconds."""
        require_operator(request, self._operator)
        every = _all_of(query_of(request))
        minutes = await self._history.minutes(MINUTES)
        failures = await self._history.failures(MINUTES)
        # At once, since each waits for a database that does not answer.
        deliveries, destinations = await asyncio.gather(
            self._delivered(),
            self._failing_destinations(MOST_DESTINATIONS if "destinations" in every else WORST),
        )
        async with reading():
            depth, oldest, held, workers = await asyncio.gather(
                self._heartbeats.waiting(), self._heartbeats.oldest(), self._heartbeats.held(),
                self._heartbeats.alive(deliveries=None),
            )  # fmt: skip
        return answer(
            {
                "request_info": {"success": True},
                "now": self._clock.now(),
                "queue": {"depth": depth, "oldest": oldest},
                "held": held,
                "workers": [heartbeat.model_dump() for heartbeat in workers],
                "minutes": [minute * 60 for minute in minutes],
                "rates": rates(minutes),
                "faults": faults(minutes),
                "failing": _failing(failures, None if "accounts" in every else WORST),
                "failing_destinations": destinations,
                "refused": failures.refused,
                "deliveries": deliveries,
            }
        )

    async def destination(self, request: web.Request) -> web.Response:
        """What a panel tells of the destination that its job or delivery was for, None where there is none (any more):
        many a job has an id whose create was refused, and that is nothing to answer 404 to."""
        require_operator(request, self._operator)
        refuse_query(request)
        try:
            found = await self._destinations.get(None, request.match_info["id"])
        except DestinationNotFound:
            return answer({"request_info": {"success": True}, "destination": None})
        shown = {
            "name": found.name,
            "type": found.type,
            "bucket": found.parameters.get(SPECS[found.type].roles[Role.BUCKET]),
            "host": (found.verification or {}).get("host"),
            "failing_since": timestamp(found.failing_since) if found.failing_since else None,
        }
        return answer({"request_info": {"success": True}, "destination": shown})

    async def _failing_destinations(self, most: int) -> dict[str, Any] | None:
        """The destinations that fail, those that began last first, and how many there are; None where the database does
        not answer."""
        try:
            found, count = await self._destinations.failing(most)
        except Unavailable:
            return None
        names = ("id", "name", "type", "failing_since", "failing")
        shown = [
            {"account_name": account, **{name: shown[name] for name in names}}
            for shown, account in ((each.as_answer(), account) for each, account in found)
        ]
        return {"destinations": shown, "count": count}

    async def _delivered(self) -> dict[str, Any]:
        """How many deliveries are in which state, None where the database does not answer, and what was moved in each
        minute."""
        try:
            counts = await self._deliveries.counts()
        except Unavailable:
            counts = None
        minutes = (await self._history.traffic(MINUTES)).values()
        failed: Counter[str] = Counter()
        for minute in minutes:
            failed.update({name.partition(":")[2]: n for name, n in minute.items() if name.startswith("failed:")})
        moved = {name: [minute.get(name, 0) for minute in minutes] for name in ("bytes", DeliveryState.OK)}
        return {"counts": counts, **moved, "faults": dict(failed.most_common())}

    def _sign_in_page(self, view: str, problem: str = "", status: int = 200) -> web.Response:
        """The page that asks for the key; `view` is the query string of what is to be shown after it."""
        is_set = self._operator.is_set
        fields = {"problem": problem if is_set else _NO_KEY, "view": view, "state": "" if is_set else "disabled"}
        text = self._sign_in.substitute({name: html.escape(value) for name, value in fields.items()})
        return _html(text, status if is_set else 503)


def _all_of(parameters: Mapping[str, str]) -> Iterable[str]:
    """Of which lists all entries are asked for. Raises InvalidParameters."""
    wrong = [name for name, value in parameters.items() if (name, value) not in _ALL]
    if wrong:
        rule = "The overview takes no parameters but accounts=all and destinations=all."
        raise InvalidParameters([ParameterFault(name, Fault.INVALID_PARAMETER, rule) for name in wrong])
    return parameters


_ALL = (("accounts", "all"), ("destinations", "all"))


def _failing(failures: Failures, most: int | None) -> dict[str, Any]:
    """The accounts that failed or were refused most often, how many there are, and how often those did that are not
    known one by one."""
    return {
        "accounts": [_shown(each) for each in failures.accounts[:most]],
        "count": len(failures.accounts),
        "others": failures.others,
    }


def _shown(failing: Failing) -> dict[str, Any]:
    counts = {"failed": failing.failed, "refused": failing.refused, "undelivered": failing.undelivered}
    return {"account": failing.account, **counts}


def _options(values: Iterable[str], words: Mapping[str, str] | None = None, selected: str = "") -> str:
    """An option for each of `values`, with its word beside it where there are `words` and it is another."""
    shown = {value: f"{words[value]} ({value})" if words and words[value] != value else value for value in values}
    chosen = {selected: " selected"}
    options = ((html.escape(each), chosen.get(each, ""), html.escape(text)) for each, text in shown.items())
    return "".join(f'<option value="{value}"{mark}>{text}</option>' for value, mark, text in options)


def _html(text: str, status: int = 200) -> web.Response:
    headers = {**_HEADERS, "Cache-Control": "no-store"}
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)


def _see_dashboard(view: str = "") -> web.Response:
    url = URL(f"/dashboard?{view}" if view else "/dashboard")
    return web.Response(status=303, headers={"Location": str(url), "Cache-Control": "no-store"})
