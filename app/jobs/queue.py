"""The task that workers run, its sealed message, and the hold: submit a job and wait for its report."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import redis.exceptions
import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from opentelemetry.trace import SpanKind
from pydantic import BaseModel, ConfigDict, SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app import metrics, tracing
from app.domain.errors import TooManyVerifications, Unavailable, VerificationTimedOut
from app.domain.job import State
from app.domain.specs.base import Spec
from app.domain.verification import NOTHING_FOUND, Found, Report
from app.jobs.replies import Replies
from app.settings import HOLD_MARGIN_SECONDS, Settings

log = structlog.get_logger()

TASK = "dropoff.verify"
QUEUE = "dropoff"
HELD = "dropoff:held"
"""The jobs that requests are held for, on all processes together, by the time after which nobody waits any more."""

# A Redis that is frozen or cut off must fail a publication before a client's patience ends.
CALL_SOCKET_SECONDS = 1.5
PUBLISH_SOCKET_SECONDS = 2.0
PUBLISH_CONNECT_SECONDS = 1.0
PUBLISH_SECONDS = 4.0
PUBLISH_THREADS = 4

_NO_BROKER = "The job queue does not answer: nothing was created or changed, try again shortly."
_NO_WORKER = "No worker was free to verify the destination: nothing was created or changed, try again shortly."
_TOO_SLOW = "The verification was started and did not end in time: nothing was created or changed."
_FULL = "This process holds as many requests as it may: nothing was created or changed, try again shortly."

# Takes a place among those of an account, of which there are ARGV[1], and among all that are held, up to the time
# ARGV[4]; what a dead process took is over by then. One script, so that two requests cannot take the last place.
_TAKE_PLACE = """
for _, key in ipairs(KEYS) do redis.call('ZREMRANGEBYSCORE', key, '-inf', ARGV[3]) end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, ARGV[4], ARGV[2])
  redis.call('EXPIREAT', key, math.ceil(ARGV[4]))
