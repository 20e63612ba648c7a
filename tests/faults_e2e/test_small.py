"""The part of the faults that every run of the tests has: who dies, and what Redis loses, while files are written."""

import time
from collections.abc import Iterator

import pytest

from tests.faults_e2e.faults import worker_killed
from tests.faults_e2e.stage import Stage, staged
from tests.faults_e2e.store import At
from tests.stack import until


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("stage"), clients=4, postgres=False, hold=5.0, verify=2.0) as running:
        yield running


def test_whatever_dies_while_files_are_written_what_was_told_is_so_and_no_file_is_forgotten(stage: Stage) -> None:
    """A worker between upload and delete, and Redis with all that it had; when that is over, both workers and both API
    processes at once. Then nothing lies in any bucket any more."""
    began = time.monotonic()
    stage.load.start()
    try:
        with worker_killed(stage, At.AFTER_PUT, drop=False, others="redis"):
            # What Redis has lost is known to the API processes alone, until they have answered what they held.
            back = time.monotonic()
            clients = stage.load.clients
            until(lambda: all(each.calls and each.calls[-1].at > back for each in clients), "all go on")
        with worker_killed(stage, At.BEFORE_DELETE, drop=True, others="all"):
            over = time.monotonic()
            time.sleep(2)
    except BaseException:
        stage.load.stop()
        raise
    outcome = stage.settle("deaths", began, over)
    assert outcome.untrue == []
    assert outcome.unreported == []
    removed = [line for worker in stage.deployment.workers for line in worker.events("test file removed late")]
    assert removed, "a file was left at all"
    assert outcome.empty < 60
    assert outcome.recovery < 15
    assert outcome.statuses.get("200", 0) > 10
