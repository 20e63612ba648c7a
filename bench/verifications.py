"""Verifications a second of the whole product: one API process, workers, Redis and a store, each a process of its own.

    python -m bench.verifications [--seconds 10] [--in-flight 64] [--workers 1] [--latency 20]

A closed loop: so many requests are held at any moment. `POST /destinations/verify` is called, which stores nothing, so
that the disk is not what is measured.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from tests.stack import DROPOFF, Deployment, Process, accepts, clean_environment, free_port, until

WARM_UP_SECONDS = 2.0


@dataclass(frozen=True)
class Load:
    """How much is asked for: `latency` is the store's for each call, in milliseconds."""

    seconds: float = 10
    in_flight: int = 64
    workers: int = 1
    latency: float = 20


@dataclass(frozen=True)
class Figures:
    """What was measured: verifications a second, and how long one was held, in milliseconds."""

    rate: float
    median: float
    p95: float

    def __str__(self) -> str:
        return f"{self.rate:7.1f} a second, held {self.median:6.1f} ms (median), {self.p95:6.1f} ms (p95)"


@contextlib.contextmanager
def child(port: int, *command: str, **variables: str) -> Iterator[Process]:
    """A program in a process of its own, which takes connections at `port` if that is not 0; ended with those that it
    has started."""
    with tempfile.TemporaryDirectory() as folder:
        process = Process((sys.executable, "-m", *command), Path(folder) / "log", clean_environment(**variables))
        process.start()
        try:
            if port:
                until(lambda: accepts(port, process), f"{command[0]} accepts connections")
            yield process
        finally:
            assert process.popen
            for each in (*psutil.Process(process.popen.pid).children(recursive=True), process.popen):
                each.kill()
            process.popen.wait()


@contextlib.contextmanager
def store(latency: float, hosts: int = 1) -> Iterator[str]:
    """A store in a process of its own; its address, the first of so many."""
    port = free_port()
    with child(port, "bench.store", str(port), str(latency), str(hosts)):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def deployment(load: Load, dropoff: tuple[str, ...]) -> Iterator[Deployment]:
    """The product, its processes run by the command `dropoff`, with limits that are in nobody's way."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Deployment(
            Path(folder), workers=load.workers, allow_http="1", egress_allow="127.0.0.0/8",
            account_verifications="100000", hold_seconds="60", verify_seconds="30", dropoff=dropoff,
        ) as running,
    ):  # fmt: skip
        yield running


async def measured(url: str, key: str, endpoint: str, load: Load) -> Figures:
    """What one API process does under `load`; the first seconds do not count."""
    body = {
        "name": "n", "enabled": True, "type": "s3compatible", "s3_endpoint": endpoint, "s3_bucket_name": "results",
        "s3_access_key_id": "key", "s3_secret_access_key": "secret",
    }  # fmt: skip
    held: list[float] = []
    began = time.monotonic() + WARM_UP_SECONDS
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"}, connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def ask() -> None:
            while (asked := time.monotonic()) < began + load.seconds:
                async with session.post(f"{url}/destinations/verify", json=body) as answer:
                    assert answer.status == 200 and (await answer.json())["verification"]["ok"], await answer.text()
                if began < (now := time.monotonic()) <= began + load.seconds:
                    held.append((now - asked) * 1000)

        await asyncio.gather(*(ask() for _ in range(load.in_flight)))
    quantiles = statistics.quantiles(held, n=20)
    return Figures(len(held) / load.seconds, quantiles[9], quantiles[18])


def run(load: Load, dropoff: tuple[str, ...] = DROPOFF) -> Figures:
    """Start everything, measure, end everything."""
    with store(load.latency) as endpoint, deployment(load, dropoff) as running:
        return asyncio.run(measured(running.url, running.client().key, endpoint, load))


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=Load.seconds)
    parser.add_argument("--in-flight", type=int, default=Load.in_flight)
    parser.add_argument("--workers", type=int, default=Load.workers)
    parser.add_argument("--latency", type=float, default=Load.latency)
    return parser


if __name__ == "__main__":
    print(run(Load(**vars(arguments(__doc__).parse_args()))))
