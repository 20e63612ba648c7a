"""Upload a small file, delete it, try an upload in parts, report on every step; knows no provider and no queue."""

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog

from app.domain.faults import ADVICE, Fault
from app.domain.types.base import HostTyped, Spec
from app.domain.verification import (
    UNKNOWN_LOCATION,
    Location,
    Outcome,
    Report,
    Step,
    StepReport,
    advice,
    may_remain,
)
from app.messages.job import Left
from workers.egress.wire import Wire, measure
from workers.storage.port import ONE_PUT, Bucket, Provider, Uploaded
from workers.storage.refusals import Refused
from workers.trial import Stage, Trial

log = structlog.get_logger()

# The share of the whole bound that is kept for the delete, however long the upload takes.
DELETE_SHARE = 0.25

# How long the verdict is waited with for an upload in parts that is slower than all else: where the file was taken, and
# where the verification has failed without it.
_BESIDE_SECONDS, _AFTER_A_FAILURE_SECONDS = 2.0, 0.5
_LARGE = f"Files over {ONE_PUT // (1024 * 1024)} MiB"

# What a provider says of a key, or of a right, that it does not know everywhere yet; and the pauses before it is asked
# again, the last for as long as it takes.
_OF_A_NEW_KEY = frozenset({Fault.ACCESS_KEY_UNKNOWN, Fault.WRITE_DENIED})
_PAUSES = (1.0, 2.0)

# By which a lenient verification is not failed: the file is there, and that is all that may be wrong.
_FORGIVEN = {
    Fault.DELETE_DENIED: "the key may not delete it",
    Fault.DELETE_BLOCKED_BY_RETENTION: "a retention rule or legal hold keeps it",
}

# Why no connection comes about, be it that the host is not what the customer means or that we do not reach it.
_UNREACHED = frozenset({Fault.HOST_NOT_FOUND, Fault.CONNECTION_REFUSED, Fault.CONNECTION_FAILED, Fault.TIMEOUT})

BODY = (
    b"This file was written by Dropoff to prove that it can write here, and is deleted at once.\n"
    b"If you can read it, the delete failed; it may be removed safely.\n"
)


@dataclass(frozen=True)
class Patience:
    """For how many seconds a refusal that may come of a key's being new is tried again; `is_new` says whether it is."""

    seconds: float
    is_new: Callable[[], Awaitable[bool]]


@dataclass
class _Run:
    """One verification as it goes: what has happened so far, from which the report is made."""

    spec: Spec
    key: str
    host: str
    job: str
    location: Location
    lenient: bool = False
    began: float = field(default_factory=lambda: time.monotonic())  # found anew each time, so that a test may set it
    steps: list[StepReport] = field(default_factory=list)
    refused: Refused | None = None
    left_behind: bool = False
    attempts: int = 0
    left: Left | None = None
    warnings: list[str] = field(default_factory=list)

    def fail(self, step: Step, refused: Refused, since: float, *, forgiven: bool = False) -> None:
        """Note that `step` failed; the first failure that is not forgiven is the verdict."""
        self.steps.append(
            StepReport(
                step=step,
                outcome=Outcome.FAILED,
                ms=_ms(since),
                code=refused.fault,
                provider_code=self.spec.without_secrets(refused.provider_code),
                status=refused.status,
                request_id=self.spec.without_secrets(refused.request_id),
            )
        )
        if not forgiven:
            self.refused = self.refused or refused

    def skip(self, steps: Iterable[Step], reason: str) -> None:
        self.steps += [StepReport.skipped(step, reason) for step in steps]


def _ignore(_: object) -> None:
    """What `on_step` and `on_left` are where nobody wants to be told."""


