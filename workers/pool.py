"""A Celery pool whose tasks are coroutines on the one loop of the worker process, with no thread for each."""

import os
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, ClassVar

import structlog
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool

from workers.bulkhead import Bulkhead
from workers.loop import Loop

log = structlog.get_logger()

Work = Callable[[str], Coroutine[Any, Any, None]]
"""What a task does: it is given the sealed job."""

Ended = tuple["Future[None]", str, Callable[[Any], None], float]


class JobBroke(Exception):
    """A coroutine raised; only the name of what it raised is told on, since events go to whoever looks."""


class CoroutinePool(BasePool):
    """Starts each task on `loop` at once, and tells Celery of its end on Celery's own thread.

    How many may run is bounded by the consumer, which reads no message while as many jobs as `num_processes` are under
    way: as `limit` says, and as the bulkhead adds.
    """

    loop: ClassVar[Loop]
    work: ClassVar[Work]
    bulkhead: ClassVar[Bulkhead | None]
    signal_safe = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hub: Any = None
        self._running: set[Future[None]] = set()
        self._ended: deque[Ended] = deque()

    def register_with_event_loop(self, hub: Any) -> None:
        self._hub = hub
        if self.bulkhead:
            # Celery's loop may be asleep while it has no room.
            self.bulkhead.on_more = lambda: hub.call_soon(_wake)

    @property
    def num_processes(self) -> int:
        return int(self.limit) + (self.bulkhead.silent if self.bulkhead else 0)

    def on_apply(
        self,
        target: object,
        args: tuple[Any, ...],
        kwargs: object = None,
        callback: Callable[[Any], None] = lambda _: None,
        accept_callback: Callable[[int, float], None] = lambda *_: None,
        **_: Any,
    ) -> None:
        """Begin the task of Celery's `args` (task, id, request, body, content type, encoding)."""
        job, request = args[1], args[2]
        (sealed,) = request["args"]
        began = time.monotonic()
        accept_callback(os.getpid(), began)
        future = self.loop.start(type(self).work(sealed))
        self._running.add(future)
        future.add_done_callback(lambda ended: self._end(ended, job, callback, time.monotonic() - began))

    def _end(self, future: "Future[None]", job: str, callback: Callable[[Any], None], runtime: float) -> None:
        """On the loop's thread: hand the end over to Celery's, which may be asleep."""
        self._ended.append((future, job, callback, runtime))
        if self._hub is not None:
            self._hub.call_soon(self._settle)

    def _settle(self) -> None:
        """On Celery's thread: its bookkeeping of the tasks that have ended. Raises nothing, or Celery's loop ends."""
        while self._ended:
            future, job, callback, runtime = self._ended.popleft()
            self._running.discard(future)
            if future.cancelled():
                continue
            try:
                callback(_outcome(future, job, runtime))
            except Exception:
                log.exception("the end of a task was not noted", job=job)

    def on_stop(self) -> None:
        """Wait for the tasks that are under way; what bounds each of them is its own time limit."""
        while self._running:
            wait(tuple(self._running))
            self._settle()

    def on_terminate(self) -> None:
        """Let no task go on."""
        for future in tuple(self._running):
            future.cancel()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Celery asks for it task by task when it is told to end at once, by a second signal: then all of them end."""
        self.on_terminate()

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "running": len(self._running)}


def _outcome(future: "Future[None]", job: str, runtime: float) -> tuple[int, Any, float]:
    """Whether it failed, what came of it, and how long it took: as Celery's callbacks want it."""
    error = future.exception()
    if error is None:
        return 0, "None", runtime
    log.error("task broke", job=job, exc_info=error)
    try:
        raise JobBroke(type(error).__name__)  # noqa: TRY301 -- Celery wants an exception that was raised
    except JobBroke:
        return 1, ExceptionInfo(), runtime


def _wake() -> None:
    """That there is something to call is all that it is for."""


def coroutine_pool(loop: Loop, work: Work, bulkhead: Bulkhead | None = None) -> type[CoroutinePool]:
    """The pool that does `work` on `loop`, with as much more room as `bulkhead` says."""
    given = {"loop": loop, "work": staticmethod(work), "bulkhead": bulkhead, "__module__": __name__}
    return type("Pool", (CoroutinePool,), given)
