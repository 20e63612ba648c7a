"""What docker-compose.yml and Procfile start, started here as plain processes: their commands, secrets, health checks.

Compose itself is not run. The file is checked against its specification, and only addresses that exist among containers
alone are replaced by addresses of loopback.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from redis import Redis

from app.cli.up import redis_binary
from app.messages.keys import QUEUE
from app.settings import Settings
from app.web.body import BODY_LIMIT, RESULT_SET_LIMIT
from tests.documents import ROOT
from tests.servers.postgres import Postgres
from tests.stack import Answer, Api, Deployment, Process, clean_environment, until

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
APIS, WORKERS = ("api-1", "api-2"), ("worker-1", "worker-2")
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())

# What an operator would write into dropoff.env to use a store of the own network.
SETTINGS = {"DROPOFF_ALLOW_HTTP": "1", "DROPOFF_EGRESS_ALLOW": "127.0.0.0/8", "DROPOFF_DESTINATION_LIMIT": "1000000"}
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def secrets_of(name: str, folder: Path) -> Path:
    """What is mounted for the service called `name` where secrets are, beside a docker-compose.yml in `folder`."""
    (source,) = [each.split(":")[0] for each in SERVICES[name].get("volumes", ()) if ":/run/secrets:ro" in each]
    return folder / source


def make_secrets(folder: Path) -> None:
    """What the service of the file that makes them would do."""
    command = [word.replace("/secrets", str(folder / "secrets")) for word in SERVICES["secrets"]["command"]]
    subprocess.run(command, env=clean_environment(PATH=PATH), check=True)


class Composed(Deployment):
    """The services of docker-compose.yml, each with the secrets that it is given and no others."""

    def __init__(self, folder: Path, database_url: str) -> None:
        super().__init__(folder, apis=len(APIS), workers=len(WORKERS))
        self._database_url = database_url
        self._make_secrets(database_url)
        self.redis = self._service("redis", ("--port", str(self.redis_port), "--bind", "127.0.0.1"))
        self.apis = [self._service(name) for name in APIS]
        self.workers = [self._service(name) for name in WORKERS]
        self.api, self.worker = self.apis[0], self.workers[0]
        # What `docker compose exec api-1 dropoff …` would have.
        self.environment = dict(self.api.environment)

    def __enter__(self) -> "Composed":
        migrate = self._service("migrate")
        migrate.start()
        assert migrate.popen
        assert migrate.popen.wait(60) == 0, migrate.log
        super().__enter__()
        return self

    @property
    def database_url(self) -> str:
        return self._database_url

    def healthy(self, name: str) -> bool:
        """What the health check of the service says."""
        kind, *test = SERVICES[name]["healthcheck"]["test"]
        command = test if kind == "CMD" else ["sh", "-c", *test]
        placed = [self._placed(name, word).replace("$$", "$") for word in command]
        if command[:2] == ["dropoff", "healthcheck"]:
            # In a container it is process 1.
            processes = dict(zip((*APIS, *WORKERS), (*self.apis, *self.workers), strict=True))
            process = processes[name].popen
            placed += ["--pid", str(process.pid if process else 0)]
            if name in APIS:
                placed += ["--port", self.urls[APIS.index(name)].rpartition(":")[2]]
        done = subprocess.run(placed, env=self._environment_of(name), capture_output=True, check=False, timeout=60)
        return done.returncode == 0

    def _make_secrets(self, database_url: str) -> None:
        """By the service that does; then only the addresses are changed."""
        make_secrets(self.folder)
        for url in self.folder.glob("secrets/*/dropoff_database_url"):
            url.write_text(database_url)
        for url in self.folder.glob("secrets/*/dropoff_redis_url"):
            url.write_text(url.read_text().replace("redis:6379", f"127.0.0.1:{self.redis_port}"))
            self.redis_url = url.read_text().strip()

    def _service(self, name: str, more: tuple[str, ...] = ()) -> Process:
        command = [self._placed(name, word) for word in SERVICES[name]["command"]]
        if command[0] == "valkey-server":
            command[0] = redis_binary()
            more += ("--dir", str(self.folder))
        return Process((*command, *more), self.folder / f"{name}.log", self._environment_of(name))

    def _environment_of(self, name: str) -> dict[str, str]:
        given = SERVICES[name].get("environment", {})
        return clean_environment(**SETTINGS, **given, PATH=PATH, DROPOFF_SECRETS_DIR=str(secrets_of(name, self.folder)))

    def _placed(self, name: str, word: str) -> str:
        placed = word.replace("/run/secrets", str(secrets_of(name, self.folder))).replace("0.0.0.0", "127.0.0.1")
        return placed.replace("8080", self.urls[APIS.index(name)].rpartition(":")[2]) if name in APIS else placed


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Composed]:
    with Composed(tmp_path_factory.mktemp("composed"), postgres.new_database()) as running:
        yield running


def create_through_each(deployment: Deployment, body: dict[str, Any]) -> None:
    """A destination through each API process, which the others then have too."""
    key = deployment.client("each").key
    apis = [Api(url, key) for url in deployment.urls]
    created = [api.create(body).json["destination"] for api in apis]
    assert all(destination["verification"]["ok"] for destination in created)
    assert [api.list().json["destinations"] for api in apis] == [created] * len(apis)


def test_the_compose_file_follows_the_specification() -> None:
    jsonschema.validate(COMPOSE, get_builtin_schema("vendor.compose-spec"))


def test_whatever_serves_has_a_health_check_and_starts_after_what_it_needs() -> None:
    assert [name for name in SERVICES if "healthcheck" not in SERVICES[name]] == ["secrets", "migrate"]
    for name in (*APIS, *WORKERS):
        assert SERVICES[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
        }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("redis", "postgres"):
        assert SERVICES[name]["depends_on"] == {"secrets": {"condition": "service_completed_successfully"}}
    assert SERVICES["flower"]["profiles"] == ["flower"]


def test_a_process_is_given_longer_to_end_than_it_may_have_to_finish() -> None:
    given = {name: int(SERVICES[name]["stop_grace_period"].removesuffix("s")) for name in (*APIS, *WORKERS)}
    assert min(given[name] for name in APIS) > Settings().hold_seconds
    assert min(given[name] for name in WORKERS) > Settings().verify_seconds


def test_the_secrets_are_made_once_belong_together_and_go_to_who_needs_them(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = read_all(tmp_path)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("secrets/*/*")} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("secrets/*") if path.is_file()} == {0o600}
    mounted = {name: secrets_of(name, tmp_path) for name in SERVICES if name != "secrets"}
    assert set(mounted.values()) == {path for path in tmp_path.glob("secrets/*") if path.is_dir()}
    said = {path.name: text for path, text in made.items()}
    database, user = (SERVICES["postgres"]["environment"][f"POSTGRES_{name}"] for name in ("DB", "USER"))
    password = said["postgres_password"]
    assert said["dropoff_database_url"] == f"postgresql+asyncpg://{user}:{password}@postgres:5432/{database}"
    assert said["dropoff_redis_url"] == f"redis://:{said['redis.conf'].removeprefix('requirepass ')}@redis:6379/0"
    assert {path.name for path in mounted["worker-1"].iterdir()} == {"dropoff_redis_url", "dropoff_secret_keys"}
    # As after a kill in the middle of it.
    (tmp_path / "secrets/worker/dropoff_redis_url").unlink()
    (tmp_path / "secrets/api/.dropoff_redis_url.new").write_text("redis://:ha")
    make_secrets(tmp_path)
    assert read_all(tmp_path) == made


def read_all(folder: Path) -> dict[Path, str]:
    return {path: path.read_text().strip() for path in folder.glob("secrets/**/*") if path.is_file()}


def test_the_image_copies_what_is_there_and_nobody_is_root_in_it() -> None:
    whole = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [shlex.split(line) for line in whole.splitlines() if line[:1].isalpha()]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name for word, *names in lines if word == "COPY" and not names[0].startswith("--from") for name in names[:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    assert [line for line in lines if line[0] == "USER"] == [["USER", "10001"]]
    assert {each["build"]["target"] for each in SERVICES.values() if "build" in each} <= {
        line[-1] for line in lines if line[0] == "FROM"
    }


def test_each_composed_api_process_creates_a_destination(composed: Composed, good: dict[str, Any]) -> None:
    create_through_each(composed, good)
    assert all(composed.healthy(name) for name in (*APIS, *WORKERS))


def test_each_process_of_the_procfile_creates_a_destination(
    tmp_path: Path, postgres: Postgres, good: dict[str, Any]
) -> None:
    settings = {name.removeprefix("DROPOFF_").lower(): value for name, value in SETTINGS.items()}
    deployment = Deployment(tmp_path, apis=2, workers=2, database_url=postgres.new_database(), **settings)
    web = PROCFILE["web"].replace("0.0.0.0", "127.0.0.1")
    for process, url in zip(deployment.apis, deployment.urls, strict=True):
        process.command = ("sh", "-c", f"exec {web}")
        process.environment = {**process.environment, "PATH": PATH, "PORT": url.rpartition(":")[2]}
    for process in deployment.workers:
        process.command = ("sh", "-c", f"exec {PROCFILE['worker']}")
        process.environment = {**process.environment, "PATH": PATH}
    with deployment:
        create_through_each(deployment, good)


def test_jobs_that_no_worker_has_taken_are_the_length_of_the_queue(composed: Composed, good: dict[str, Any]) -> None:
    api = composed.client("waiting")
    redis = Redis.from_url(composed.redis_url)
    assert redis.llen(QUEUE) == 0
    assert [worker.stop() for worker in composed.workers] == [0, 0]
    assert not composed.healthy(WORKERS[0])
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(api.create, good) for _ in range(3)]
        until(lambda: redis.llen(QUEUE) == 3, "the three jobs wait in the queue", 10)
        composed.start_worker(0)
        assert [answer.result().status for answer in answers] == [200] * 3
    assert redis.llen(QUEUE) == 0
    redis.close()
    composed.start_worker(1)


def test_an_upgrade_in_the_order_of_the_document_loses_no_request(composed: Composed, good: dict[str, Any]) -> None:
    """A client whose connection breaks goes to the other process, with the same Idempotency-Key."""
    key = composed.client("upgrade").key
    apis = [Api(url, key) for url in composed.urls]
    body = json.dumps({"name": "results", "enabled": True, **good}).encode()
    over = threading.Event()

    def create(first: Api, second: Api) -> Answer:
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        try:
            return first.call("POST", "/destinations", body, headers)
        except OSError:
            return second.call("POST", "/destinations", body, headers)

    def creates(*order: Api) -> list[Answer]:
        answers = []
        while not over.wait(0.1):
            answers.append(create(*order))
        return answers

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(creates, *order) for order in (apis, apis[::-1])]
        try:
            composed.dropoff("migrate")
            for number, process in [*enumerate(composed.workers), *enumerate(composed.apis)]:
                assert process.stop() == 0
                (composed.start_worker if process in composed.workers else composed.start_api)(number)
        finally:
            over.set()
        answers = [answer for each in running for answer in each.result()]
    assert {answer.status for answer in answers} == {200}
    created = {answer.json["destination"]["id"] for answer in answers}
    assert len(answers) == len(created) == apis[0].list().json["total_count"] > 10


DELIVERIES = ("deliveries-1", "deliveries-2")


def test_the_documented_upgrade_replaces_every_process_of_ours() -> None:
    document = (ROOT / "docs/operating.md").read_text()
    (named,) = re.findall(r"for each in ([\w -]+); do docker compose up", document)
    running = [
        name
        for name in SERVICES
        if SERVICES[name].get("command", [""])[:2] in (["dropoff", "worker"], ["dropoff", "api"])
    ]
    assert sorted(named.split()) == sorted(running)
    assert running and named.split()[-2:] == list(APIS)


def test_the_units_are_where_the_steps_put_the_product() -> None:
    (folder,) = re.findall(r"git clone … (\S+) && cd (?:\S+)", (ROOT / "docs/operating.md").read_text())
    for unit in (ROOT / "deploy/systemd").iterdir():
        paths = re.findall(r"[=:-](/[\w/.-]+)", unit.read_text())
        assert paths
        assert all(path.startswith(f"{folder}/") for path in paths), unit


@pytest.mark.parametrize(("unit", "services"), [("api", APIS), ("worker", WORKERS), ("deliveries", DELIVERIES)])
def test_the_units_start_what_compose_starts_with_the_same_secrets_and_time_to_end(
    tmp_path: Path, unit: str, services: tuple[str, ...]
) -> None:
    make_secrets(tmp_path)
    lines = (ROOT / f"deploy/systemd/dropoff-{unit}@.service").read_text().splitlines()
    said = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    (command,) = [value for name, value in said if name == "ExecStart"]
    words, given = command.rpartition("/")[2].split(), SERVICES[services[0]]["command"]
    assert words[:2] == given[:2]
    assert unit == "api" or words == given
    handed_on = {value.split(":")[0] for name, value in said if name == "LoadCredential"}
    assert handed_on == {path.name for path in secrets_of(services[0], tmp_path).iterdir()}
    assert ["TimeoutStopSec", SERVICES[services[0]]["stop_grace_period"].removesuffix("s")] in said


def directives(path: str) -> list[tuple[str, ...]]:
    """The words of each line of a proxy's configuration, without comments, quotes and what ends a line."""
    lines = (line.strip().rstrip(";{").split() for line in (ROOT / path).read_text().splitlines())
    return [tuple(word.strip("'\"") for word in words) for words in lines if words and not words[0].startswith("#")]


