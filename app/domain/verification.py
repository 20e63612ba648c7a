"""The steps of a verification and the report that accounts for each of them."""

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from app.domain.errors import DropoffError, Fault


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


class VerificationFailed(DropoffError):
    """The test file could not be uploaded and deleted; `details` has the report under `verification`."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message, parameter=report.parameter, verification=report.as_answer())
        self.code = report.code or Fault.INTERNAL_ERROR
