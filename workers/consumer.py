"""Celery's worker as we run it: one queue, coroutines for tasks, and a consumer that reconnects for ever."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import kombu.asynchronous
import structlog
from celery import Celery, bootsteps
from celery.exceptions import CPendingDeprecationWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from celery.worker import consumer, state

from app.messages.connections import Address
from app.messages.keys import QUEUE, TASKS
from workers.pool import CoroutinePool
from workers.transport import Transport

log = structlog.get_logger()

PAUSE_FIRST, PAUSE_MORE, PAUSE_MAX = 0.2, 0.4, 2.0
"""Between attempts to connect, in seconds: the first pause, how much longer each next one is, and the longest."""
REFUSED_PAUSE = 1.0
"""Before a connection is made again of which the last one was lost at once, in seconds."""
# A BLMPOP, which is answered each second, and whose answer is overdue by this much is on a dead connection.
OVERDUE_SECONDS = 2
RESTART_PAUSE = 1.0
"""Before a worker that ended by itself is started again, in seconds."""
RESTARTS, RESTARTS_SECONDS = 5, 60.0
"""A worker that ended by itself so many times within so many seconds is not started again."""


class Consumer(consumer.Consumer):
    """Celery's consumer; whatever is raised in it, it makes its connection again, and never ends by it."""

    connection_errors: tuple[type[Exception], ...]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._broker_errors = self.connection_errors
        self.connection_errors = (Exception,)
        self._lost_at = float("-inf")
        Transport.room = self._room

    def _room(self) -> int:
        """How many more jobs may be under way."""
        return int(self.pool.num_processes) - len(state.reserved_requests)

    def ensure_connected(self, connection: Any) -> Any:
        ensure = connection.ensure_connection

        def patient(*arguments: Any, **options: Any) -> Any:
            pauses = {"interval_start": PAUSE_FIRST, "interval_step": PAUSE_MORE, "interval_max": PAUSE_MAX}
            return ensure(*arguments, **pauses, **options)

        connection.ensure_connection = patient
        return super().ensure_connected(connection)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        if not isinstance(exc, self._broker_errors):
            log.error("the consumer broke and begins anew", exc_info=exc)
        super().on_connection_error_after_connected(exc)
        lost_before, self._lost_at = self._lost_at, time.monotonic()
        if self._lost_at - lost_before < 2 * REFUSED_PAUSE:
            time.sleep(REFUSED_PAUSE)


class Consuming:
    """Whether the queue is read: `last_turn` is when Celery's loop last turned while connected (time.monotonic)."""

    EVERY_SECONDS = 1.0

    def __init__(self) -> None:
        self.last_turn = self._began = float("-inf")
        self._ends = False

    def begin(self) -> None:
        """It is connected. Where the last connection was made a moment ago, and is lost, the queue may be refused."""
        began_before, self._began = self._began, time.monotonic()
        if self._began - began_before > 2 * REFUSED_PAUSE:
            self.turn()

    def turn(self) -> None:
        self.last_turn = time.monotonic()

    def end(self) -> None:
        """This process was told to stop: it takes nothing more."""
        self._ends = True

    def reading(self) -> bool:
        return not self._ends and time.monotonic() - self.last_turn < 5 * self.EVERY_SECONDS

    def step(self) -> type[bootsteps.StartStopStep]:
        """The step of a consumer that notes its turns."""
        consuming = self

        class Turns(bootsteps.StartStopStep):
            requires = ("celery.worker.consumer.tasks:Tasks",)

            def start(self, parent: Any) -> None:
                consuming.begin()
                self._timer = parent.timer.call_repeatedly(consuming.EVERY_SECONDS, consuming.turn)

            def stop(self, parent: Any) -> None:
                self._timer.cancel()

        return Turns


def celery_app(address: Address, queue: str = QUEUE) -> Celery:
    """The Celery application of a worker that reads `queue` on the Redis at `address`. Connects to nothing yet."""
    # It says at each lost connection what a release to come will do unless it is told, as it is below.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    Transport.address, Transport.queue = address, queue
    # Celery prefers these to what it is given, and would show them, with their passwords, to its tools.
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        os.environ.pop(name, None)
    app = Celery("dropoff", broker=address.shown, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        # A worker waits for Redis however long that takes.
        broker_connection_max_retries=None,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_transport="workers.transport:Transport",
        broker_transport_options={"health_check_interval": OVERDUE_SECONDS},
        task_default_queue=queue,
        task_ignore_result=True,
        task_serializer="json",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_consumer=Consumer,
        # Nothing is read for which there is no room; who is under way counts across connections.
        worker_disable_prefetch=True,
        worker_enable_prefetch_count_reduction=False,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=0,
        worker_redirect_stdouts=False,
    )

    @app.task(name=TASKS[queue], shared=False)  # type: ignore[untyped-decorator]
    def task(sealed: str) -> None:
        raise NotImplementedError("its pool carries it out")

    return app


def serve(
    app: Celery,
    pool: type[CoroutinePool],
    name: str,
    jobs: int,
    on_ready: Callable[[], None],
    on_stop: Callable[[], None] = lambda: None,
) -> int:
    """Read the queue, `jobs` at a time, until a signal says to stop; jobs under way are waited for then, and `on_stop`
    may tell them to be quick.

    Gives the exit status: what Celery says after a signal, 1 where it ended by itself again and again.
    """
    stopping: list[str] = []

    def ready(**_: Any) -> None:
        # Celery's own handler would start the program again when this process has ended.
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
        on_ready()

    def told(sig: str, **_: Any) -> None:
        stopping.append(sig)
        on_stop()

    def configured(**_: Any) -> None:
        """That somebody is connected keeps Celery from setting up logs of its own."""

    worker_ready.connect(ready)
    worker_shutting_down.connect(told)
    setup_logging.connect(configured)
    ended: list[float] = []
    while True:
        status = _run(app, pool, name, jobs)
        if stopping:
            return status
        ended = [*(at for at in ended if at > time.monotonic() - RESTARTS_SECONDS), time.monotonic()]
        if len(ended) >= RESTARTS:
            log.error("the worker ends again and again", times=len(ended))
            return 1
        log.error("the worker ended by itself and is started again", status=status)
        time.sleep(RESTART_PAUSE)
        if stopping:
            return 0


def _run(app: Celery, pool: type[CoroutinePool], name: str, jobs: int) -> int:
    state.should_stop = state.should_terminate = None
    kombu.asynchronous.set_event_loop(None)
    try:
        worker = app.Worker(
            hostname=name, pool_cls=pool, concurrency=jobs, loglevel="WARNING", quiet=True,
            without_gossip=True, without_mingle=True,
        )  # fmt: skip
        worker.start()
    except Exception:
        log.exception("the worker broke")
        return 1
    return int(worker.exitcode or 0)
