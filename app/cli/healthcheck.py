"""Whether one process of this machine is well, for what starts it and starts it again."""

import asyncio
import contextlib
import socket
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.settings import Settings

ANSWER_SECONDS = 4.0


def serves(pid: int) -> str:
    """What the process runs, `api` or `worker`. Linux."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return "worker" if "worker" in words else "api"


def api_is_well(port: int) -> bool:
    """Whether the API process at this port answers that nothing of it has ended."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=ANSWER_SECONDS) as answer,
    ):
        return bool(answer.status == 200)
    return False


def worker_is_well(settings: "Settings", pid: int) -> bool:
    """Whether the worker with this process number, on this machine, has said of late that it reads the queue."""
    return asyncio.run(_reads(settings.redis_url.get_secret_value(), f"dropoff-{pid}@{socket.gethostname()}:"))


async def _reads(url: str, name: str) -> bool:
    # An API process is asked every few seconds, and without these.
    from redis.exceptions import RedisError

    from app.messages.clock import Clock
    from app.messages.connections import connect
    from app.monitor.heartbeats import Heartbeats

    clock = Clock()
    async with connect(url) as redis:
        try:
            await clock.renew(redis)
            workers = await Heartbeats(redis, clock).alive(deliveries=None)
            return any(each.reading and each.worker.startswith(name) for each in workers)
        except (RedisError, OSError):
            return False
