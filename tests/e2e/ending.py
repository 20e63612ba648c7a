"""A worker whose Celery ends by itself whenever a job says so; it prints the other jobs."""

import sys

from celery.worker import state

from app.messages.connections import parse_redis_url
from app.observe import logs
from workers.consumer import celery_app, serve
from workers.loop import Loop
from workers.pool import coroutine_pool


async def work(sealed: str) -> None:
    if sealed == "end":
        state.should_stop = 0
    else:
        print(sealed, flush=True)


def main() -> None:
    logs.configure("worker")
    app = celery_app(parse_redis_url(sys.argv[1]))
    sys.exit(serve(app, coroutine_pool(Loop(), work), "w@ending", 4, lambda: print("IT READS", flush=True)))


if __name__ == "__main__":
    main()
