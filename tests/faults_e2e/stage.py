"""The product on a stage: two API processes, two workers, its Redis and database behind links, a store, and clients."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import redis
from sqlalchemy.engine import make_url

from app.messages.job import Job
from app.messages.keys import INTENTS, UNSETTLED, intent_key
from app.messages.sealing import Sealer
from tests.e2e.test_redis import master_of
from tests.faults_e2e.load import Client, Load
from tests.faults_e2e.store import Store, running_store
from tests.servers.postgres import Postgres
from tests.servers.proxy import Link, link
from tests.stack import REDIS_PASSWORD, Api, Deployment, until

HOLD, VERIFY = 12.0, 6.0
OPERATOR = "operator-key-of-the-stage"
EMPTY_SECONDS = 120.0
"""How soon after a fault no file of ours lies in any bucket."""


# While this is there, a create takes half a second to commit.
_SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$; "
    "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON destinations DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION slow()"
)
_AS_EVER = "DROP TRIGGER slow ON destinations; DROP FUNCTION slow"
# An error where no commit is under way.
_COMMITTING = "SELECT 1 / count(*) FROM pg_stat_activity WHERE query LIKE 'COMMIT%' AND wait_event = 'PgSleep'"


class Database(Postgres):
    """A PostgreSQL that can be ended and started again with its data."""

    def command(self) -> Sequence[str]:
        self._arguments = super().command()
        return self._arguments

    def end(self, number: int) -> None:
        """SIGINT ends it in order, SIGQUIT at once, as if it had crashed."""
        assert self._process
        self._process.send_signal(number)
        self._process.wait(30)

    def again(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, user=self.run_as, env={**os.environ, "HOME": str(self.folder)},
            )  # fmt: skip
        self._wait()

    def terminate_backends(self) -> None:
        self._sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = current_user "
                  "and pid <> pg_backend_pid()").check_returncode()  # fmt: skip

    @contextlib.contextmanager
    def slow_commits(self, database: str) -> Iterator[Callable[[], bool]]:
        """Creates take half a second to commit while the block lasts; yields what says whether one does so now."""
        self._sql(_SLOW, database).check_returncode()
        try:
            yield lambda: self._sql(_COMMITTING).returncode == 0
        finally:
            self._sql(_AS_EVER, database).check_returncode()

    def connections(self) -> int:
        """How many there are to all databases."""
        assert self._process
        return len([each for each in psutil.Process(self._process.pid).children() if "dropoff" in _title(each)])


def _title(process: psutil.Process) -> str:
    """How PostgreSQL calls one of its processes: by its user, where it serves a connection."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


@dataclass
class Outcome:
    """What a fault came to. `recovery` is when the last call that failed was sent, in seconds after the fault was over;
    `empty` how many seconds after the load no file lay in any bucket."""

    fault: str
    calls: int
    statuses: dict[str, int]
    slowest: float
    recovery: float
    untrue: list[str]
    left: int
    unreported: list[str]
    empty: float


@dataclass
class Stage:
    """Everything that a fault may touch."""

    deployment: Deployment
    store: Store
    load: Load
    apis_redis: Link
    workers_redis: Link
    apis_database: Link | None = None
    database: Database | None = None
    redis_port: Callable[[], int] = lambda: 0

    @contextlib.contextmanager
    def administrator(self) -> Iterator["redis.Redis[bytes]"]:
        """Redis, by a way that nobody cuts."""
        with redis.Redis(port=self.redis_port(), password=REDIS_PASSWORD) as client:
            yield client

    def worker_of(self, port: int) -> int:
        """The number of the worker that has a connection from this port."""
        for number, worker in enumerate(self.deployment.workers):
            if worker.popen and worker.popen.poll() is None:
                connections = psutil.Process(worker.popen.pid).net_connections("tcp")
                if any(each.laddr.port == port for each in connections):
                    return number
        raise AssertionError(f"no worker calls from port {port}")

    def running(self) -> list[int]:
        processes = (*self.deployment.workers, *self.deployment.apis)
        return [each.popen.pid for each in processes if each.popen and each.popen.poll() is None]

    def on_record(self) -> set[str]:
        """The keys of the files that are told to who asks, or about to be removed or told."""
        operator = Api(self.deployment.url, OPERATOR)
        told = {each["object"] for each in operator.call("GET", "/leftovers").json["leftovers"]}
        sealer = Sealer(self.deployment.environment["DROPOFF_SECRET_KEYS"].split(","))
        with self.administrator() as client:
            intents = [*client.zrange(INTENTS, 0, -1), *client.zrange(UNSETTLED, 0, -1)]
            sealed = [client.get(intent_key(name.decode())) for name in intents]
        return told | {Job.model_validate(sealer.open(each)).key for each in sealed if each}

    def settle(self, name: str, began: float, over: float) -> Outcome:
        """End the load, and compare everything with what was told."""
        self.load.stop()
        named = {call.object for call in self.load.calls if call.object}
        lying = {key for _, key in set(self.store.objects)}
        told = named | self.on_record() if lying else named
        # What was removed meanwhile was on record until then.
        unreported = sorted((lying & {key for _, key in set(self.store.objects)}) - told)
        stopped = time.monotonic()
        try:
            until(lambda: not self.store.objects, f"the buckets are empty after {name}", EMPTY_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.store.objects}") from None
        empty = time.monotonic() - stopped if lying else 0.0
        for client in self.load.clients:
            client.check()
        outcome = judged(name, self.load, self.store, began, over, left=len(lying), unreported=unreported, empty=empty)
        for client in self.load.clients:
            client.untrue.clear()
        self.store.mixed.clear()
        return outcome


