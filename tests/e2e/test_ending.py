"""A worker ends when it is told to, with exit code 0; by itself it does not, or with 1."""

import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.messages.broker import envelope
from app.messages.keys import QUEUE
from tests.stack import Process, clean_environment, redis_server, until
from workers.consumer import RESTARTS


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as url:
        yield url


@pytest.fixture
def worker(tmp_path: Path, redis_url: str) -> Iterator[Process]:
    command = (sys.executable, "-m", "tests.e2e.ending", redis_url)
    process = Process(command, tmp_path / "worker.log", clean_environment())
    process.start()
    try:
        until(lambda: "IT READS" in process.log, "the worker is ready")
        yield process
    finally:
        process.stop()


def put(redis_url: str, sealed: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.lpush(QUEUE, envelope(str(uuid.uuid4()), sealed, time.time()))


def test_celery_is_started_again_in_the_same_process_and_given_up_with_1(redis_url: str, worker: Process) -> None:
    put(redis_url, "end")
    put(redis_url, "the next job")
    until(lambda: "the next job" in worker.log, "the next job is done")
    assert worker.popen
    assert worker.popen.poll() is None
    for times in range(2, RESTARTS + 1):
        until(lambda times=times: worker.log.count("IT READS") == times, "it reads again")
        put(redis_url, "end")
    assert worker.popen.wait(60) == 1
    assert worker.log.count("IT READS") == RESTARTS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_that_is_told_to_end_says_0(worker: Process, number: signal.Signals) -> None:
    worker.signal(number)
    assert worker.popen
    assert worker.popen.wait(60) == 0


def test_a_worker_is_ended_while_redis_is_away_too(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.e2e.ending", "redis://127.0.0.1:1/0")
    process = Process(command, tmp_path / "worker.log", clean_environment())
    process.start()
    try:
        until(lambda: "Cannot connect" in process.log, "it has tried to connect")
    finally:
        status = process.stop()
    assert status == 0