@pytest.mark.parametrize(("proxy", "name"), [("nginx.conf", "client_max_body_size"), ("Caddyfile", "max_size")])
def test_a_proxy_lets_through_what_is_taken_and_no_more(proxy: str, name: str) -> None:
    (given,) = [size for first, *rest in directives(f"deploy/{proxy}") if first == name for size in rest]
    # nginx has no other units than binary ones; of Caddy's, KB and MB are decimal.
    units = {"k": 1 << 10, "m": 1 << 20} if proxy == "nginx.conf" else {"KB": 1000, "MiB": 1 << 20}
    number, unit = re.fullmatch(r"(\d+)(\w+)", given).groups()  # type: ignore[union-attr]
    assert int(number) * units[unit] == max(RESULT_SET_LIMIT, BODY_LIMIT)


def test_nginx_says_by_which_scheme_it_was_asked_whatever_the_path() -> None:
    """A location that sets a header of its own has none of those above it."""
    text = (ROOT / "deploy/nginx.conf").read_text()
    headers = [words[1:] for words in directives("deploy/nginx.conf") if words[0] == "proxy_set_header"]
    assert ("X-Forwarded-Proto", "$scheme") in headers
    assert all("proxy_set_header" not in block for block in re.findall(r"location [^{]*{(.*?)}", text, re.DOTALL))
