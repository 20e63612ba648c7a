"""Whether this process is there."""

from aiohttp import web

from app.web.errors import answer


async def healthz(_: web.Request) -> web.Response:
    """The process answers; it says nothing of the database or the queue."""
    return answer({"status": "ok"})
