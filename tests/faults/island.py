"""A process on a network of its own, in which every address there is leads back to it and to nobody else.

There the guard is met as it is, with no network allowed to it: a cloud's metadata address has a server that listens,
and so has an address that counts as public. Linux only; `unshare` and `ip` make it, for root and for everybody else.
"""

import asyncio
import contextlib
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.specs.base import Spec
from app.domain.verification import Report
from tests.faults.verifying import KEY, WITHIN, providers, spec_of
from tests.servers import odd
from tests.servers.dns import Answers, Dns, dns
from tests.servers.odd import Odd
from workers.providers.base import Provider
from workers.verify import verify

PUBLIC = "1.2.3.4"
"""The address of whatever stands in a store's place."""

CANARY = 9000
"""On this port of every address is a server that nobody may call; on the next one nobody listens."""

CLOSED = 9001
RESOLVER = "127.0.0.53"
SEARCH = "corp.test"
TURN_SECONDS = 0.01

Host = Callable[[], contextlib.AbstractContextManager[Odd]]


@dataclass(frozen=True)
class Attempt:
    """One verification of the body called `kind` of BODIES, with `changes`, for the store at `place`.

    `host` stands there if it is given, and PORT in `place` is its port; it is spoken to over TLS if `tls` says so.
    Neighbours with the same `turn` are under way at once.
    """

    kind: str = "s3compatible"
    place: str = ""
    changes: dict[str, str] = field(default_factory=dict)
    host: Host | None = None
    tls: bool = False
    turn: str = ""


@dataclass
class Outcome:
    """What came of an attempt: the faults that the local rules find, or else a report.

    `seconds` is how long it took, `blocked` how long at most the loop did nothing else meanwhile; `grown` says how
    many kilobytes more than before this process had at most. `called` are the host's addresses that were connected
    to and `requests` what it was sent; `canary` are those where nobody may call, `asked` the names that were looked up.
    """

    faults: list[ParameterFault] = field(default_factory=list)
    report: Report | None = None
    seconds: float = 0
    blocked: float = 0
    grown: int = 0
    called: list[str] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    canary: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def met(attempts: Sequence[Attempt], table: dict[str, Answers]) -> list[Outcome]:
    """What comes of `attempts` on the island, where names are as `table` says."""
    island = ("unshare", "--user", "--map-root-user", "--mount", "--net", sys.executable, "-c")
    done = subprocess.run(
        (*island, "from tests.faults.island import main; main()"),
        input=pickle.dumps((attempts, table)), capture_output=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    outcomes: list[Outcome] = pickle.loads(done.stdout)
    return outcomes


def main() -> None:
    """The island's side: attempts come on standard input, outcomes go to standard output, and nothing else does."""
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    attempts, table = pickle.loads(sys.stdin.buffer.read())
    odd.ADDRESS = PUBLIC
    _settle()
    with dns(RESOLVER, table) as names, odd.everywhere(odd.PAGE, CANARY) as canary:
        outcomes = asyncio.run(_Island(names, canary).meet(attempts))
    with os.fdopen(output, "wb") as pipe:
        pipe.write(pickle.dumps(outcomes))


def _settle() -> None:
    """Make every address one of this machine's, and have the tests' server asked for names."""
    for command in ("link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo"):
        subprocess.run(("ip", *command.split()), check=True)
    files = {"resolv.conf": f"nameserver {RESOLVER}\nsearch {SEARCH}\n", "nsswitch.conf": "hosts: files dns\n"}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.write_text(content)
            subprocess.run(("mount", "--bind", path, Path("/etc", name)), check=True)


@dataclass
class _Island:
    """Where attempts are carried out."""

    names: Dns
    canary: Odd

    async def meet(self, attempts: Sequence[Attempt]) -> list[Outcome]:
        # What each SDK needs once, it has after this.
        for kind in {attempt.kind for attempt in attempts}:
            await self._together([Attempt(kind, host=odd.html)])
        outcomes: list[Outcome] = []
        for turn in _turns(attempts):
            outcomes += await self._together(turn)
        return outcomes

    async def _together(self, attempts: Sequence[Attempt]) -> list[Outcome]:
        ready = asyncio.Barrier(len(attempts))
        return await asyncio.gather(*(self._carry_out(attempt, ready) for attempt in attempts))

    async def _carry_out(self, attempt: Attempt, ready: asyncio.Barrier) -> Outcome:
        with attempt.host() if attempt.host else contextlib.nullcontext(Odd("")) as host:
            place = (attempt.place or host.url).replace("PORT", host.url.rpartition(":")[2])
            place = place.replace("http:", "https:") if attempt.tls else place
            try:
                spec = spec_of(attempt.kind, place, **attempt.changes)
            except InvalidParameters as refused:
                return Outcome(refused.faults)
            # An endpoint of the customer's is no setting.
            async with providers("" if attempt.kind == "s3compatible" else place, egress_allow=()) as provider_for:
                await ready.wait()
                outcome = await self._verified(provider_for(spec), spec)
            outcome.called, outcome.requests = host.called, host.requests
        return outcome

    async def _verified(self, provider: Provider, spec: Spec) -> Outcome:
        outcome = Outcome()
        called, asked = len(self.canary.called), len(self.names.asked)
        async with _watched_loop(outcome):
            with _measured(outcome):
                outcome.report = await verify(provider, spec, KEY, within=WITHIN, job="job")
        outcome.canary, outcome.asked = self.canary.called[called:], self.names.asked[asked:]
        return outcome


def _turns(attempts: Sequence[Attempt]) -> Iterator[list[Attempt]]:
    turn: list[Attempt] = []
    for attempt in attempts:
        if turn and not (attempt.turn and attempt.turn == turn[0].turn):
            yield turn
            turn = []
        turn.append(attempt)
    if turn:
        yield turn


@contextlib.contextmanager
def _measured(outcome: Outcome) -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the highest point so far
    before, began = _kilobytes("VmRSS"), time.monotonic()
    yield
    outcome.seconds = time.monotonic() - began
    outcome.grown = _kilobytes("VmHWM") - before


def _kilobytes(name: str) -> int:
    (found,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found)


@contextlib.asynccontextmanager
async def _watched_loop(outcome: Outcome) -> AsyncIterator[None]:
    """Note the longest time between two turns of the loop."""
    turned = time.monotonic()

    async def turn() -> None:
        nonlocal turned
        while True:
            outcome.blocked = max(outcome.blocked, time.monotonic() - turned - TURN_SECONDS)
            turned = time.monotonic()
            await asyncio.sleep(TURN_SECONDS)

    turning = asyncio.create_task(turn())
    yield
    outcome.blocked = max(outcome.blocked, time.monotonic() - turned)
    turning.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await turning
