"""The handlers of /notifications: of which events the platform was not told yet, or not at all, and what is done about
them."""

from datetime import UTC, datetime

from aiohttp import web

from app.domain.errors import NotificationNotFound
from app.domain.notification import parse_notification_query
from app.store.notifications import Notifications
from app.web.auth import Operator, query_of, require_operator
from app.web.destinations import require_operator_with_nothing
from app.web.errors import answer

# `retry` is a path of its own: a method that it does not take is a 405, and not a notification that is not there.
_ONE = "/notifications/{id:(?!retry/?$)[^/]+}"


class NotificationHandlers:
    """All of it is for the operator."""

    def __init__(self, notifications: Notifications, operator: Operator) -> None:
        self._notifications = notifications
        self._operator = operator

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/notifications", self.list),
            web.post("/notifications/retry", self.retry_all),
            web.post(f"{_ONE}/retry", self.retry),
            web.delete(_ONE, self.forget),
        ]

    async def list(self, request: web.Request) -> web.Response:
        require_operator(request, self._operator)
        asked = parse_notification_query(query_of(request))
        found = await self._notifications.page(asked.after, asked.limit + 1, asked.state)
        shown, more = found[: asked.limit], len(found) > asked.limit
        return answer(
            {
                "request_info": {"success": True},
                "notifications": [each.as_answer() for each in shown],
                "next_cursor": shown[-1].number if more else None,
            }
        )

    async def retry_all(self, request: web.Request) -> web.Response:
        await require_operator_with_nothing(request, self._operator)
        return _retried(await self._notifications.retry(datetime.now(UTC)))

    async def retry(self, request: web.Request) -> web.Response:
        await require_operator_with_nothing(request, self._operator)
        count = await self._notifications.retry(datetime.now(UTC), request.match_info["id"])
        if not count:
            raise NotificationNotFound(
                "There is no event with this id that was given up: those are at /notifications?state=kept."
            )
        return _retried(count)

    async def forget(self, request: web.Request) -> web.Response:
        await require_operator_with_nothing(request, self._operator)
        if not await self._notifications.forget(request.match_info["id"]):
            raise NotificationNotFound(
                "There is no event with this id: those that wait or were given up are at /notifications."
            )
        return answer({"request_info": {"success": True, "message": "1 Notification forgotten"}})


def _retried(count: int) -> web.Response:
    info = {"success": True, "message": f"{count} told again from now on."}
    return answer({"request_info": info, "retried": count}, status=202)
