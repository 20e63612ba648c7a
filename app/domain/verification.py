"""The steps of a verification and the report that accounts for each of them."""

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from app.domain.errors import ADVICE, DropoffError, Fault
from app.domain.specs.base import Spec


class Step(StrEnum):
    """What a verification does, in this order."""

    LOCATE = "locate"
    RESOLVE = "resolve"
    CONNECT = "connect"
    UPLOAD = "upload"
    DELETE = "delete"


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class StepReport(BaseModel):
    """One step: `ms` is its duration; a failed one has a code, a skipped one a reason."""

    model_config = ConfigDict(frozen=True)

    step: Step
    outcome: Outcome
    ms: int | None = None
    code: Fault | None = None
    provider_code: str | None = None
    status: int | None = None
    request_id: str | None = None
    reason: str | None = None

    @classmethod
    def passed(cls, step: Step, ms: int, note: str | None = None) -> Self:
        """A step that did what it should; `note` says how, where that is worth knowing."""
        return cls(step=step, outcome=Outcome.PASSED, ms=ms, reason=note)

    @classmethod
    def skipped(cls, step: Step, reason: str) -> Self:
        return cls(step=step, outcome=Outcome.SKIPPED, reason=reason)

    def as_text(self) -> str:
        """One line for a person."""
        told = {"HTTP": self.status, "request id": self.request_id}
        details = [self.reason, self.code, self.provider_code, *(f"{n} {v}" for n, v in told.items() if v is not None)]
        took = "" if self.ms is None else f"{self.ms} ms"
        return f"{self.step:8}{self.outcome:8}{took:>9}  {', '.join(d for d in details if d)}".rstrip()


def advice(spec: Spec, fault: Fault, *, host: str, key: str, seconds: float, detail: str) -> str:
    """What the customer is told where `fault` kept `key` from being uploaded to `host` and deleted again."""
    told = ADVICE[fault]
    return told.of(spec.type).format(
        parameter=spec.parameter(told.role),
        provider=spec.provider,
        host=host,
        bucket=spec.bucket,
        noun=spec.noun,
        prefix=spec.path_prefix or f"the {spec.noun}'s root",
        object=key,
        seconds=max(1, round(seconds)),
        detail=detail,
    )


class Found(BaseModel):
    """What had to be found out to reach a bucket, since its parameters do not say it; None where nothing had to.

    A later verification of the same bucket begins with it, and finds out again what is no longer true.
    """

    model_config = ConfigDict(frozen=True)

    region: str | None = None
    addressing: str | None = None


NOTHING_FOUND = Found()


class Report(BaseModel):
    """The verdict of one verification. `object` is the test file's key, so that it can be found and removed;
    `left_behind` says that it may still be there; `region` and `addressing` are what was found."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    code: Fault | None = None
    message: str
    parameter: str | None = None
    provider: str
    host: str
    object: str
    left_behind: bool = False
    region: str | None = None
    addressing: str | None = None
    warnings: tuple[str, ...] = ()
    duration_ms: int
    job: str
    steps: tuple[StepReport, ...]

    @property
    def found(self) -> Found:
        return Found(region=self.region, addressing=self.addressing)

    def as_answer(self) -> dict[str, Any]:
        """The report as a client sees it: absent rather than null where a field does not apply."""
        return self.model_dump(mode="json", exclude_none=True)

    def as_text(self) -> str:
        """The report as a person reads it: the verdict, what to do, and each step on a line of its own."""
        where = f"  (look at {self.parameter})" if self.parameter else ""
        lines = ["Passed" if self.ok else f"Refused: {self.code}{where}", self.message, *self.warnings]
        region = f", region {self.region}" if self.region else ""
        lines.append(f"Test file {self.object} at {self.host or self.provider}{region}, {self.duration_ms} ms in all:")
        lines += [f"  {step.as_text()}" for step in self.steps]
        if self.left_behind:
            lines.append(f"Left behind: {self.object} may still be there; remove it.")
        return "\n".join(lines)


class VerificationFailed(DropoffError):
    """The test file could not be uploaded and deleted; the report is under `verification`."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message, parameter=report.parameter, verification=report.as_answer())
        self.code = report.code or Fault.INTERNAL_ERROR
