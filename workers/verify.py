"""Upload a small file, delete it, report on every step; knows no provider and no queue."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import structlog

from app.domain.errors import ADVICE, Fault
from app.domain.specs.base import Spec
from app.domain.verification import NOTHING_FOUND, Found, Outcome, Report, Step, StepReport, advice
from workers.egress import Wire, watched
from workers.late import LateDeletes
from workers.providers.base import Bucket, Provider, Refused, Uploaded

log = structlog.get_logger()

# The share of the whole bound that is kept for the delete, however long the upload takes.
DELETE_SHARE = 0.25

BODY = (
    b"This file was written by Dropoff to prove that it can write here, and is deleted at once.\n"
    b"If you can read it, the delete failed; it may be removed safely.\n"
)


@dataclass
class _Run:
    """One verification as it goes: what has happened so far, from which the report is made."""

    spec: Spec
    key: str
    host: str
    job: str
    found: Found
    began: float = field(default_factory=time.monotonic)
    steps: list[StepReport] = field(default_factory=list)
    refused: Refused | None = None
    left_behind: bool = False
    warnings: list[str] = field(default_factory=list)

    def fail(self, step: Step, refused: Refused, since: float) -> None:
        """Note that `step` failed; the first failure is the verdict."""
        secrets = self.spec.secrets().values()
        self.steps.append(
            StepReport(
                step=step,
                outcome=Outcome.FAILED,
                ms=_ms(since),
                code=refused.fault,
                # A host may answer with the credentials that it was sent.
                provider_code=None if refused.provider_code in secrets else refused.provider_code,
                status=refused.status,
                request_id=None if refused.request_id in secrets else refused.request_id,
            )
        )
        self.refused = self.refused or refused

    def skip(self, steps: Iterable[Step], reason: str) -> None:
        self.steps += [StepReport.skipped(step, reason) for step in steps]


def _nobody(_: Step) -> None:
    """For who does not want to know."""


async def verify(
    provider: Provider,
    spec: Spec,
    key: str,
    *,
    within: float,
    job: str,
    found: Found = NOTHING_FOUND,
    begins: Callable[[Step], None] = _nobody,
    late: LateDeletes | None = None,
) -> Report:
    """Prove that `spec` takes a file and lets it be deleted, in at most `within` seconds. `found` is what an earlier
    verification of the same place found out; `begins` is told of the upload and of the delete when they begin.

    Never raises for anything that storage does: a refusal is a report that is not ok. A delete that may still succeed
    is left to `late`, and the report does not wait for it.
    """
    run = _Run(spec=spec, key=key, host=provider.host(spec), job=job, found=found)
    ends = run.began + within
    bucket = await _locate(run, provider, ends - within * DELETE_SHARE)
    if bucket is None:
        run.skip((Step.RESOLVE, Step.CONNECT, Step.UPLOAD, Step.DELETE), "the bucket was not located")
        return _report(run)
    begins(Step.UPLOAD)
    uploaded = await _upload(run, bucket, ends - within * DELETE_SHARE)
    # A provider that asks elsewhere for a token first has named that host until it had one, and a bucket may have
    # been found in another place than where it was looked for.
    run.host = bucket.host
    if uploaded:
        begins(Step.DELETE)
        await _delete(run, bucket, uploaded, ends, late)
    return _report(run)


async def _locate(run: _Run, provider: Provider, ends: float) -> Bucket | None:
    since = time.monotonic()
    asked = provider.needs_locating(run.spec, run.found)
    try:
        async with asyncio.timeout(ends - time.monotonic()):
            bucket = await provider.open(run.spec, run.found)
    except (Refused, TimeoutError) as error:
        run.fail(Step.LOCATE, _refusal(error), since)
        return None
    if asked:
        run.steps.append(StepReport.passed(Step.LOCATE, _ms(since)))
    else:
        run.skip((Step.LOCATE,), "the place is known without asking")
    return bucket


async def _upload(run: _Run, bucket: Bucket, ends: float) -> Uploaded | None:
    """The uploaded object; where the outcome is not known, one that may be there and must be deleted."""
    since = time.monotonic()
    with watched() as wire:
        try:
            async with asyncio.timeout(ends - since):
                uploaded = await bucket.upload(run.key, BODY)
        except (Refused, TimeoutError) as error:
            refused = _refusal(error)
        else:
            # Only what worked is worth keeping.
            run.found = bucket.found
            _connected(run, wire)
            run.steps.append(StepReport.passed(Step.UPLOAD, _ms(since + wire.seconds)))
            return uploaded
    if not wire.connected:
        _not_connected(run, wire, refused, since)
        return None
    _connected(run, wire)
    run.fail(Step.UPLOAD, refused, since + wire.seconds)
    if refused.unknown_outcome:
        return Uploaded(run.key, etag="")
    run.skip((Step.DELETE,), "nothing was uploaded")
    return None


async def _delete(run: _Run, bucket: Bucket, uploaded: Uploaded, ends: float, late: LateDeletes | None) -> None:
    since = time.monotonic()
    try:
        async with asyncio.timeout(max(0.1, ends - since)):
            await _remove(run, bucket, uploaded)
    except (Refused, TimeoutError) as error:
        refused = _refusal(error)
        if refused.absent or (not uploaded.etag and refused.fault is Fault.BUCKET_NOT_FOUND):
            run.steps.append(StepReport.passed(Step.DELETE, _ms(since), "there was nothing to delete"))
            return
        run.left_behind = True
        run.fail(Step.DELETE, refused, since)
        if late and ADVICE[refused.fault].retryable:
            remove = partial(_remove, run, bucket, uploaded)
            late.owe(run.job, remove, type=run.spec.type, host=run.host, object=run.key)
    else:
        run.steps.append(StepReport.passed(Step.DELETE, _ms(since)))


async def _remove(run: _Run, bucket: Bucket, uploaded: Uploaded) -> None:
    """Delete the very version that was written; a key that may not delete versions hides it with a marker instead."""
    try:
        await bucket.delete(uploaded)
    except Refused as refused:
        if not uploaded.version or refused.fault is not Fault.DELETE_DENIED:
            raise
        try:
            await bucket.delete(Uploaded(uploaded.key, uploaded.etag))
        except Refused as again:
            # Azure has deleted the blob by then, and only its version was refused.
            if not again.absent:
                raise
        run.warnings.append(
            f"The bucket keeps versions and the key may not delete one: {uploaded.key} is deleted, but a version "
            "of it remains."
        )


def _refusal(error: Refused | TimeoutError) -> Refused:
    return error if isinstance(error, Refused) else Refused(Fault.TIMEOUT, unknown_outcome=True)


def _connected(run: _Run, wire: Wire) -> None:
    if wire.reused:
        run.skip((Step.RESOLVE, Step.CONNECT), "an open connection was used again")
        return
    run.steps.append(StepReport.passed(Step.RESOLVE, wire.resolve_ms or 0))
    run.steps.append(StepReport.passed(Step.CONNECT, wire.connect_ms or 0))


def _not_connected(run: _Run, wire: Wire, refused: Refused, since: float) -> None:
    """The connection was not made: by the name if that did not resolve, else by the connection itself."""
    if refused.fault is Fault.HOST_NOT_FOUND or (wire.resolving and refused.fault is Fault.TIMEOUT):
        run.fail(Step.RESOLVE, refused, since)
        run.skip((Step.CONNECT,), "the host was not found")
    else:
        run.steps.append(StepReport.passed(Step.RESOLVE, wire.resolve_ms or 0))
        run.fail(Step.CONNECT, refused, since + wire.seconds)
    run.skip((Step.UPLOAD,), "there was no connection")
    run.skip((Step.DELETE,), "nothing was uploaded")


def _report(run: _Run) -> Report:
    spec, fault = run.spec, run.refused.fault if run.refused else None
    parameter = spec.parameter(ADVICE[fault].role) if fault else None
    message = "The test file was uploaded and deleted."
    if fault and run.refused:
        seconds, detail = time.monotonic() - run.began, run.refused.detail
        message = advice(spec, fault, host=run.host, key=run.key, seconds=seconds, detail=detail)
        if run.left_behind and run.key not in message:
            message += f" The test file {run.key} may have been left behind: remove it if it is there."
    return Report(
        ok=fault is None,
        code=fault,
        message=message,
        parameter=parameter,
        provider=spec.type,
        host=run.host,
        object=run.key,
        left_behind=run.left_behind,
        region=run.found.region,
        addressing=run.found.addressing,
        warnings=tuple(run.warnings),
        duration_ms=_ms(run.began),
        job=run.job,
        steps=tuple(run.steps),
    )


def _ms(since: float) -> int:
    # Never below zero, which a step would be that took less than the rounding of those before it.
    return max(0, round((time.monotonic() - since) * 1000))