async def verify(
    provider: Provider,
    spec: Spec,
    key: str,
    *,
    timeout: float,
    job: str,
    location: Location = UNKNOWN_LOCATION,
    on_step: Callable[[Step], None] = _ignore,
    on_left: Callable[[Left], None] = _ignore,
    patience: Patience | None = None,
    lenient: bool = False,
    multipart: bool = False,
) -> Report:
    """Prove that `spec` takes a file and lets it be deleted, in at most `timeout` seconds. `location` is what an
    earlier verification of the same bucket found out; `on_step` is told when the upload and the delete begin, `on_left`
    where the file may remain or still arrive.

    Never raises for anything that storage does: a refusal is a report that is not ok. With `patience` it waits, within
    the same bound, for a new key to become known. Where it is `lenient`, a bucket that takes the file and keeps it has
    passed, with a warning that names it. With `multipart` an upload in parts is begun and aborted meanwhile, of whose
    refusal the report warns.
    """
    run = _Run(spec=spec, key=key, host=provider.host(spec), job=job, location=location, lenient=lenient)
    ends = run.began + timeout
    bucket = await _locate(run, provider, ends - timeout * DELETE_SHARE)
    if bucket is None:
        run.skip((Step.RESOLVE, Step.CONNECT, Step.UPLOAD, Step.DELETE, Step.MULTIPART), "the bucket was not located")
        return _report(run)
    on_step(Step.UPLOAD)
    parts = _Parts(run, bucket, ends, wanted=multipart)
    try:
        uploaded = await _upload(run, bucket, ends - timeout * DELETE_SHARE, patience)
        # Not known before the upload: a provider that needs a token names the token's host until it has one, and a
        # bucket may have been found at another host than the one that was called first.
        run.host = bucket.host
        parts.retry()
        if uploaded:
            on_step(Step.DELETE)
            await _delete(run, bucket, uploaded, ends)
    except BaseException:
        await parts.abandon()
        raise
    await parts.end(_AFTER_A_FAILURE_SECONDS if run.refused else _BESIDE_SECONDS)
    parts.tell(bool(uploaded and uploaded.etag))
    if run.left:
        on_left(run.left)
    return _report(run)


def unanswered(host: str, spec: Spec, key: str, *, job: str, location: Location = UNKNOWN_LOCATION) -> Report:
    """The report on a verification that was not begun, since `host` has answered nobody lately."""
    run = _Run(spec=spec, key=key, host=host, job=job, location=location)
    run.refused = Refused(Fault.TIMEOUT if spec.host_typed is HostTyped.WHOLE else Fault.EGRESS_UNAVAILABLE)
    run.skip(Step, "the host has answered nobody in the last minute")
    report = _report(run)
    told = f"{host} has answered nobody in the last minute and was not called again: nothing was uploaded. "
    if run.refused.fault is Fault.TIMEOUT:
        told += f"Check that it is up and that {report.parameter} is right, and try again in a minute."
    else:
        told += "No parameter is at fault: try again in a minute."
    return report.model_copy(update={"message": told})


class _Parts:
    """The upload in parts beside a verification, where it is wanted and means something."""

    def __init__(self, run: _Run, bucket: Bucket, ends: float, *, wanted: bool) -> None:
        self._run = run
        self._bucket = bucket
        self._ends = ends
        self._location = bucket.location
        self._reason = "this service delivers no files"
        self._left = False
        self._retried = False
        self._trial: Trial | None = None
        if wanted and bucket.parts_expire:
            self._reason = "a key that may write a file may write parts, and these cannot be removed"
        elif wanted:
            self._try()

    def _try(self) -> None:
        # A bucket of its own: what a refusal tells one of them about where to call is nothing that the other has tried.
        self._trial = Trial(copy.copy(self._bucket), self._run.key, BODY, self._ends)

    def retry(self) -> None:
        """Begin another one, once, where the first is over and came too early: the key was new, or the bucket
        elsewhere. One that is still under way may have learnt that by itself."""
        run, trial = self._run, self._trial
        early = run.attempts > 1 or self._bucket.location != self._location
        if early and not self._retried and not run.refused and trial and trial.over and trial.refused:
            self._retried, self._left = True, trial.left
            self._try()

    async def end(self, seconds: float) -> None:
        """Have it ended `seconds` from now at the latest, and aborted; as late again where it is tried again then."""
        if self._trial:
            await self._trial.end(seconds)
            self.retry()
            await self._trial.end(seconds)

    async def abandon(self) -> None:
        """Have it aborted at once."""
        if self._trial:
            await self._trial.end(0)

    def tell(self, taken: bool) -> None:
        """Add the step to the report; `taken` says that the test file was taken, without which a refusal of parts says
        nothing more."""
        run, trial = self._run, self._trial
        if trial and taken and trial.refused:
            run.fail(Step.MULTIPART, trial.refused, time.monotonic() - trial.ms / 1000, forgiven=True)
            run.warnings.append(_warning(trial.stage, trial.refused))
        elif trial and taken:
            run.steps.append(StepReport.passed(Step.MULTIPART, trial.ms))
        else:
            run.skip((Step.MULTIPART,), "the test file was not taken" if trial else self._reason)
        if self._left or (trial and trial.left):
            run.warnings.append(
                f"An upload in parts of {run.key} may have been begun and not aborted: its part stays until you abort "
                "it, or a rule of the bucket that removes unfinished uploads does."
            )