def judged(
    name: str, load: Load, store: Store, began: float, over: float, left: int = 0, unreported: Sequence[str] = (),
    empty: float = 0.0,
) -> Outcome:  # fmt: skip
    """What the calls since `began` came to, and what the clients found when they compared."""
    calls = load.since(began)
    statuses: dict[str, int] = {}
    for call in calls:
        label = "cut" if call.cut else f"{call.status} {call.code}".strip()
        statuses[label] = statuses.get(label, 0) + 1
    return Outcome(
        fault=name,
        calls=len(calls),
        statuses=dict(sorted(statuses.items())),
        slowest=max((call.seconds for call in calls), default=0.0),
        recovery=max((0.0, *(call.at - over for call in calls if call.failed))),
        untrue=[text for client in load.clients for text in client.untrue] + store.mixed,
        left=left,
        unreported=[*unreported],
        empty=empty,
    )


@contextlib.contextmanager
def staged(
    folder: Path,
    clients: int = 8,
    *,
    postgres: bool = True,
    hold: float = HOLD,
    verify: float = VERIFY,
    redis_url: str = "",
    **more: str,
) -> Iterator[Stage]:
    """The stage, with as many clients; without PostgreSQL it has an SQLite file, and with `redis_url` the Redis that
    Sentinels name in place of its own."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running_store())
        apis_redis, workers_redis = stack.enter_context(link(0)), stack.enter_context(link(0))
        settings = {
            "hold_seconds": str(hold), "verify_seconds": str(verify), "allow_http": "1", "operator_key": OPERATOR,
            "egress_allow": "127.0.0.0/8", "destination_limit": "1000000", "account_verifications": "100", **more,
        }  # fmt: skip
        database, cable, direct = None, None, ""
        if postgres:
            database = stack.enter_context(Database())
            direct = database.new_database()
            cable = stack.enter_context(link(make_url(direct).port or 0))
            settings["database_url"] = direct
        deployment = Deployment(folder, apis=2, workers=2, **settings)
        for each in (apis_redis, workers_redis):
            each.target = deployment.redis_port
        for processes, cable_to_redis in ((deployment.apis, apis_redis), (deployment.workers, workers_redis)):
            own = {"DROPOFF_REDIS_URL": redis_url or f"redis://:{REDIS_PASSWORD}@127.0.0.1:{cable_to_redis.port}/0"}
            if cable and processes is deployment.apis:
                through = make_url(direct).set(port=cable.port).render_as_string(hide_password=False)
                own["DROPOFF_DATABASE_URL"] = through
            for process in processes:
                process.environment = {**process.environment, **own}
        stack.enter_context(deployment)
        keys = [deployment.client(f"account {number}").key for number in range(clients)]
        load = Load([Client(number, key, deployment.urls, store) for number, key in enumerate(keys)])
        master = partial(master_of, redis_url) if redis_url else lambda: deployment.redis_port
        yield Stage(deployment, store, load, apis_redis, workers_redis, cable, database, master)
