"""The handlers of /jobs: what each verification is doing or has done, as a list, one by one, and as it happens."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from app.domain.destination import timestamp
from app.domain.errors import DropoffError, InvalidRequest
from app.monitor.feed import Feed, News, written
from app.monitor.history import History
from app.monitor.job import JobView, moment, parse_job_query
from app.store.accounts import Accounts
from app.web.auth import AccountNames, Caller, Operator, caller_of, query_of
from app.web.destinations import refuse_query
from app.web.errors import answer
from app.web.scope import narrow

LAST_EVENT_ID = "Last-Event-ID"
# A client that takes longer than this to receive one batch is disconnected; it can resume where it was.
SLOW_SECONDS = 5.0

_SUCCESS = {"success": True}
_STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_GAP = {"message": "Events before this one are no longer kept: ask GET /jobs for the state of each job."}


class JobHandlers:
    """The calls on jobs. A customer sees those of its own account, the operator sees all and whose they are."""

    def __init__(self, history: History, feed: Feed, accounts: Accounts, operator: Operator) -> None:
        self._history = history
        self._feed = feed
        self._accounts = accounts
        self._operator = operator
        self._names = AccountNames(accounts)

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/jobs", self.list),
            web.get("/jobs/stream", self.stream),
            web.get("/jobs/{id}", self.get),
        ]

    async def list(self, request: web.Request) -> web.Response:
        caller = await caller_of(request, self._accounts, self._operator)
        parameters = query_of(request)
        await narrow(caller, self._accounts, parameters)
        jobs, cursor = await self._history.page(parse_job_query(parameters))
        await self._names.learn(caller, (job.account for job in jobs))
        return answer(
            {
                "request_info": _SUCCESS,
                "jobs": [self._shown(caller, job) for job in jobs],
                "next_cursor": cursor.encode() if cursor else None,
            }
        )

    async def get(self, request: web.Request) -> web.Response:
        caller = await caller_of(request, self._accounts, self._operator)
        refuse_query(request)
        detail = await self._history.get(request.match_info["id"], caller.account)
        await self._names.learn(caller, [detail.job.account])
        timeline = [
            {"state": each.state, "at": timestamp(each.at), "attempt": each.attempt, "worker": each.worker}
            for each in detail.timeline
        ]
        job = {
            **self._shown(caller, detail.job),
            "bucket": detail.bucket,
            "timeline": timeline,
            "report": detail.report,
        }
        return answer({"request_info": _SUCCESS, "job": job})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events, for as long as the client reads them."""
        caller = await caller_of(request, self._accounts, self._operator)
        after = _after(request)
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        try:
            async with contextlib.aclosing(self._feed.follow(caller.account, after)) as following:
                async for news in following:
                    await self._names.learn(caller, (event.job.account for event in news.events))
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
        """`news` as server-sent events. Each has its id in the stream, so that a client can resume after it."""
        lines = [f"event: gap\ndata: {json.dumps(_GAP)}\n\n"] if news.gap else []
        for event in news.events:
            content = json.dumps(self._shown(caller, event.job), separators=(",", ":"))
            lines.append(f"id: {written(event.stream_id)}\nevent: job\ndata: {content}\n\n")
        if not news.events:
            lines.append(f": alive\nid: {written(news.stream_id)}\n\n")
        return "".join(lines)

    def _shown(self, caller: Caller, job: JobView) -> Mapping[str, Any]:
        return {
            "id": job.id,
            **self._names.shown(caller, job.account),
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
