"""The product as a user runs it, started for tests: `dropoff up`, or its processes one by one."""

import asyncio
import atexit
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.up import redis_binary
from app.messages.connections import parse_redis_url
from app.messages.sealing import new_key
from app.store.accounts import Accounts
from app.store.engine import migrate, open_engine
from demo.processes import BLOCK, Ports

REDIS_PASSWORD = "a-password-for-tests"
DROPOFF = (sys.executable, "-m", "app.cli")
"""The command `dropoff`."""
READY = "worker ready"
"""What a worker says when it takes jobs."""
START_SECONDS = 120
STOP_SECONDS = 60
# Those of this process that it has not given away yet.
_PORTS: list[int] = []
# Whatever the machine's own environment has must not reach the product under test.
FOREIGN = (
    "AWS_", "AZURE_", "GOOGLE_", "DROPOFF_", "OTEL_", "FLOWER_", "CELERY_", "STORAGE_EMULATOR", "HTTP_PROXY",
    "HTTPS_PROXY",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `seconds` is how long it took from the call to its last byte."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float

    def __repr__(self) -> str:
        """So short that a failed comparison shows all of it: what the client is told, if it is told anything."""
        try:
            said = self.json["request_info"]["message"]
        except (ValueError, LookupError, TypeError):
            said = self.text[:200]
        return f"<{self.status} after {self.seconds:.3f} s: {said}>"

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def report(self) -> dict[str, Any]:
        """The verification report, of a refusal, of a success or by itself."""
        content = self.error if "error" in self.json else self.json.get("destination", self.json)
        return content["verification"]

    def step(self, name: str) -> dict[str, Any]:
        """The one entry of the report for the step `name`."""
        (step,) = [step for step in self.report["steps"] if step["step"] == name]
        return step


class Api:
    """A client of one running API, with one key."""

    def __init__(self, url: str, key: str = "demo", timeout: float = 60) -> None:
        self.url = url
        self.key = key
        self._timeout = timeout

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **query: str,
    ) -> Answer:
        """One request; an HTTP error is an answer like any other."""
        url = self.url + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        request = urllib.request.Request(url, data=body, method=method, headers=sent)
        began = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=timeout or self._timeout) as response:
                text = response.read().decode()
                return Answer(response.status, response.headers, text, time.monotonic() - began)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read().decode(), time.monotonic() - began)

    def create(self, body: Mapping[str, Any], timeout: float | None = None) -> Answer:
        """POST `body` as JSON."""
        content = {"name": "results", "enabled": True, **body}
        return self.call(
            "POST", "/destinations", json.dumps(content).encode(), {"Content-Type": "application/json"}, timeout
        )

    def verify(self, body: Mapping[str, Any] | None = None, destination: str = "") -> Answer:
        """POST `body` to be verified, or let the one with the id `destination` be verified as it is."""
        path = f"/destinations/{destination}/verify" if destination else "/destinations/verify"
        if body is None:
            return self.call("POST", path)
        content = {"name": "results", "enabled": True, **body}
        return self.call("POST", path, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def list(self, **query: str) -> Answer:
        return self.call("GET", "/destinations", **query)

    @contextlib.contextmanager
    def stream(self, after: str = "", timeout: float = 30) -> Iterator[Iterator[dict[str, str]]]:
        """The server-sent events of GET /jobs/stream, each as its fields, from the one after the id `after` on."""
        headers = {"Authorization": f"Bearer {self.key}", **({"Last-Event-ID": after} if after else {})}
        request = urllib.request.Request(f"{self.url}/jobs/stream", headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            yield _events(line.decode().rstrip("\n") for line in response)


def _events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            event[name] = value
        else:
            yield event
            event = {}


def s3compatible(endpoint: str, key: str = "k", secret: str = "s") -> dict[str, Any]:
    """The body of a destination at `endpoint`, without what `Api.create` adds."""
    return {
        "type": "s3compatible", "s3_endpoint": endpoint, "s3_bucket_name": "results",
        "s3_access_key_id": key, "s3_secret_access_key": secret,
    }  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on at this moment, that no connection is given which is made meanwhile, and that
    nobody else who asks for one is given while this process lasts."""
    while True:
        if not _PORTS:
            block = Ports(BLOCK - 1)
            atexit.register(block.close)
            _PORTS.extend(block.numbers)
        port = _PORTS.pop()
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def until(check: Callable[[], Any], what: str, seconds: float = START_SECONDS, *, pause: float = 0.05) -> Any:
    """The first true value of `check`, which is asked again after each `pause`; fails loudly when there was none in
    time."""
    ends = time.monotonic() + seconds
    while True:
        if value := check():
            return value
        if time.monotonic() > ends:
            raise AssertionError(f"{what}: not within {seconds} seconds")
        time.sleep(pause)


async def eventually(check: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
    """As `until`, for what goes on in the loop that this is called in."""
    ends = time.monotonic() + seconds
    while True:
        if value := check():
            return value
        if time.monotonic() > ends:
            raise AssertionError(f"{what}: not within {seconds} seconds")
        await asyncio.sleep(0.01)


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without anything that could steer the product, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN)}
    return {**kept, **variables}


@dataclass
class Process:
    """One process of the product, its output in a file."""

    command: tuple[str, ...]
    log_path: Path
    environment: Mapping[str, str] = field(repr=False)
    popen: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=dict(self.environment), start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every line of the log about the event `name`."""
        lines = (json.loads(line) for line in self.log.splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"].startswith(name)]

    def signal(self, number: int) -> None:
        assert self.popen
        self.popen.send_signal(number)

    def stop(self) -> int:
        """End it as an operator would; kill it only if it does not go, and then say so."""
        if self.popen is None:
            return 0
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
        try:
            return self.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"{self.command} did not end within {STOP_SECONDS} seconds of SIGTERM") from None


@contextlib.contextmanager
def up(folder: Path, **settings: str) -> Iterator[Api]:
    """`dropoff up` in `folder` with `settings` (DROPOFF_ variables without the prefix, in lower case)."""
    with up_process(folder, **settings) as (api, _):
        yield api


@contextlib.contextmanager
def up_process(folder: Path, **settings: str) -> Iterator[tuple[Api, Process]]:
    """The same, with the process itself."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    variables = {f"DROPOFF_{name.upper()}": value for name, value in settings.items() if name.isupper() is False}
    extra = {name: value for name, value in settings.items() if name.isupper()}
    process = Process(
        (sys.executable, "-m", "app.cli", "up", "--port", str(port), "--data", str(folder / "data")),
        folder / "up.log",
        clean_environment(**variables, **extra),
    )
    process.start()
    try:
        wait_ready(process)
        yield Api(f"http://127.0.0.1:{port}"), process
    finally:
        process.stop()


def wait_ready(process: Process) -> None:
    """Return when `dropoff up` has printed its address since it was last started; fail with its log if it ends."""
    assert process.popen

    def ready() -> bool:
        assert process.popen
        assert process.popen.poll() is None, f"dropoff up ended:\n{process.log}"
        return "Dropoff is ready at" in process.log

    until(ready, "dropoff up is ready")


class Deployment:
    """Redis, API processes and workers, each a process of its own that can be stopped, frozen and started.

    `api`, `worker` and `url` are the first ones; those that deliver are the last of `workers`. Settings are DROPOFF_
    variables without the prefix, in lower case; what is in capitals is a variable as it stands. `dropoff` is the
    command that runs the processes.
    """

    def __init__(
        self,
        folder: Path,
        apis: int = 1,
        workers: int = 1,
        deliveries: int = 0,
        dropoff: tuple[str, ...] = DROPOFF,
        **settings: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.redis_port, ports = free_port(), [free_port() for _ in range(apis)]
        self.redis_url = f"redis://:{REDIS_PASSWORD}@127.0.0.1:{self.redis_port}/0"
        given = {name if name.isupper() else f"DROPOFF_{name.upper()}": value for name, value in settings.items()}
        own = {"DROPOFF_DATA": str(folder), "DROPOFF_REDIS_URL": self.redis_url, "DROPOFF_SECRET_KEYS": new_key()}
        self.environment = clean_environment(**{**own, **given})
        arguments = ("--port", str(self.redis_port), "--bind", "127.0.0.1", "--requirepass", REDIS_PASSWORD)
        kept = ("--dir", str(folder), "--appendonly", "yes", "--save", "60 1")
        self.redis = self._process("redis", redis_binary(), *arguments, *kept)
        self.apis = [
            self._process(f"api{n or ''}", *dropoff, "api", "--host", "127.0.0.1", "--port", str(port))
            for n, port in enumerate(ports)
        ]
        self.workers = [self._process(f"worker{n or ''}", *dropoff, "worker") for n in range(workers)]
        self.workers += [
            self._process(f"deliveries{n or ''}", *dropoff, "worker", "--deliveries") for n in range(deliveries)
        ]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.api, self.worker, self.url = self.apis[0], self.workers[0], self.urls[0]

    def _process(self, name: str, *command: str) -> Process:
        return Process(command, self.folder / f"{name}.log", self.environment)

    def set_api(self, number: int, **settings: str) -> None:
        """Give one API process settings of its own, from when it is started next: another patience, say. A job that it
        hands in keeps to them, whichever worker has it."""
        own = {f"DROPOFF_{name.upper()}": value for name, value in settings.items()}
        self.apis[number].environment = {**self.apis[number].environment, **own}

    def dropoff(self, *arguments: str) -> str:
        """What one run of the command `dropoff` prints."""
        command = (sys.executable, "-m", "app.cli", *arguments)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def client(self, account: str = "tester") -> Api:
        """A client with a new key of `account`."""
        key = secrets.token_urlsafe(32)
        self._in_database(lambda engine: Accounts(engine).ensure_key(account, key))
        return Api(self.url, key)

    def clients(self, account: str = "tester") -> tuple[Api, ...]:
        """A client of each API process, all with the same new key of `account`."""
        first = self.client(account)
        return tuple(Api(url, first.key) for url in self.urls)

    def migrate(self) -> None:
        """Bring the database's schema to this release's."""
        self._in_database(migrate)

    def _in_database(self, call: Callable[[AsyncEngine], Awaitable[Any]]) -> None:
        """Do what a command of `dropoff` does with the database, without the second that its process takes to begin."""

        async def work() -> None:
            async with open_engine(self.database_url) as engine:
                await call(engine)

        # The caller may be in a loop of its own.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, work()).result()

    def start_redis(self) -> None:
        self.redis.start()
        wait_for_redis(self.redis, self.redis_port)

    def start_api(self, number: int = 0) -> None:
        self.apis[number].start()
        self._wait_for_api(number)

    def _wait_for_api(self, number: int) -> None:
        port = int(self.urls[number].rpartition(":")[2])
        until(lambda: accepts(port, self.apis[number]), f"the API listens\n{self.apis[number].log}")

    def start_worker(self, number: int = 0) -> None:
        """Return when the worker has said once more that it is ready."""
        worker = self.workers[number]
        before = worker.log.count(READY) if worker.log_path.exists() else 0
        worker.start()
        until(lambda: worker.log.count(READY) > before, f"the worker is ready\n{worker.log}")

    def start_ended(self) -> None:
        """Start every API process and worker that has ended; return when all of them are ready."""
        apis = [number for number, api in enumerate(self.apis) if api.popen and api.popen.poll() is not None]
        ended = [worker for worker in self.workers if worker.popen and worker.popen.poll() is not None]
        said = [worker.log.count(READY) for worker in ended]
        # They do not wait for each other.
        for process in (*(self.apis[number] for number in apis), *ended):
            process.start()
        for number in apis:
            self._wait_for_api(number)
        for worker, before in zip(ended, said, strict=True):
            until(lambda log=worker, n=before: log.log.count(READY) > n, f"the worker is ready\n{worker.log}")

    @property
    def database_url(self) -> str:
        """Where its database is, as SQLAlchemy writes it."""
        return self.environment.get("DROPOFF_DATABASE_URL") or f"sqlite+aiosqlite:///{self.folder / 'dropoff.db'}"

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def __enter__(self) -> "Deployment":
        try:
            self.migrate()
            self.start_redis()
            # They do not wait for each other.
            for process in (*self.apis, *self.workers):
                process.start()
            for number in range(len(self.apis)):
                self._wait_for_api(number)
            for worker in self.workers:
                until(lambda log=worker: READY in log.log, f"the worker is ready\n{worker.log}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        with contextlib.ExitStack() as stopping:
            # One that does not end must not keep the others running.
            for process in (self.redis, *self.workers, *self.apis):
                stopping.callback(process.stop)


async def account_of(accounts: Accounts, key: str) -> int | None:
    """The number of the account that `key` opens; None where it opens none."""
    owner = await accounts.owner_of(key)
    return owner.account if owner else None


def kill(*processes: Process) -> None:
    """Kill them, together, and return when they are gone."""
    for process in processes:
        process.signal(signal.SIGKILL)
    for process in processes:
        assert process.popen
        process.popen.wait(STOP_SECONDS)


@contextlib.contextmanager
def redis_server(folder: Path, *arguments: str) -> Iterator[str]:
    """The URL of a Redis without a password that keeps nothing, started with `arguments` beside its own."""
    port = free_port()
    command = (redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "")
    process = Process((*command, *arguments), folder / "redis.log", clean_environment())
    process.start()
    try:
        wait_for_redis(process, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.stop()


def patient(url: str, *, decode: bool = True, **options: Any) -> "redis.asyncio.Redis":
    """A client of the Redis at `url` as the product has it, but for its patience: no call of it is made again because
    the machine was slow, which would put what is put into a list there twice, or lose what is popped."""
    return parse_redis_url(url).connect(seconds=60, connect_seconds=60, wait_seconds=60, decode=decode, **options)


def wait_for_redis(process: Process, port: int) -> None:
    until(lambda: accepts(port, process), f"Redis accepts connections\n{process.log}")


def accepts(port: int, process: Process | None = None) -> bool:
    """Whether connections to `port` are taken; fails with the log of `process` where that has ended."""
    if process:
        assert process.popen and process.popen.poll() is None, f"{process.command} ended:\n{process.log}"
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
