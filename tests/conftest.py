"""The servers that stand for what the product talks to, started when the first test asks for one and shared by all.

The storage servers are in the modules of their types.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from app.cli.up import redis_binary
from app.domain.types import TYPES
from tests.servers import compatible
from tests.servers.postgres import Postgres
from tests.stack import REDIS_PASSWORD, Process, clean_environment, free_port, wait_for_redis

pytest_plugins = [f"tests.types.{kind}" for kind in TYPES]

# The folders whose files take longest come first, so that the processes, each with a file at a time, end together.
LONGEST_FIRST = ("faults_e2e", "e2e", "browser", "web", "contract", "faults")


def pytest_configure() -> None:
    # A shell without job control starts what is to run in the background with SIGINT ignored. Every process that the
    # tests start would inherit that, and some are interrupted.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {folder: rank for rank, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.parent.name, len(ranks)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything must be tried, a test that was skipped is one that failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "DROPOFF_TESTS_SKIP_NOTHING" in os.environ and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds be over at once for all in this process that goes by the monotonic clock, the timers of its
    loops among it. So nobody waits for what is to take its time, and nothing else is late, however slow the machine."""
    real, ahead = time.monotonic, 0.0

    def passes(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead)
    return passes


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the certificate authority that the tests made; what serves TLS has a certificate of its."""
    return Path(tmp_path_factory.mktemp("tls")) / "authority.pem"


@pytest.fixture(scope="session")
def certificate(authority: Path) -> tuple[Path, Path]:
    """The files with a certificate for loopback and for the S3-compatible services, and with its private key."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(authority))
    issued = ca.issue_cert("127.0.0.1", "localhost", *compatible.NAMES)
    chain, key = authority.with_name("chain.pem"), authority.with_name("key.pem")
    chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return chain, key


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL."""
    with Postgres() as running:
        yield running


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty Redis."""
    port = free_port()
    arguments = ("--port", str(port), "--bind", "127.0.0.1", "--requirepass", REDIS_PASSWORD, "--save", "")
    log = tmp_path_factory.mktemp("redis") / "log"
    process = Process((redis_binary(), *arguments), log, clean_environment())
    process.start()
    wait_for_redis(process, port)
    yield f"redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0"
    process.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind that the product runs on."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/folder/d.db"
    new_database: str = request.getfixturevalue("postgres").new_database()
    return new_database