def _warning(stage: Stage, refused: Refused) -> str:
    """What will fail, where an upload in parts was refused at `stage`."""
    fault, aborting = refused.fault, stage is Stage.ABORT
    if ADVICE[fault].retryable or fault in (Fault.TIMEOUT, Fault.CONNECTION_FAILED, Fault.INTERNAL_ERROR):
        whether = "such an upload can be aborted" if aborting else "they will arrive"
        return f"{_LARGE} are sent in parts; whether {whether} was not found out ({fault}): verify again later."
    if aborting:
        return (
            f"{_LARGE} are sent in parts, and the key may not abort such an upload ({fault}): a delivery that fails "
            "would leave its parts in the bucket. Allow the key to abort multipart uploads."
        )
    return (
        f"{_LARGE} will not arrive: they are sent in parts, and such an upload was refused ({fault}). Allow the key to "
        "begin multipart uploads and to write their parts, wherever it may write files."
    )


async def remove(
    provider: Provider,
    spec: Spec,
    key: str,
    left: Left,
    *,
    timeout: float,
    job: str,
    location: Location = UNKNOWN_LOCATION,
) -> tuple[Report, Left | None]:
    """Delete `key`, which a verification left, in at most `timeout` seconds: the report, of which no step but the
    delete counts, and what may remain all the same. Never raises for anything that storage does."""
    run = _Run(spec=spec, key=key, host=provider.host(spec), job=job, location=location)
    ends = run.began + timeout
    if bucket := await _locate(run, provider, ends):
        run.host = bucket.host
        with measure() as wire:
            await _delete(run, bucket, Uploaded(key, etag="", version=left.version), ends, wire)
    if run.refused and run.refused.fault is Fault.BUCKET_NOT_FOUND:
        return _report(run).model_copy(update={"ok": True}), None
    if run.warnings:
        return _report(run), left.model_copy(update={"hidden": True})
    return _report(run), left if run.refused else None


async def _locate(run: _Run, provider: Provider, ends: float) -> Bucket | None:
    since = time.monotonic()
    with measure() as wire:
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                bucket = await provider.open(run.spec, run.location)
        except (Refused, TimeoutError) as error:
            run.fail(Step.LOCATE, reached(run.spec, wire, _refusal(error)), since)
            return None
    if bucket.located:
        run.steps.append(StepReport.passed(Step.LOCATE, _ms(since)))
    else:
        run.skip((Step.LOCATE,), "the place is known without asking")
    return bucket


async def _upload(run: _Run, bucket: Bucket, ends: float, patience: Patience | None) -> Uploaded | None:
    """The uploaded object; where the outcome is not known, one that may be there and must be deleted."""
    since = time.monotonic()
    with measure() as wire:
        try:
            async with asyncio.timeout(ends - since):
                uploaded = await _patiently(run, bucket, since, ends, patience)
        except (Refused, TimeoutError) as error:
            refused = _refusal(error)
        else:
            # Only what worked is worth keeping.
            run.location = bucket.location
            _connected(run, wire)
            run.steps.append(StepReport.passed(Step.UPLOAD, _ms(since + wire.seconds)))
            return uploaded
    if not wire.connected:
        _not_connected(run, wire, refused, since)
        return None
    _connected(run, wire)
    run.fail(Step.UPLOAD, refused, since + wire.seconds)
    if refused.unknown_outcome:
        if refused.status is None:
            # Nobody has answered: the store may carry it out later than the delete.
            run.left = Left(version=refused.version)
        return Uploaded(run.key, etag="", version=refused.version)
    run.skip((Step.DELETE,), "nothing was uploaded")
    return None


async def _patiently(run: _Run, bucket: Bucket, since: float, ends: float, patience: Patience | None) -> Uploaded:
    """The upload; tried again, with pauses, while what refuses it may be that the key is new."""
    while True:
        run.attempts += 1
        try:
            return await bucket.upload(run.key, BODY)
        except Refused as refused:
            pause = _PAUSES[min(run.attempts, len(_PAUSES)) - 1]
            may_pass = run.spec.has_slow_keys() and refused.fault in _OF_A_NEW_KEY and not refused.settled
            if not patience or not may_pass or time.monotonic() + pause > min(since + patience.seconds, ends):
                raise
            if run.attempts == 1 and not await patience.is_new():
                raise
        await asyncio.sleep(pause)


