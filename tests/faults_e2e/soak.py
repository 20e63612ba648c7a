"""`make soak`: half an hour of mixed load on two API processes, two workers, Redis and PostgreSQL; nothing may grow."""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.faults_e2e.stage import Stage, staged
from tests.faults_e2e.store import Fails

EVERY_SECONDS = 10.0
# Each part of the whole time that is compared: the second of these, after the warm-up, and the last.
PARTS = 6
# So much more than after the warm-up is flat: a share, and what a few connections or a garbage collection make.
GROWTH, SLACK = 1.1, {"MB": 8.0, "descriptors": 8.0, "threads": 2.0, "keys": 40.0, "connections": 4.0}

Sample = dict[str, float]


def sample(stage: Stage) -> Sample:
    """What every process has now, and Redis and PostgreSQL beside them."""
    found: Sample = {}
    deployment = stage.deployment
    for name, processes in (("api", deployment.apis), ("worker", deployment.workers)):
        for number, process in enumerate(processes):
            assert process.popen
            running = psutil.Process(process.popen.pid)
            with running.oneshot():
                found[f"{name} {number} MB"] = running.memory_info().rss / 1e6
                found[f"{name} {number} descriptors"] = float(running.num_fds())
                found[f"{name} {number} threads"] = float(running.num_threads())
    with stage.administrator() as client:
        found["redis MB"] = float(client.info("memory")["used_memory"]) / 1e6
        found["redis keys"] = float(client.dbsize())
        found["redis connections"] = float(client.info("clients")["connected_clients"])
    if stage.database:
        found["postgres connections"] = float(stage.database.connections())
    return found


@contextmanager
def disturbed(stage: Stage, number: int) -> Iterator[None]:
    """Every sixth look, for the time of one: a store that fails deletes, or one that fails all."""
    if number % 6 == 5:
        stage.store.fails = Fails.ERROR_500_TO_DELETES if number % 12 == 5 else Fails.ERROR_500
    yield
    stage.store.fails = Fails.NOT


def run(stage: Stage, seconds: float) -> list[Sample]:
    samples: list[Sample] = []
    stage.load.start()
    ends = time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            with disturbed(stage, len(samples)):
                time.sleep(EVERY_SECONDS)
            samples.append(sample(stage))
    finally:
        stage.load.stop()
    return samples


def grown(samples: list[Sample]) -> tuple[list[str], list[str]]:
    """A row for each figure, and the names of those that are not flat."""
    part = max(1, len(samples) // PARTS)
    rows, not_flat = [], []
    for name in samples[0]:
        values = [each[name] for each in samples]
        first, last = statistics.median(values[part : 2 * part] or values), statistics.median(values[-part:])
        slack = next(slack for unit, slack in SLACK.items() if name.endswith(unit))
        rows.append(f"| {name} | {values[0]:.0f} | {first:.0f} | {last:.0f} | {max(values):.0f} |")
        if last > first * GROWTH + slack:
            not_flat.append(name)
    return rows, not_flat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    seconds = parser.parse_args().minutes * 60
    with tempfile.TemporaryDirectory() as folder, staged(Path(folder), board_jobs="300") as stage:
        began = time.monotonic()
        samples = run(stage, seconds)
        outcome = stage.settle("soak", began, time.monotonic())
    rows, not_flat = grown(samples)
    print("| | at first | after the warm-up | at the end | at most |\n|---|---|---|---|---|", *rows, sep="\n")
    print(f"{outcome.calls} calls in {seconds / 60:g} min: {outcome.statuses}; slowest {outcome.slowest:.1f} s")
    wrong = [*outcome.untrue, *outcome.unreported, *(f"{name} is not flat" for name in not_flat)]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
