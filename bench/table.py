"""The speed of the product as a table, always as a ratio to what ran beside it, in about ten minutes.

    python -m bench.table [--only NAME ...] [--rounds 3] [--creates 300]

NAME is `create` (the hold, the rate, the cost, and the plots) or one of bench/rows.py, each of which is measured once.
Prints the table and writes it to bench/results/ as JSON, which keeps the rows that are not measured now, with two
plots: creates a second against how many are in flight, and how long they are held against how many come. The peers are
in bench/peers.py, bench/plain.py and bench/handler.py. CPU is what processes had of a core, so that a busy machine
matters less to it than to a rate.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from bench.cpu import spent
from bench.load import Load
from bench.plot import lines
from bench.rows import IN_FLIGHT, ROWS, SLOW
from bench.verifications import store
from tests.stack import Deployment

RESULTS = Path(__file__).parent / "results"
CREATE = "create"
CHILD = (sys.executable, "-m", "bench.peers")


def peer(kind: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run((*CHILD, kind, *map(str, arguments)), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def hold(load: Load, slow: str, fast: str) -> dict[str, float]:
    """How long one is held, over what the storage takes, and over an SDK's own call."""

    def held(endpoint: str, count: int) -> float:
        return statistics.median(ms for _, ms in asyncio.run(load.closed(endpoint, count, 1)))

    return {
        "hold over bare storage, 50 ms a call": held(slow, 15) / peer("bare", slow, 15)["ms"],
        "hold over one boto3 PUT and DELETE, 0 ms": held(fast, 40) / peer("sdk", fast, 20)["ms"],
    }


def rate(load: Load, running: Deployment, slow: str, creates: int) -> dict[str, float]:
    """What many at once cost, over the bare script."""
    with redis.Redis.from_url(running.redis_url) as client:
        client.config_resetstat()
        before, began = (spent(running.api), spent(running.worker)), time.perf_counter()
        found = asyncio.run(load.closed(slow, creates, IN_FLIGHT))
        seconds = time.perf_counter() - began
        api, worker = spent(running.api) - before[0], spent(running.worker) - before[1]
        commands = sum(each["calls"] for each in client.info("commandstats").values())
    assert all(status == 200 for status, _ in found), {status for status, _ in found}
    script = peer("script", slow, creates, IN_FLIGHT)
    return {
        "creates a second": creates / seconds,
        "creates a second over the script's": creates / seconds / script["rate"],
        "CPU of the API for a create, ms": api / creates,
        "CPU of the API over the script's": api / creates / script["cpu_ms"],
        "CPU of the worker for a create, ms": worker / creates,
        "CPU of the worker over the script's": worker / creates / script["cpu_ms"],
        "Redis commands a create": commands / creates,
    }


def curves(load: Load, slow: str, best: float) -> dict[str, list[tuple[float, float]]]:
    """The points of both plots."""
    against_flight = []
    for in_flight in (1, 4, 16, 64, 256):
        count = min(256, max(12, in_flight * 3))
        began = time.perf_counter()
        asyncio.run(load.closed(slow, count, in_flight))
        against_flight.append((float(in_flight), count / (time.perf_counter() - began)))
    against_rate = []
    for share in (0.1, 0.25, 0.5, 0.75):
        found = asyncio.run(load.open(slow, best * share, 5))
        against_rate.append((best * share, statistics.median(each.ms for each in found)))
    return {"creates a second": against_flight, "held, ms": against_rate}


def said(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def measure(rounds: int, creates: int) -> tuple[dict[str, list[float]], dict[str, list[tuple[float, float]]]]:
    with (
        store(0) as fast, store(SLOW) as slow, tempfile.TemporaryDirectory() as folder,
        Deployment(
            Path(folder), allow_http="1", egress_allow="127.0.0.0/8", account_verifications="100000",
            destination_limit="1000000", hold_seconds="30", verify_seconds="10",
        ) as running,
    ):  # fmt: skip
        load = Load(running.url, running.client().key)
        asyncio.run(load.closed(fast, 100, 16))
        rows: dict[str, list[float]] = {}
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            found = {**hold(load, slow, fast), **rate(load, running, slow, creates)}
            for name, value in found.items():
                rows.setdefault(name, []).append(value)
        return rows, curves(load, slow, statistics.median(rows["creates a second"]))


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {platform.system()}"


def kept() -> dict[str, Any]:
    """What was measured last."""
    file = RESULTS / "table.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": {}, "points": {}}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(CREATE, *ROWS), default=(CREATE, *ROWS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--creates", type=int, default=300)
    asked = parser.parse_args()
    content, rows = kept(), dict[str, list[float]]()
    if CREATE in asked.only:
        rows, content["points"] = measure(asked.rounds, asked.creates)
    for name in ROWS:
        if name in asked.only:
            print(name, file=sys.stderr, flush=True)
            rows |= {row: [value] for row, value in ROWS[name]().items()}
    print(f"| {machine()} | median (lowest to highest) of {asked.rounds}, or one |\n|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {said(values) if len(values) > 1 else f'{values[0]:.2f}'} |")
    content |= {"machine": machine(), "load": os.getloadavg(), "rows": {**content["rows"], **rows}}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "table.json").write_text(json.dumps(content, indent=1) + "\n")
    for name, x, file in (("creates a second", "in flight", "rate"), ("held, ms", "creates a second", "held")):
        if content["points"]:
            (RESULTS / f"{file}.svg").write_text(lines(content["points"][name], x, name))
