"""A process on a network of its own, in which every address there is leads back to it and to nobody else.

There the guard is met as it is, with no network allowed to it: a cloud's metadata address has a server that listens,
and so has an address that counts as public. Linux only; `unshare` makes it, for root and for everybody else, where the
kernel lets them have namespaces of their own.
"""

import asyncio
import contextlib
import gc
import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest
from pyroute2 import IPRoute

from app.domain.types.base import Spec
from app.domain.verification import Report
from tests.faults.verifying import BOUND, KEY, WITHIN, left_at_the_bound, providers, spec_of
from tests.servers import odd
from tests.servers.dns import Answers, Dns, dns
from tests.servers.odd import Odd
from tests.types.every import STORAGES
from workers.egress.wire import Wire
from workers.storage.port import Provider
from workers.verify import verify

PUBLIC = "1.2.3.4"
"""The address of the store, which answers as a test wants it to, on STORE of this and of every other address."""

STORE = 8000
CANARY = 9000
"""On this port of every address is a server that nobody may call; on the next one nobody listens."""

CLOSED = 9001
RESOLVER = "127.0.0.53"
SEARCH = "corp.test"
BOUND_SECONDS = 120.0
"""What a test's attempts may take together, and the island to end."""

Table = Mapping[str, Answers]
"""What names there are."""


@dataclass(frozen=True)
class Attempt:
    """One verification of the body called `kind` of BODIES, for the store, or for `place` if that is given.

    The store answers by `replies`, as an Odd does. Neighbours with the same `turn` are under way at once, each `within`
    its bound. Where they are to be `left` at it, they are kept where they "resolve" or "connect", and then it is over.
    """

    kind: str = "s3compatible"
    place: str = f"http://{PUBLIC}:{STORE}"
    replies: Mapping[str, bytes] = field(default_factory=dict)
    turn: str = ""
    left: str = ""
    within: float = WITHIN


@dataclass
class Outcome:
    """What came of an attempt: the report, and how many seconds it took.

    `connected` are the addresses, with their ports, that a connection was begun to, `requests` what the store was
    sent, and `asked` the names that were looked up.
    """

    report: Report
    seconds: float
    connected: list[str]
    requests: list[bytes]
    asked: list[str]


class Island:
    """The running process, as the tests see it."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        assert process.stdin and process.stdout
        self._process, self._log = process, log
        self._input, self._output = process.stdin, process.stdout

    def met(self, attempts: Sequence[Attempt], table: Table) -> list[Outcome]:
        """What comes of `attempts`, where names are as `table` says."""
        pickle.dump((attempts, table), self._input)
        self._input.flush()
        ready, _, _ = select.select([self._output], [], [], BOUND_SECONDS)
        assert ready, "the island does not answer"
        try:
            outcomes: list[Outcome] = pickle.load(self._output)
        except EOFError:
            self._process.wait(BOUND_SECONDS)
            self._log.seek(0)
            raise AssertionError(self._log.read().decode()) from None
        return outcomes


LOCAL_TABLE = 255
"""The kernel's routing table of the addresses that are the machine's own."""
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--net")


def can_be_had() -> bool:
    """Whether this machine lets us have one."""
    try:
        return subprocess.run((*UNSHARE, "true"), capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def island() -> Iterator[Island]:
    """One that lasts until the block ends."""
    if not can_be_had():
        pytest.skip("this machine lets nobody have namespaces: the guard was not tried with public addresses")
    command = (*UNSHARE, sys.executable, "-c")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            (*command, "from tests.faults.island import main; main()"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        try:
            yield Island(process, log)
        finally:
            # With its input over, it ends.
            assert process.stdin and process.stdout
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(BOUND_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                process.stdout.close()


def main() -> None:
    """The island's side: attempts come on standard input, outcomes go to standard output, and nothing else does."""
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _settle()
    with (
        os.fdopen(output, "wb") as pipe,
        dns(RESOLVER, {}) as names,
        odd.everywhere(odd.PAGE, CANARY),
        odd.everywhere(b"", STORE) as store,
    ):
        asyncio.run(_serve(names, store, pipe))


