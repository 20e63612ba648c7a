"""CPU that one create costs an API process and a worker, of this checkout and of another, in pairs.

    python -m bench.cpu OTHER [--pairs 3] [--creates 600] [--in-flight 8] [--latency 20]

OTHER is the folder of another checkout, whose dependencies this environment must have. What is compared is the time
that the processes had a core (user and system), so that a busy machine matters less than it does for a rate.
"""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

import aiohttp
import psutil

from bench.verifications import store
from tests.stack import Api, Deployment, Process, s3compatible

WARM_UP = 100
HERE = Path(__file__).resolve().parents[1]


class Checkout(Deployment):
    """The product of another checkout, whose own commands know its database."""

    def migrate(self) -> None:
        self.dropoff("migrate")

    def client(self, account: str = "tester") -> Api:
        return Api(self.url, self.dropoff("keys", "create", account).strip())


def spent(process: Process) -> float:
    """The CPU that a process has had, in milliseconds."""
    assert process.popen
    times = psutil.Process(process.popen.pid).cpu_times()
    return (times.user + times.system) * 1000


async def create(url: str, key: str, endpoint: str, number: int, in_flight: int) -> None:
    """So many creates, so many of them at any moment; each must succeed."""
    left = iter(range(number))
    body = {"name": "n", "enabled": True, **s3compatible(endpoint)}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

        async def one_after_another() -> None:
            for _ in left:
                async with session.post(f"{url}/destinations", json=body) as answer:
                    assert answer.status == 200, await answer.text()

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))


def measured(checkout: Path, creates: int, in_flight: int, latency: float) -> tuple[float, float]:
    """Milliseconds of CPU that a create costs the API process and the worker of `checkout`."""
    with (
        store(latency) as endpoint,
        tempfile.TemporaryDirectory() as folder,
        Checkout(
            Path(folder), allow_http="1", egress_allow="127.0.0.0/8", account_verifications="1000",
            destination_limit="1000000", PYTHONPATH=str(checkout), PYTHONSAFEPATH="1",
        ) as running,
    ):  # fmt: skip
        key = running.client().key
        asyncio.run(create(running.url, key, endpoint, WARM_UP, in_flight))
        before = spent(running.api), spent(running.worker)
        asyncio.run(create(running.url, key, endpoint, creates, in_flight))
        return (spent(running.api) - before[0]) / creates, (spent(running.worker) - before[1]) / creates


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--creates", type=int, default=600)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--latency", type=float, default=20)
    asked = parser.parse_args()
    load = asked.creates, asked.in_flight, asked.latency
    ratios: list[tuple[float, float]] = []
    for number in range(asked.pairs):
        # What runs first changes from pair to pair.
        order = (HERE, asked.other.resolve()) if number % 2 else (asked.other.resolve(), HERE)
        found = {checkout: measured(checkout, *load) for checkout in order}
        this, other = found[HERE], found[asked.other.resolve()]
        ratios.append((this[0] / other[0], this[1] / other[1]))
        print(
            f"api {this[0]:5.2f} ms, other {other[0]:5.2f}; worker {this[1]:5.2f} ms, other {other[1]:5.2f}", flush=True
        )
    for name, each in zip(("api", "worker"), zip(*ratios, strict=True), strict=True):
        print(f"{name}: this / other {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})")
