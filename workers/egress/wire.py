"""What happens on the network: notes of resolving and connecting, which a report is made from."""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Wire:
    """What happened on the network since `measure` began: which of resolve and connect were done, and when.

    `resolve_ms` and `connect_ms` are durations; `reused` says that an open connection served instead. An address that
    is no name has nothing to resolve. `over` says that the block under `measure` has ended: nobody waits any more.
    """

    resolve_ms: int | None = None
    connect_ms: int | None = None
    resolving: bool = False
    reused: bool = False
    over: bool = False
    _began: float = 0.0

    @property
    def tried(self) -> bool:
        """Whether a connection was begun."""
        return self._began > 0

    @property
    def connected(self) -> bool:
        """Whether a request can have left for the server."""
        return self.reused or self.connect_ms is not None

    @property
    def seconds(self) -> float:
        """How long resolving and connecting have taken."""
        return ((self.resolve_ms or 0) + (self.connect_ms or 0)) / 1000

    def begin(self) -> None:
        self._began = time.monotonic()

    def resolve(self) -> None:
        self.resolving = True

    def resolved(self) -> None:
        self.resolving, self.resolve_ms, self._began = False, self._elapsed(), time.monotonic()

    def reuse(self) -> None:
        # A connection that was made for this call may serve it again.
        self.reused = self.reused or not self.connected

    def made(self) -> None:
        # The first connection of a call is the one that is reported.
        if not self.connected:
            self.resolve_ms = self.resolve_ms or 0
            self.connect_ms = self._elapsed()

    def _elapsed(self) -> int:
        return round((time.monotonic() - self._began) * 1000)


_wire: ContextVar[Wire] = ContextVar("wire")


@contextlib.contextmanager
def measure() -> Iterator[Wire]:
    """Note what the requests made inside this block, in this task, do on the network."""
    wire = Wire()
    token = _wire.set(wire)
    try:
        yield wire
    finally:
        wire.over = True
        _wire.reset(token)


def current() -> Wire:
    """What the block under `measure` notes in; outside of one, something that nobody reads."""
    return _wire.get(Wire())


def restart() -> None:
    """Forget what the block under `measure` has seen so far: only what comes now is the call that is reported."""
    vars(current()).update(vars(Wire()))
