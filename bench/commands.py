"""Which commands of Redis a create takes, by name, and what CPU Redis, the API and the worker have for it.

    python -m bench.commands [--creates 512] [--in-flight 256] [--latency 50]

What Redis counts is counted (INFO commandstats): a script is one command, and each that it calls is one more; what all
processes do beside the creates, as heartbeats, is shared among them.
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import redis

from bench.cpu import WARM_UP, create, spent
from bench.verifications import store
from tests.stack import Deployment


def calls(client: redis.Redis) -> Counter[str]:
    """How often each command was called since Redis started."""
    found = client.info("commandstats").items()
    return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in found})


def measured(creates: int, in_flight: int, latency: float) -> tuple[Counter[str], dict[str, float]]:
    """The calls of `creates` creates, by command, and the CPU of each process, in milliseconds."""
    with (
        store(latency) as endpoint,
        tempfile.TemporaryDirectory() as folder,
        Deployment(
            Path(folder), allow_http="1", egress_allow="127.0.0.0/8", account_verifications="1000",
            destination_limit="1000000",
        ) as running,
        redis.Redis.from_url(running.redis_url) as client,
    ):  # fmt: skip
        key = running.client().key
        asyncio.run(create(running.url, key, endpoint, WARM_UP, in_flight))
        processes = {"api": running.api, "worker": running.worker, "redis": running.redis}
        before, took = calls(client), {name: spent(process) for name, process in processes.items()}
        asyncio.run(create(running.url, key, endpoint, creates, in_flight))
        return calls(client) - before, {name: spent(process) - took[name] for name, process in processes.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--creates", type=int, default=512)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency", type=float, default=50)
    asked = parser.parse_args()
    found, took = measured(asked.creates, asked.in_flight, asked.latency)
    for name, count in found.most_common():
        print(f"{name:20}{count / asked.creates:7.2f}")
    print(f"{'all':20}{found.total() / asked.creates:7.2f}")
    print(", ".join(f"{name} {ms / asked.creates:.2f} ms" for name, ms in took.items()))