def _settle() -> None:
    """Make every address one of this machine's, and have the tests' server asked for names."""
    with IPRoute() as network:
        (loopback,) = network.link_lookup(ifname="lo")
        network.link("set", index=loopback, state="up")
        for everything in ("0.0.0.0/0", "::/0"):
            network.route("add", dst=everything, oif=loopback, type="local", table=LOCAL_TABLE, scope="host")
    # Who does not answer is asked once, and is waited for as long as the system lets one wait.
    resolver = f"nameserver {RESOLVER}\nsearch {SEARCH}\noptions timeout:{round(WITHIN)} attempts:1\n"
    files = {"resolv.conf": resolver, "nsswitch.conf": "hosts: files dns\n"}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.write_text(content)
            subprocess.run(("mount", "--bind", path, Path("/etc", name)), check=True)


async def _serve(names: Dns, store: Odd, pipe: IO[bytes]) -> None:
    async with AsyncExitStack() as stack:
        here = _Here(names, store, stack)
        with contextlib.suppress(EOFError):
            while True:
                attempts, table = await asyncio.to_thread(pickle.load, sys.stdin.buffer)
                names.answer_by(table)
                outcomes = await here.meet(attempts)
                pickle.dump(outcomes, pipe)
                pipe.flush()


class _Here:
    """Where attempts are carried out, by workers that each have another place for what is no parameter's."""

    def __init__(self, names: Dns, store: Odd, stack: AsyncExitStack) -> None:
        self._names, self._store, self._stack = names, store, stack
        self._connected: list[str] = []
        self._resolving: list[None] = []
        self._workers: dict[str, Callable[[Spec], Awaitable[Provider]]] = {}
        sys.addaudithook(self._note)
        resolve = Wire.resolve

        def noted(wire: Wire) -> None:
            resolve(wire)
            self._resolving.append(None)

        Wire.resolve = noted  # type: ignore[method-assign]

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            host, port, *_ = arguments[1]
            self._connected.append(f"{host}:{port}")

    async def meet(self, attempts: Sequence[Attempt]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for turn in _turns(attempts):
            specs = [spec_of(attempt.kind, attempt.place) for attempt in turn]
            servers = [await self._provider(attempt, spec) for attempt, spec in zip(turn, specs, strict=True)]
            self._store.replies = {"": b"", **turn[0].replies}
            outcomes += await self._verified(turn, servers, specs)
        return outcomes

    async def _provider(self, attempt: Attempt, spec: Spec) -> Provider:
        # An endpoint of the customer's is no setting.
        place = "" if STORAGES[attempt.kind].endpoint else attempt.place
        if place not in self._workers:
            self._workers[place] = await self._stack.enter_async_context(providers(place, egress_allow=()))
            # Each keeps models of SDKs for good; to look through all of them takes longer than a verification may.
            gc.freeze()
        return await self._workers[place](spec)

    async def _verified(
        self, turn: Sequence[Attempt], servers: Sequence[Provider], specs: Sequence[Spec]
    ) -> list[Outcome]:
        noted = (self._connected, self._store.requests, self._names.asked)
        before = [len(each) for each in noted]
        place, began = turn[0].left, time.monotonic()
        kept = self._resolving if place == "resolve" else self._connected
        expected = len(kept) + len(turn)
        calls = [
            verify(provider, spec, KEY, timeout=BOUND if place else turn[0].within, job="job")
            for provider, spec in zip(servers, specs, strict=True)
        ]
        if place:
            reports = await left_at_the_bound(calls, _pass, lambda: len(kept) >= expected)
        else:
            reports = await asyncio.gather(*calls)
        seconds = time.monotonic() - began
        connected, requests, asked = (list(each[count:]) for each, count in zip(noted, before, strict=True))
        return [Outcome(report, seconds, connected, requests, asked) for report in reports]  # type: ignore[arg-type]


_monotonic, _ahead = time.monotonic, 0.0


def _pass(seconds: float) -> None:
    """Let so many seconds be over at once, in the whole process."""
    global _ahead
    _ahead += seconds
    time.monotonic = lambda: _monotonic() + _ahead


def _turns(attempts: Sequence[Attempt]) -> Iterator[list[Attempt]]:
    turn: list[Attempt] = []
    for attempt in attempts:
        if turn and not (attempt.turn and attempt.turn == turn[0].turn):
            yield turn
            turn = []
        turn.append(attempt)
    if turn:
        yield turn
