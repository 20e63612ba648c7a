"""An hour of jobs as the board would have noted them, so that the views have something to show."""

import random
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from app.domain.faults import ADVICE, Fault
from app.domain.types import parse
from app.domain.verification import Report, Step, StepReport, advice
from app.messages.connections import connect
from app.messages.job import Job
from app.monitor.board import Board
from app.monitor.job import JobState
from app.settings import Settings
from tests.types.every import GOOD, STORAGES

TRAFFIC = {storage.type: storage.traffic for storage in STORAGES.values() if storage.traffic}
REFUSALS = (
    (Fault.SECRET_MISMATCH, "SignatureDoesNotMatch", 403), (Fault.SECRET_MISMATCH, "SignatureDoesNotMatch", 403),
    (Fault.SECRET_MISMATCH, "SignatureDoesNotMatch", 403), (Fault.BUCKET_NOT_FOUND, "NoSuchBucket", 404),
    (Fault.BUCKET_NOT_FOUND, "NoSuchBucket", 404), (Fault.WRITE_DENIED, "AccessDenied", 403),
    (Fault.ACCESS_KEY_UNKNOWN, "InvalidAccessKeyId", 403),
)  # fmt: skip


@dataclass
class Hour:
    """The same jobs each time, the last of which ended a moment ago; `accounts` are names, by number."""

    accounts: Mapping[int, str]
    jobs: int = 1200
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    async def write(self, settings: Settings) -> None:
        """Have the board note it, with its clock set to when each note would have been taken."""
        clock: Any = SimpleNamespace(now=time.time)
        async with connect(settings.redis_url.get_secret_value()) as redis:
            front = Board(redis, clock, jobs=settings.board_jobs)
            worker = Board(redis, clock, jobs=settings.board_jobs, worker="dropoff-1@worker-a")
            for submitted in self._times(time.time()):
                self._carry_out(front, worker, clock, submitted)
            clock.now = time.time
            async with front.writing(), worker.writing():
                pass

    def _times(self, now: float) -> Iterator[float]:
        """When jobs were submitted: there are ever more of them."""
        return iter(sorted(now - 4 - 3500 * self.chance.betavariate(1, 1.5) for _ in range(self.jobs)))

    def _carry_out(self, front: Board, worker: Board, clock: SimpleNamespace, submitted: float) -> None:
        kind = self.chance.choices([*TRAFFIC], [each.weight for each in TRAFFIC.values()])[0]
        account = self.chance.choices([*self.accounts], range(1, len(self.accounts) + 1))[0]
        job = Job(
            id=str(uuid.UUID(int=self.chance.getrandbits(128), version=4)), account=account,
            account_name=self.accounts[account], destination=f"{self.chance.getrandbits(48):012X}", submitted=submitted,
            start_by=submitted + 14, deadline=submitted + 29, spec={"type": kind, **GOOD[kind]}, key="key",
            reply_to="nobody",
        )  # fmt: skip
        took = TRAFFIC[kind].usual_ms * self.chance.lognormvariate(0, 0.45)
        report = self._report(job, kind, took)
        end = JobState.SUCCEEDED if report.ok else JobState.FAILED
        for state, part in ((JobState.QUEUED, 0), (JobState.RUNNING, 0.05), (JobState.UPLOADING, 0.3), (end, 1)):
            clock.now = lambda at=submitted + part * took / 1000: at
            board = front if state is JobState.QUEUED else worker
            board.note(job, state, report=report if state is end else None)

    def _report(self, job: Job, kind: str, took: float) -> Report:
        code, provider_code, status = (
            self.chance.choice(REFUSALS) if self.chance.random() < 0.08 else (None, None, None)
        )
        host = self.chance.choice(TRAFFIC[kind].hosts)
        spec, key = parse({"type": kind, **GOOD[kind]}, allow_http=False), f"results/dropoff-verify-{job.id}.txt"
        told = advice(spec, code, host=host, key=key, seconds=1, detail="") if code else "The destination works."
        parts = [round(took * part) for part in (0.05, 0.2, 0.45, 0.2)]
        before = (
            StepReport.skipped(Step.LOCATE, "the place is known without asking"),
            StepReport.passed(Step.RESOLVE, parts[0]),
            StepReport.passed(Step.CONNECT, parts[1]),
        )
        failed = StepReport(
            step=Step.UPLOAD, outcome="failed", ms=parts[2], code=code, provider_code=provider_code, status=status,
            request_id=f"{self.chance.getrandbits(64):016X}",
        )  # fmt: skip
        after = (
            (failed, StepReport.skipped(Step.DELETE, "nothing was uploaded"))
            if code
            else (StepReport.passed(Step.UPLOAD, parts[2]), StepReport.passed(Step.DELETE, parts[3]))
        )
        return Report(
            ok=code is None, code=code, message=told, parameter=spec.parameter(ADVICE[code].role) if code else None,
            type=kind, host=host, object=key,
            duration_ms=round(took), job=job.id, steps=(*before, *after),
        )  # fmt: skip
