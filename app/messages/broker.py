"""The message on the queue: one sealed job in an envelope that Celery's workers and tools can read.

It is Celery's message protocol 2 as kombu's Redis transport writes it, built here so that the API process publishes
with one command of its own client, without Celery and without a thread.
"""

import base64
import json
import math
import uuid
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from app.messages.keys import QUEUE, TASKS

VERSION = 1
"""Of the envelope; a message of another one is not read."""
MAX_BYTES = 1024 * 1024
"""What a message may have; the largest job, of a request of 64 KiB that JSON escapes, has a third of it."""

# What Celery says beside the arguments; a verification has none of it.
_EMBED: dict[str, None] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class NotOurs(Exception):
    """A message on the queue that we did not write; the reason repeats nothing of it."""


@dataclass(frozen=True)
class Message:
    """What a message carries: the job's id, the sealed job, and when it was published (seconds, Redis' clock)."""

    id: str
    sealed: str
    published: float


def envelope(job: str, sealed: str, published: float, queue: str = QUEUE) -> str:
    """The message for `queue` that carries `sealed`, the job of the id `job`. `published` is the time of Redis'
    clock, in seconds, and stands where it can be read without opening the job."""
    body = json.dumps([[sealed], {}, _EMBED])
    content = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": TASKS[queue], "id": job, "shadow": None, "eta": None, "expires": None, "group": None,
            "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": job, "parent_id": None,
            "argsrepr": "(sealed)", "kwargsrepr": "{}", "origin": "dropoff", "ignore_result": None,
            "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
            "version": VERSION, "published": published,
        },
        "properties": {
            "correlation_id": job, "reply_to": "", "argsrepr": "(sealed)", "kwargsrepr": "{}", "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue}, "priority": 0, "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }  # fmt: skip
    return json.dumps(content)


def opened(raw: bytes, queue: str = QUEUE) -> Message:
    """What the message `raw` of `queue` carries. Raises NotOurs for whatever `envelope` would not have written."""
    if len(raw) > MAX_BYTES:
        raise NotOurs("it is too large")
    try:
        return _opened(json.loads(raw.decode()), TASKS[queue])
    # Neither is a ValueError, and a whole number may be too large for a time: whatever it is that makes a message
    # unreadable, it is not ours.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        raise NotOurs("it is not in the form of our messages") from None


def _opened(content: Any, task: str) -> Message:
    headers = content["headers"]
    if headers["task"] != task:
        raise NotOurs("it is for another task")
    if headers["version"] != VERSION or isinstance(headers["version"], bool):
        raise NotOurs("it is of another version")
    form = (content["content-type"], content["content-encoding"], content["properties"]["body_encoding"])
    if form != ("application/json", "utf-8", "base64"):
        raise NotOurs("it is of another content type")
    ((sealed,), named, _) = json.loads(base64.b64decode(content["body"], validate=True).decode())
    job, published = headers["id"], headers["published"]
    if not isinstance(published, float | int) or isinstance(published, bool) or not math.isfinite(published):
        raise NotOurs("it has no time")
    if named or not (isinstance(sealed, str) and sealed):
        raise NotOurs("it carries no sealed job")
    return Message(str(uuid.UUID(job)), sealed, float(published))


async def publish(client: Redis, job: str, sealed: str, published: float, queue: str = QUEUE) -> None:
    """Put the job on `queue`. Raises what the client raises, RedisError or OSError."""
    await client.lpush(queue, envelope(job, sealed, published, queue))