end
return 1
"""


class Job(BaseModel):
    """What a worker is told, always sealed as a whole. `spec` has the credentials; `submitted` and `start_by`
    are times (seconds since the epoch); after `start_by` the job must not be started, since nobody waits for it any
    more. `destination` is None where there is none yet, `found` is what is known of the place from before, and
    `traceparent` names the span that published it."""

    model_config = ConfigDict(frozen=True)

    id: str
    account: int
    destination: str | None = None
    submitted: float
    spec: dict[str, SecretStr]
    key: str
    reply_to: str
    start_by: float
    found: Found = NOTHING_FOUND
    traceparent: str = ""

    @property
    def kind(self) -> str:
        """The type of the destination."""
        return self.spec["type"].get_secret_value()

    def content(self) -> dict[str, Any]:
        """The job with its credentials in the clear, to be sealed at once."""
        return {**self.model_dump(), "spec": {name: value.get_secret_value() for name, value in self.spec.items()}}

    def parameters(self) -> dict[str, str]:
        return {name: value.get_secret_value() for name, value in self.spec.items()}


class Seals(Protocol):
    """What the queue needs of a sealer."""

    def seal(self, content: dict[str, Any]) -> str: ...


class Notes(Protocol):
    """Where it is noted what each job is doing, for whoever wants to look."""

    def note(self, job: Job, state: State) -> None: ...
    def stored(self, job: str, destination: str) -> None: ...


def started_key(job: str) -> str:
    """The Redis key that is there once a worker has begun `job`, and counts how often one has."""
    return f"dropoff:started:{job}"


def connect(settings: Settings, *, seconds: float = CALL_SOCKET_SECONDS) -> Redis:
    """A Redis client whose calls fail within twice `seconds`: one that meets a connection which Redis has closed since
    it was last used is made again, once, on a new one."""
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=seconds,
        socket_connect_timeout=PUBLISH_CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 1),
        decode_responses=True,
    )


def celery_app(settings: Settings) -> Celery:
    """The Celery application as both sides configure it. Connects to nothing yet."""
    app = Celery("dropoff", broker=settings.redis_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        # A worker waits for Redis however long that takes.
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "socket_timeout": PUBLISH_SOCKET_SECONDS,
            "socket_connect_timeout": PUBLISH_CONNECT_SECONDS,
            # A message that a dead worker held comes back after this; by then its job may no longer be started.
            "visibility_timeout": settings.hold_seconds * 2,
        },
        task_acks_late=True,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_publish_retry=False,
        task_reject_on_worker_lost=True,
        task_serializer="json",
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
    )
    return app


class Queue:
    """Hands verifications to the workers and holds each caller until its report is there."""

    def __init__(
        self, celery: Celery, redis: Redis, replies: Replies, sealer: Seals, notes: Notes, settings: Settings
    ) -> None:
        self._celery = celery
        self._redis = redis
        self._replies = replies
        self._sealer = sealer
        self._notes = notes
        self._settings = settings
        self._threads = ThreadPoolExecutor(PUBLISH_THREADS, "publish")

    async def verify(
        self, account: int, spec: Spec, key: str, destination: str | None = None, *, found: Found
    ) -> Report:
        """The report on writing and deleting `key` as `spec` says, for `destination` where there is one, beginning with
        what was `found` of its place before.

        Raises TooManyVerifications where `account` has enough of them under way, Unavailable where the queue does not
        answer, no worker took the job in time or this process holds enough requests, and VerificationTimedOut where
        a worker began and was not done when the hold ended.
        """
        if self._replies.held >= self._settings.held_requests:
            raise Unavailable(_FULL)
        now = time.time()
        job = Job(
            id=str(uuid.uuid4()),
            account=account,
            destination=destination,
            submitted=now,
            spec={name: SecretStr(value) for name, value in spec.whole().items()},
            key=key,
            reply_to=self._replies.name,
            start_by=now + self._settings.start_seconds,
            found=found,
        )
        structlog.contextvars.bind_contextvars(job=job.id)
        with self._replies.expected(job.id) as report:
            async with self._place(account, job.id, now):
                with tracing.span("publish", SpanKind.PRODUCER, {"dropoff.job": job.id, "dropoff.type": spec.type}):
                    await self._publish(job.model_copy(update={"traceparent": tracing.traceparent()}))
                log.info("job submitted", job=job.id, type=spec.type)
                self._notes.note(job, State.QUEUED)
                with tracing.span("hold"):
                    return await self._held(job, report)

    def stored(self, job: str, destination: str) -> None:
        """Say that what `job` verified is stored as `destination`."""
        self._notes.stored(job, destination)

    @contextlib.asynccontextmanager
    async def _place(self, account: int, job: str, now: float) -> AsyncIterator[None]:
        """A place among the verifications that `account` may have under way, whichever process holds them."""
        name = f"dropoff:underway:{account}"
        limit, until = self._settings.account_verifications, now + self._settings.hold_seconds
        try:
            taken: Any = self._redis.eval(_TAKE_PLACE, 2, name, HELD, str(limit), job, str(now), str(until))
            if not await taken:
                raise TooManyVerifications(
                    f"This account has {limit} verifications under way, which is as many as it may have: nothing was "
                    "created or changed, try again when one has ended."
                )
        except (redis.exceptions.RedisError, OSError) as error:
            raise Unavailable(_NO_BROKER) from error
        try:
            yield
        finally:
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.zrem(name, job)
                    pipe.zrem(HELD, job)
                    await pipe.execute()

    async def _publish(self, job: Job) -> None:
        """Celery's call blocks, so it is made in a thread, and waited for only so long."""
        send = partial(
            self._celery.send_task,
            TASK,
            args=(self._sealer.seal(job.content()),),
            task_id=job.id,
            queue=QUEUE,
            argsrepr="(sealed)",
            kwargsrepr="{}",
        )
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                await asyncio.get_running_loop().run_in_executor(self._threads, send)
        except (OperationalError, redis.exceptions.RedisError, OSError) as error:
            metrics.NOT_PUBLISHED.inc()
            log.warning("job not published", job=job.id, error=type(error).__name__)
            raise Unavailable(_NO_BROKER, job=job.id) from error

    async def _held(self, job: Job, report: asyncio.Future[Report]) -> Report:
        done, _ = await asyncio.wait((report,), timeout=job.start_by + HOLD_MARGIN_SECONDS - time.time())
        if not done:
            if not await self._started(job):
                self._notes.note(job, State.EXPIRED)
                raise Unavailable(_NO_WORKER, job=job.id)
            done, _ = await asyncio.wait((report,), timeout=self._settings.verify_seconds)
        if not done:
            log.warning("job not finished in time", job=job.id)
            self._notes.note(job, State.LOST)
            raise VerificationTimedOut(_TOO_SLOW, job=job.id, object=job.key)
        metrics.HOLD.observe(time.time() - job.submitted)
        return report.result()

    async def _started(self, job: Job) -> bool:
        try:
            return bool(await self._redis.exists(started_key(job.id)))
        except (redis.exceptions.RedisError, OSError) as error:
            raise Unavailable(_NO_BROKER, job=job.id) from error

    def close(self) -> None:
        """Let go of the threads; a publication under way ends by its own time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._celery.close()