async def _delete(run: _Run, bucket: Bucket, uploaded: Uploaded, ends: float, wire: Wire | None = None) -> None:
    """`wire` is what notes the connection where none was made before."""
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
        # What may have come of an upload that failed is no file that was taken.
        forgiven = run.lenient and bool(uploaded.etag) and refused.fault in _FORGIVEN
        run.fail(Step.DELETE, reached(run.spec, wire, refused) if wire else refused, since, forgiven=forgiven)
        if forgiven:
            # Nobody is to delete what the customer keeps on purpose.
            run.warnings.append(
                f"The test file {run.key} was left behind, since {_FORGIVEN[refused.fault]}: remove it where you can."
            )
        else:
            run.left = Left(written=bool(uploaded.etag), version=uploaded.version)
    else:
        run.steps.append(StepReport.passed(Step.DELETE, _ms(since)))


async def _remove(run: _Run, bucket: Bucket, uploaded: Uploaded) -> None:
    """Delete the very version that was written; a key that may not delete versions hides it with a marker instead."""
    try:
        hidden = await bucket.delete(uploaded)
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
            f"The bucket keeps versions, and the key may not delete one, or a retention rule keeps it: {uploaded.key} "
            "is deleted, but a version of it remains."
        )
    else:
        if hidden and not uploaded.version:
            run.warnings.append(
                f"The bucket keeps versions: {uploaded.key} is deleted, but a version of it may remain, since the "
                "store did not tell which it wrote."
            )


def _refusal(error: Refused | TimeoutError) -> Refused:
    return error if isinstance(error, Refused) else Refused(Fault.TIMEOUT, unknown_outcome=True)


def reached(spec: Spec, wire: Wire, refused: Refused) -> Refused:
    """`refused`, or our own network's fault in its place."""
    if not wire.tried or wire.connected or refused.fault not in _UNREACHED:
        return refused
    not_there = refused.fault is Fault.HOST_NOT_FOUND and not refused.unanswered
    mistypable = {HostTyped.WHOLE: True, HostTyped.PART: not_there, HostTyped.NOTHING: False}
    return refused if mistypable[spec.host_typed] else Refused(Fault.EGRESS_UNAVAILABLE)


def _connected(run: _Run, wire: Wire) -> None:
    if wire.reused:
        run.skip((Step.RESOLVE, Step.CONNECT), "an open connection was used again")
        return
    run.steps.append(StepReport.passed(Step.RESOLVE, wire.resolve_ms or 0))
    run.steps.append(StepReport.passed(Step.CONNECT, wire.connect_ms or 0))


def failed_step(wire: Wire, refused: Refused) -> Step:
    """At which step an upload was refused: where no connection was made, by the name if that did not resolve, else by
    the connection itself."""
    if wire.connected:
        return Step.UPLOAD
    unresolved = refused.fault is Fault.HOST_NOT_FOUND or (wire.resolving and refused.fault is Fault.TIMEOUT)
    return Step.RESOLVE if unresolved else Step.CONNECT


def _not_connected(run: _Run, wire: Wire, refused: Refused, since: float) -> None:
    if failed_step(wire, refused) is Step.RESOLVE:
        run.fail(Step.RESOLVE, reached(run.spec, wire, refused), since)
        run.skip((Step.CONNECT,), "the host was not found")
    else:
        run.steps.append(StepReport.passed(Step.RESOLVE, wire.resolve_ms or 0))
        run.fail(Step.CONNECT, reached(run.spec, wire, refused), since + wire.seconds)
    run.skip((Step.UPLOAD,), "there was no connection")
    run.skip((Step.DELETE,), "nothing was uploaded")


def _report(run: _Run) -> Report:
    spec, fault = run.spec, run.refused.fault if run.refused else None
    parameter = spec.parameter(ADVICE[fault].role) if fault else None
    message = f"The test file was uploaded{'' if run.left_behind else ' and deleted'}."
    if fault and run.refused:
        seconds, detail = time.monotonic() - run.began, run.refused.detail
        message = advice(spec, fault, host=run.host, key=run.key, seconds=seconds, detail=detail)
        if run.attempts > 1:
            message += (
                f" It was tried {run.attempts} times, since new keys and rights take a while to be known everywhere: "
                "if yours are not a few minutes old, try again when they are."
            )
        if run.left_behind and run.key not in message:
            message += may_remain(run.key)
    return Report(
        ok=fault is None,
        code=fault,
        message=message,
        parameter=parameter,
        type=spec.type,
        host=run.host,
        object=run.key,
        left_behind=run.left_behind,
        attempts=run.attempts if run.attempts > 1 else None,
        region=run.location.region,
        addressing=run.location.addressing,
        warnings=tuple(run.warnings),
        duration_ms=_ms(run.began),
        job=run.job,
        steps=tuple(run.steps),
    )


def _ms(since: float) -> int:
    # Never below zero, which a step would be that took less than the rounding of those before it.
    return max(0, round((time.monotonic() - since) * 1000))
