"""Examples of what is sent and answered, made by what reads it and by what answers it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from aiohttp import web

from app.domain import prefix
from app.domain.destination import Destination, Named, parse_create
from app.domain.errors import DropoffError, InvalidParameters
from app.domain.faults import ADVICE, Fault
from app.domain.types.base import Spec
from app.domain.types.s3 import S3Spec
from app.domain.types.s3compatible import S3CompatibleSpec
from app.domain.verification import Outcome, Report, Step, StepReport, VerificationFailed, advice
from app.web.errors import HTTP_FAULTS, broken, refusal, refused
from app.web.openapi.operations import Schema

_FILE = "dropoff-verify-0a1b2c3d4e5f60718293a4b5c6d7e8f9.txt"
_NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
_WRONG: tuple[Schema, ...] = (
    {"s3_bucket_name": None},
    {"s3_bucket": "my-results"},
    {"s3_bucket_name": "My Results"},
    {"s3_bucket_name": "arn:aws:s3:eu-west-1:123456789012:accesspoint/results"},
    {"s3_access_key_id": "ASIAIOSFODNN7EXAMPLE"},
)
_FAILS_AT = {
    Fault.HOST_NOT_FOUND: Step.RESOLVE,
    Fault.ENDPOINT_NOT_ALLOWED: Step.CONNECT,
    Fault.CONNECTION_REFUSED: Step.CONNECT,
    Fault.CONNECTION_FAILED: Step.CONNECT,
    Fault.TLS_FAILURE: Step.CONNECT,
    Fault.DELETE_DENIED: Step.DELETE,
    Fault.DELETE_BLOCKED_BY_RETENTION: Step.DELETE,
}
_DETAILS: dict[Fault | None, str] = {
    Fault.TLS_FAILURE: "the certificate has expired",
    Fault.INVALID_PARAMETER: "must be a bucket's name",
    Fault.TEMPORARY_CREDENTIALS_UNSUPPORTED: "ASIA…",
}


def body(spec: type[Spec]) -> Schema:
    """The whole body that the examples of the fields of `spec` make."""
    return dict(_body(spec))


@cache
def _body(spec: type[Spec]) -> Schema:
    fields = {**Named.model_json_schema()["properties"], **spec.model_json_schema()["properties"]}
    schemas = ((name, each) for name, field in fields.items() for each in (field, *field.get("anyOf", ())))
    examples = {name: each["examples"][0] for name, each in schemas if "examples" in each}
    return {"type": fields["type"]["const"], **examples}


def destination(spec: type[Spec]) -> Schema:
    """What that body becomes."""
    given = parse_create(body(spec), allow_http=False).spec
    created = Destination(
        id="5C0A3F9B21E7",
        account=1,
        name="results",
        type=given.type,
        enabled=True,
        parameters=given.public(),
        version=1,
        created_at=_NOON,
        updated_at=_NOON,
        verified_at=_NOON,
        verification=report(None).as_answer(),
    )
    return created.as_answer()


def report(fault: Fault | None) -> Report:
    """What a verification reports that ends in `fault`, or well."""
    spec = parse_create(body(S3CompatibleSpec), allow_http=False).spec
    steps = list(Step)
    host, key = "ams3.digitaloceanspaces.com", prefix.key(spec.path_prefix, prefix.sample_values(_NOON), _FILE)
    message = "The test file was uploaded and deleted."
    if fault:
        message = advice(spec, fault, host=host, key=key, seconds=15, detail=_DETAILS.get(fault, ""))
    end = steps.index(_FAILS_AT.get(fault, Step.UPLOAD)) if fault else len(steps)
    taken = steps.index(Step.DELETE)
    return Report(
        ok=fault is None,
        code=fault,
        message=message,
        parameter=spec.parameter(ADVICE[fault].role) if fault else None,
        type=spec.type,
        host=host,
        object=key,
        left_behind=end == taken,
        duration_ms=60,
        job="3f6c1c5e-6f0b-4c39-9a35-6c1b0f9a7d21",
        steps=(
            *(StepReport.passed(step, 15) for step in steps[:end]),
            *(StepReport(step=step, outcome=Outcome.FAILED, ms=15, code=fault) for step in steps[end : end + 1]),
            *(
                StepReport.skipped(step, "nothing was uploaded") if end < taken else StepReport.passed(step, 15)
                for step in steps[end + 1 :]
            ),
        ),
    )


@dataclass(frozen=True)
class Refusal:
    """One way in which a call ends without success: why, and what a client is answered."""

    why: str
    answer: web.Response

    @property
    def content(self) -> Any:
        return json.loads(self.answer.text or "")

    @property
    def code(self) -> str:
        return str(self.content["error"]["code"])

    @property
    def name(self) -> str:
        return f"{self.answer.status}.{self.code}"


def of_http(status: int) -> Refusal:
    """What aiohttp itself refuses with this status."""
    code, message = HTTP_FAULTS[status]
    return Refusal(message, refusal(status, code, message))


def of_failure() -> Refusal:
    """What is answered when the service breaks."""
    return Refusal("This service itself failed.", broken())


def of_kind(kind: type[DropoffError]) -> Iterator[Refusal]:
    """What this kind of error is answered with: one refusal for each code that it has."""
    promise = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
    yield from (Refusal(promise, refused(error)) for error in _raised(kind, promise))


def _raised(kind: type[DropoffError], message: str) -> Iterator[DropoffError]:
    if kind is VerificationFailed:
        yield from (VerificationFailed(report(fault)) for fault in Fault if fault is not Fault.EGRESS_UNAVAILABLE)
    elif kind is InvalidParameters:
        for wrong in _WRONG:
            try:
                parse_create({**body(S3Spec), **wrong}, allow_http=False)
            except InvalidParameters as error:
                yield error
    else:
        yield kind(message)
