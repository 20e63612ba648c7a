"""An hour of jobs as the board would have noted them, so that the views have something to show."""

import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest.mock import patch

from pydantic import SecretStr

from app.domain.errors import ADVICE, Fault
from app.domain.job import State
from app.domain.specs import parse
from app.domain.verification import Report, Step, StepReport, advice
from app.jobs import board
from app.jobs.board import Board
from app.jobs.queue import Job, connect
from app.settings import Settings
from tests.unit.test_specs import GOOD

HOSTS = {
    "s3": ("invoices-prod.s3.eu-west-1.amazonaws.com", "acme-results.s3.us-east-2.amazonaws.com"),
    "s3compatible": ("s3.eu-central-2.wasabisys.com", "minio.northwind.example"),
    "gcs": ("storage.googleapis.com",),
    "azure": ("contosodata.blob.core.windows.net",),
    "oss": ("exports.oss-cn-hangzhou.aliyuncs.com",),
}
WEIGHTS = {"s3": 10, "s3compatible": 5, "gcs": 4, "azure": 3, "oss": 1}
USUAL_MS = {"s3": 160, "s3compatible": 90, "gcs": 210, "azure": 130, "oss": 420}
REFUSALS = (
    (Fault.SECRET_MISMATCH, "SignatureDoesNotMatch", 403), (Fault.SECRET_MISMATCH, "SignatureDoesNotMatch", 403),
    (Fault.SECRET_MISMATCH, "SignatureDoesNotMatch", 403), (Fault.BUCKET_NOT_FOUND, "NoSuchBucket", 404),
    (Fault.BUCKET_NOT_FOUND, "NoSuchBucket", 404), (Fault.WRITE_DENIED, "AccessDenied", 403),
    (Fault.ACCESS_KEY_UNKNOWN, "InvalidAccessKeyId", 403),
)  # fmt: skip


@dataclass
class Hour:
    """The same jobs each time, the last of which ended a moment ago."""

    accounts: tuple[int, ...]
    jobs: int = 1200
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    async def write(self, settings: Settings) -> None:
        """Have the board note it, with its clock set to when each note would have been taken."""
        clock = SimpleNamespace(time=time.time)
        async with connect(settings) as redis:
            taker = Board(redis, settings, worker="dropoff-1@worker-a")
            with patch.object(board, "time", clock):
                for submitted in self._times(time.time()):
                    self._carry_out(taker, clock, submitted)
                clock.time = time.time
                async with taker.writing():
                    pass

    def _times(self, now: float) -> Iterator[float]:
        """When jobs were submitted: there are ever more of them."""
        return iter(sorted(now - 4 - 3500 * self.chance.betavariate(1, 1.5) for _ in range(self.jobs)))

    def _carry_out(self, taker: Board, clock: SimpleNamespace, submitted: float) -> None:
        kind = self.chance.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        job = Job(
            id=str(uuid.UUID(int=self.chance.getrandbits(128), version=4)), account=self.chance.choice(self.accounts),
            destination=f"{self.chance.getrandbits(48):012X}", submitted=submitted, start_by=submitted + 14,
            spec={"type": SecretStr(kind)}, key="key", reply_to="nobody",
        )  # fmt: skip
        took = USUAL_MS[kind] * self.chance.lognormvariate(0, 0.45)
        report = self._report(job, kind, took)
        end = State.SUCCEEDED if report.ok else State.FAILED
        for state, part in ((State.QUEUED, 0), (State.RUNNING, 0.05), (State.UPLOADING, 0.3), (end, 1)):
            clock.time = lambda at=submitted + part * took / 1000: at
            under_way = state is not State.QUEUED
            taker.note(job, state, attempt=int(under_way), report=report if state is end else None)

    def _report(self, job: Job, kind: str, took: float) -> Report:
        code, provider_code, status = (
            self.chance.choice(REFUSALS) if self.chance.random() < 0.08 else (None, None, None)
        )
        host = self.chance.choice(HOSTS[kind])
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
            provider=kind, host=host, object=key,
            duration_ms=round(took), job=job.id, steps=(*before, *after),
        )  # fmt: skip
