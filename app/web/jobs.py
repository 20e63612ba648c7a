"""The handlers of /jobs: what each verification is doing or has done, as a list, one by one, and as it happens."""

import asyncio
import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from aiohttp import web
from pydantic import SecretStr

from app.domain.errors import DropoffError, Fault, InvalidParameters, InvalidRequest, ParameterFault
from app.domain.job import Entry, cursor, job_query, moment
from app.jobs.feed import Feed, News
from app.jobs.history import History
from app.web.auth import Caller, KnowsKeys, caller_of, query_of
from app.web.destinations import no_query, timestamp
from app.web.errors import answer

LAST_EVENT_ID = "Last-Event-ID"
# A listener that takes longer than this to receive one batch is cut; it can resume where it was.
SLOW_SECONDS = 5.0

_SUCCESS = {"success": True}
_STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_GAP = {"message": "Events before this one are no longer kept: ask GET /jobs for the state of each job."}


class NamesAccounts(KnowsKeys, Protocol):
    """Where keys are looked up, and the names of accounts."""

    async def names(self, accounts: Collection[int]) -> dict[int, str]: ...


class JobHandlers:
    """The calls on jobs. A customer sees those of its own account, the operator sees all and whose they are."""

    def __init__(self, history: History, feed: Feed, accounts: NamesAccounts, operator: SecretStr) -> None:
        self._history = history
        self._feed = feed
        self._accounts = accounts
        self._operator = operator
        # An account keeps its name for ever.
        self._names: dict[int, str] = {}

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/jobs", self.list),
            web.get("/jobs/stream", self.stream),
            web.get("/jobs/{id}", self.get),
        ]

    async def list(self, request: web.Request) -> web.Response:
        caller = await caller_of(request, self._accounts, self._operator)
        parameters = query_of(request)
        own = str(caller.account)
        if caller.account is not None and parameters.setdefault("account", own) != own:
            message = "account must be this key's own: leave it out."
            raise InvalidParameters([ParameterFault("account", Fault.INVALID_PARAMETER, message)])
        jobs, place = await self._history.page(job_query(parameters))
        await self._learn(caller, jobs)
        return answer(
            {
                "request_info": _SUCCESS,
                "jobs": [self._shown(caller, job) for job in jobs],
                "next_cursor": cursor(place) if place else None,
            }
        )

    async def get(self, request: web.Request) -> web.Response:
        caller = await caller_of(request, self._accounts, self._operator)
        no_query(request)
        record = await self._history.get(request.match_info["id"], caller.account)
        await self._learn(caller, [record.entry])
        timeline = [
            {"state": each.state, "at": timestamp(each.at), "attempt": each.attempt, "worker": each.worker}
            for each in record.timeline
        ]
        job = {**self._shown(caller, record.entry), "timeline": timeline, "report": record.report}
        return answer({"request_info": _SUCCESS, "job": job})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events, for as long as the client reads them."""
        caller = await caller_of(request, self._accounts, self._operator)
        after = _after(request)
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        try:
            async with contextlib.aclosing(self._feed.follow(caller.account, after)) as following:
                async for news in following:
                    await self._learn(caller, (event.entry for event in news.events))
                    if not response.prepared:
                        await response.prepare(request)
                    async with asyncio.timeout(SLOW_SECONDS):
                        await response.write(self._written(caller, news).encode())
        except (TimeoutError, ConnectionError, DropoffError):
            # Once the head of the answer is sent, no other answer can be given.
            if not response.prepared:
                raise
        if request.transport:
            request.transport.abort()
        return response

    def _written(self, caller: Caller, news: News) -> str:
        """`news` as server-sent events. Each has its place as its id, so that a client can resume after it."""
        lines = [f"event: gap\ndata: {json.dumps(_GAP)}\n\n"] if news.gap else []
        for event in news.events:
            content = json.dumps(self._shown(caller, event.entry), separators=(",", ":"))
            lines.append(f"id: {event.place[0]}-{event.place[1]}\nevent: job\ndata: {content}\n\n")
        if not news.events:
            lines.append(f": alive\nid: {news.place[0]}-{news.place[1]}\n\n")
        return "".join(lines)

    async def _learn(self, caller: Caller, jobs: Iterable[Entry]) -> None:
        """Look up the accounts' names that the operator is to see."""
        if caller.account is None and (unknown := {job.account for job in jobs} - self._names.keys()):
            self._names |= await self._accounts.names(unknown)

    def _shown(self, caller: Caller, job: Entry) -> Mapping[str, Any]:
        named = {"account_name": self._names.get(job.account)} if caller.account is None else {}
        return {
            "id": job.id,
            "account": job.account,
            **named,
            "destination": job.destination,
            "type": job.type,
            "host": job.host,
            "state": job.state,
            "fault": job.fault,
            "attempt": job.attempt,
            "worker": job.worker,
            "submitted_at": timestamp(moment(job.submitted)),
            "changed_at": timestamp(moment(job.changed)),
        }


def _after(request: web.Request) -> str | None:
    parameters = query_of(request)
    asked = parameters.pop("last_event_id", None)
    if parameters:
        raise InvalidRequest("The stream of jobs takes no parameter but last_event_id.")
    return request.headers.get(LAST_EVENT_ID) or asked or None
