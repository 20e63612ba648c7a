"""Keeps a store that does not answer from being an outage for others: what waits in silence takes no room, and hosts
that answer nobody are called by few."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.observe.background import Background

SILENT_SECONDS = 1.0
"""A job that is under way for longer, in a worker that has time, waits for its store if that answers nobody else."""
LOOK_SECONDS = 0.25
# With more of a core than this in use since the last look, or so many seconds late for it, it may be the worker itself
# that jobs wait for.
_BUSY, _LATE_SECONDS = 0.7, 0.05
# Beside the jobs that there is room for, so many times as many may wait in silence.
_SILENT_TIMES = 2
# Hosts that answer nobody may have as many as there is room for, and each of them this part of it.
_OF_ONE = 8
# A host answers nobody when within so many seconds at least so many timed out, and more than were answered.
_REMEMBERED_SECONDS, _TIMED_OUT = 60.0, 5
_REMEMBERED = 64
_HOSTS = 10_000


@dataclass(eq=False)
class _Job:
    host: str
    since: float
    silent: bool = False


class Bulkhead:
    """Of a worker with room for `room` jobs. `silent` is how many more it may take, since as many wait in silence; each
    time that there are more, `on_more` is called."""

    def __init__(self, room: int) -> None:
        self._silent_most = room * _SILENT_TIMES
        self._of_all, self._of_one = room, max(1, room // _OF_ONE)
        # In the order in which they began.
        self._jobs: dict[_Job, None] = {}
        # By host, of those where any timed out: when a job ended there, and whether it timed out.
        self._ends: dict[str, deque[tuple[float, bool]]] = {}
        # When each host answered last.
        self._answered: dict[str, float] = {}
        self._looked = time.monotonic(), time.process_time()
        self.silent = 0
        self.on_more: Callable[[], None] = lambda: None
        self.looking = Background("bulkhead", self._look)

    def full(self, host: str) -> bool:
        """Whether `host` answers nobody, and enough jobs wait for it, or for all such hosts, already."""
        if not self._answers_nobody(host):
            return False
        waiting = [each.host for each in self._jobs if self._answers_nobody(each.host)]
        return len(waiting) >= self._of_all or waiting.count(host) >= self._of_one

    @contextlib.contextmanager
    def calling(self, host: str) -> Iterator[None]:
        """A job is under way at `host` for as long as the block lasts."""
        job = _Job(host, time.monotonic())
        self._jobs[job] = None
        try:
            yield
        finally:
            del self._jobs[job]
            self.silent -= job.silent

    def note(self, host: str, *, timed_out: bool) -> None:
        """A job at `host` has ended, since its time was over or otherwise: who refuses answers too."""
        now, ends = time.monotonic(), self._ends.pop(host, None)
        if not timed_out:
            self._answered.pop(host, None)
            self._answered[host] = now
        if timed_out or ends is not None:
            self._ends[host] = ends = deque(maxlen=_REMEMBERED) if ends is None else ends
            ends.append((now, timed_out))
        for known in (self._answered, self._ends):
            if len(known) > _HOSTS:
                del known[next(iter(known))]

    def _answers_nobody(self, host: str) -> bool:
        since = time.monotonic() - _REMEMBERED_SECONDS
        ends = [timed_out for at, timed_out in self._ends.get(host, ()) if at > since]
        timed_out = sum(ends)
        return timed_out >= _TIMED_OUT and timed_out > len(ends) - timed_out

    async def _look(self) -> None:
        await asyncio.sleep(LOOK_SECONDS)
        now, cpu = time.monotonic(), time.process_time()
        seconds, spent, self._looked = now - self._looked[0], cpu - self._looked[1], (now, cpu)
        if spent > seconds * _BUSY or seconds > LOOK_SECONDS + _LATE_SECONDS:
            return
        before, late = self.silent, now - SILENT_SECONDS
        for job in self._jobs:
            if job.since > late or self.silent >= self._silent_most:
                break
            if not job.silent and self._answered.get(job.host, late) <= late:
                job.silent = True
                self.silent += 1
        if self.silent > before:
            self.on_more()
