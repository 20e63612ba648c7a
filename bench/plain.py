"""The plain design, to compare with: aiohttp, Celery's prefork, a boto3 client for each task, `AsyncResult.get`.

python -m bench.plain PORT REDIS_URL       its front end; `POST /?endpoint=URL` answers when the task is done
celery -A bench.plain worker -c 2          its worker, of the Redis in PLAIN_REDIS
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from celery import Celery

from bench.peers import sdk

REDIS = "PLAIN_REDIS"

app = Celery("plain", broker=os.environ.get(REDIS, ""), backend=os.environ.get(REDIS, ""))


@app.task(name="plain.create")  # type: ignore[untyped-decorator]
def create(endpoint: str, number: int) -> bool:
    """A PUT and a DELETE."""
    sdk(endpoint)(number)
    return True


def serve(port: int, waiting: int) -> None:
    """Serve on loopback until the process is ended, `waiting` requests at a time."""
    from aiohttp import web

    threads = ThreadPoolExecutor(waiting)

    async def handle(request: web.Request) -> web.Response:
        def wait() -> Any:
            return create.delay(request.query["endpoint"], 1).get(timeout=120)

        await asyncio.get_running_loop().run_in_executor(threads, partial(wait))
        return web.json_response({"ok": True})

    server = web.Application()
    server.add_routes([web.post("/", handle)])
    web.run_app(server, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    serve(int(sys.argv[1]), 256)
