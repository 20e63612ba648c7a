"""The steps of a verification and the report that accounts for each of them."""

import contextlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain.errors import DropoffError
from app.domain.faults import ADVICE, STAYING, Fault
from app.domain.types.base import Spec


class Step(StrEnum):
    """The steps of a verification, in their order; the last is taken beside the upload and the delete."""

    LOCATE = "locate"
    RESOLVE = "resolve"
    CONNECT = "connect"
    UPLOAD = "upload"
    DELETE = "delete"
    MULTIPART = "multipart"


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class StepReport(BaseModel):
    """One step of a verification.

    `ms` is its duration in milliseconds, None if it was skipped. A failed step has a `code`, and the provider's own
    code, HTTP status and request id as far as the provider gave them. A skipped step has a `reason`.
    """

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
        """A step that succeeded; `note` says how, where that is worth knowing."""
        return cls(step=step, outcome=Outcome.PASSED, ms=ms, reason=note)

    @classmethod
    def skipped(cls, step: Step, reason: str) -> Self:
        return cls(step=step, outcome=Outcome.SKIPPED, reason=reason)

    def as_text(self) -> str:
        """One line for a person."""
        said = provider_words(self.provider_code, self.status, self.request_id)
        details = [detail for detail in (self.reason, self.code, *said) if detail]
        duration = "" if self.ms is None else f"{self.ms} ms"
        return f"{self.step:10}{self.outcome:8}{duration:>9}  {', '.join(details)}".rstrip()


def provider_words(code: str | None, status: int | None, request_id: str | None) -> list[str]:
    """What a provider has given of these, for a person."""
    labelled = {"": code, "HTTP ": status, "request id ": request_id}
    return [f"{label}{value}" for label, value in labelled.items() if value is not None]


def advice(spec: Spec, fault: Fault, *, host: str, key: str, seconds: float, detail: str) -> str:
    """What the customer is told when `fault` prevented the upload of `key` to `host` or its delete, after `seconds`.

    `detail` fills {detail} of the text.
    """
    parameter = spec.parameter(ADVICE[fault].role)
    return _filled(
        spec, spec.advice_text(fault), parameter=parameter, host=host, key=key, seconds=seconds, detail=detail
    )


def _filled(spec: Spec, text: str, *, host: str, key: str, seconds: float = 0, **others: object) -> str:
    return text.format(
        provider=spec.display_name,
        host=host,
        bucket=spec.bucket,
        noun=spec.noun,
        prefix=spec.path_prefix or f"the {spec.noun}'s root",
        object=key,
        seconds=max(1, round(seconds)),
        **others,
    )


def may_remain(key: str) -> str:
    """The sentence that names a test file which may be in the bucket."""
    return f" The test file {key} may have been left behind: remove it if it is there."


class Location(BaseModel):
    """What a verification found out about where a bucket is, beyond its parameters; None where it did not have to.

    The next verification of the same bucket starts from it, and replaces what is no longer true.
    """

    model_config = ConfigDict(frozen=True)

    region: str | None = None
    addressing: str | None = None

    @classmethod
    def told_by(cls, report: Mapping[str, Any]) -> Self:
        """What a report says, as it is answered and stored; one of another release may say it in another way."""
        with contextlib.suppress(ValidationError):
            return cls(region=report.get("region"), addressing=report.get("addressing"))
        return cls()


UNKNOWN_LOCATION = Location()


class Report(BaseModel):
    """The verdict of one verification, as it is answered, stored and sent.

    `object` is the test file's key, so that it can be found and removed; `left_behind` says that it may still be in the
    bucket. `attempts` says how often the upload was tried, where that was more than once. `region` and `addressing` are
    the `location`. The wire name of `type` is `provider`.
    """

    model_config = ConfigDict(frozen=True, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    ok: bool
    code: Fault | None = None
    message: str
    parameter: str | None = None
    type: str = Field(alias="provider")
    host: str
    object: str
    left_behind: bool = False
    attempts: int | None = None
    region: str | None = None
    addressing: str | None = None
    warnings: tuple[str, ...] = ()
    duration_ms: int
    job: str
    steps: tuple[StepReport, ...]

    @property
    def location(self) -> Location:
        return Location(region=self.region, addressing=self.addressing)

    def staying(self, spec: Spec, count: int) -> Self:
        """This report on `spec`, which says that the last `count` verifications failed as this one did."""
        text = _filled(spec, STAYING, host=self.host, key=self.object, count=count)
        return self.model_copy(update={"message": text + (may_remain(self.object) if self.left_behind else "")})

    def as_answer(self) -> dict[str, Any]:
        """The report as a client sees it: a field that does not apply is absent, and not null."""
        return self.model_dump(mode="json", exclude_none=True)

    def as_text(self) -> str:
        """The report as a person reads it: the verdict, what to do, and each step on a line of its own."""
        hint = f"  (look at {self.parameter})" if self.parameter else ""
        lines = ["Passed" if self.ok else f"Refused: {self.code}{hint}", self.message, *self.warnings]
        region = f", region {self.region}" if self.region else ""
        lines.append(f"Test file {self.object} at {self.host or self.type}{region}, {self.duration_ms} ms in all:")
        lines += [f"  {step.as_text()}" for step in self.steps]
        if self.left_behind:
            lines.append(f"Left behind: {self.object} may still be there; remove it.")
        return "\n".join(lines)


class VerificationFailed(DropoffError):
    """The test file could not be uploaded and deleted; the report is under `verification`."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message, parameter=report.parameter, verification=report.as_answer())
        self.code = report.code or Fault.INTERNAL_ERROR
