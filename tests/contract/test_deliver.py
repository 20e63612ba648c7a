"""A file on its way to every kind of store, on real servers: it arrives whole, or not at all and with the reason."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.domain.faults import Fault
from app.domain.types import key_guide, parse
from app.domain.types.base import Spec
from app.domain.verification import UNKNOWN_LOCATION, Outcome, Report, Step
from app.settings import Settings
from tests.contract.conftest import BACKENDS, SETTINGS
from tests.servers.aws import REGION, Aws
from tests.servers.gateway import Canned, gateway
from tests.stack import s3compatible
from tests.types.base import Backend
from tests.types.every import STORAGES
from tests.types.s3 import keys
from workers import trial
from workers import verify as verifying
from workers.deliver import Delivered, File, Memory, NotDelivered, deliver
from workers.source import open_source
from workers.storage.port import Bucket, Provider, Upload
from workers.storage.refusals import Refused
from workers.storage.registry import open_providers
from workers.verify import verify

KEY = "delivered/%s.bin"
TYPE = "application/json"
GONE = b"<Error><Code>NoSuchUpload</Code><Message>The specified upload does not exist.</Message></Error>"
MIB = 1024 * 1024


class Delivering:
    """All that a delivery needs, with the operator's folder."""

    def __init__(self, provider_for: Callable[[Spec], Awaitable[Provider]], folder: Path) -> None:
        self.provider_for = provider_for
        self._folder = folder
        self.progress: list[int] = []
        self.begun: list[str | None] = []

    def file(self, size: int, **changes: Any) -> File:
        """A file of `size` random bytes at the source, announced as it is but for the `changes`."""
        body = random.Random(size).randbytes(size)
        (self._folder / f"{size}").write_bytes(body)
        announced = {"bytes": size, "sha256": hashlib.sha256(body).hexdigest(), "content_type": TYPE, **changes}
        return File(**{"key": KEY % size, "source": f"{size}", **announced})

    def content(self, file: File) -> bytes:
        return (self._folder / file.source).read_bytes()

    def spec(self, body: dict[str, Any]) -> Spec:
        return parse(body, allow_http=True)

    async def _record(self, upload: str | None) -> None:
        self.begun.append(upload)

    async def deliver(
        self, spec: Spec, file: File, abandoned: str | None = None, *, repeated: bool = False
    ) -> Delivered | NotDelivered:
        async with open_source(f"file://{self._folder}") as source:
            memory = Memory(48 * MIB)
            outcome = await deliver(
                await self.provider_for(spec), spec, UNKNOWN_LOCATION, file, source, memory,
                self.progress.append, self._record, abandoned, repeated=repeated,
            )  # fmt: skip
            # All of it was given back, whatever happened.
            async with asyncio.timeout(30), memory.taken(48 * MIB):
                return outcome

    async def bucket(self, spec: Spec) -> Bucket:
        return await (await self.provider_for(spec)).open(spec, UNKNOWN_LOCATION)

    async def remove(self, spec: Spec, delivered: Delivered) -> None:
        await (await self.bucket(spec)).delete(delivered.uploaded)


@pytest.fixture(scope="module")
async def providers(
    request: pytest.FixtureRequest, authority: Path
) -> AsyncIterator[Callable[[Spec], Awaitable[Provider]]]:
    places: dict[str, Any] = dict(SETTINGS)
    for storage in STORAGES.values():
        places |= storage.settings(request.getfixturevalue)
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(authority))
            settings = Settings(**places).model_copy(update={"verify_seconds": 60.0})
            opened = await open_providers(stack, settings)
        yield opened


@pytest.fixture
def delivering(providers: Callable[[Spec], Awaitable[Provider]], tmp_path: Path) -> Delivering:
    return Delivering(providers, tmp_path)


@pytest.mark.parametrize("size", [0, 1, 16 * MIB, 16 * MIB + 1, 100 * MIB])
async def test_a_file_arrives_as_it_is_at_the_source(delivering: Delivering, backend: Backend, size: int) -> None:
    spec, file = delivering.spec(dict(backend.right)), delivering.file(size)
    outcome = await delivering.deliver(spec, file)
    assert isinstance(outcome, Delivered), outcome
    try:
        assert backend.content(file.key) == delivering.content(file)
        assert (outcome.sent, outcome.uploaded.key) == (size, file.key)
        assert outcome.uploaded.etag
        assert delivering.progress[-1] == size
        assert sorted(delivering.progress) == delivering.progress
        begun = delivering.begun
        assert begun == [] if size <= 16 * MIB else (len(begun) == 2 and begun[0] and begun[1] is None)
        assert backend.unfinished() == 0
    finally:
        await delivering.remove(spec, outcome)


@pytest.mark.parametrize("case", ["wrong_secret", "missing_bucket", "write_refused"])
async def test_a_refusal_is_told_by_its_fault_and_nothing_is_left(
    delivering: Delivering, backend: Backend, case: str
) -> None:
    before = backend.objects()
    outcome = await delivering.deliver(delivering.spec(backend.body(case)), delivering.file(7))
    assert isinstance(outcome, NotDelivered)
    assert outcome.fault == backend.verdict(case)[0]
    assert backend.blames[case] in outcome.message
    assert outcome.refusal and outcome.refusal.step in ("locate", "upload")
    assert outcome.refusal.provider_code and outcome.refusal.status in range(400, 500)
    assert not any(secret in repr(outcome) for secret in backend.secrets)
    assert backend.objects() == before


@pytest.mark.parametrize(
    ("size", "changes"),
    [(7, {"bytes": 1}), (7, {"bytes": -1}), (7, {"sha256": "0" * 64}), (20 * MIB, {"sha256": "0" * 64})],
)
async def test_a_file_that_is_not_the_one_announced_is_not_written(
    delivering: Delivering, backend: Backend, size: int, changes: dict[str, Any]
) -> None:
    before = backend.objects()
    announced = {name: size + value if name == "bytes" else value for name, value in changes.items()}
    outcome = await delivering.deliver(delivering.spec(dict(backend.right)), delivering.file(size, **announced))
    assert isinstance(outcome, NotDelivered)
    assert outcome.fault == "source_changed"
    assert backend.objects() == before
    assert backend.unfinished() == 0
    assert delivering.begun[1:] == [None] if size > 16 * MIB else delivering.begun == []


async def test_what_a_dead_worker_left_is_aborted_by_the_next(delivering: Delivering, backend: Backend) -> None:
    spec, file = delivering.spec(dict(backend.right)), delivering.file(16 * MIB + 5)
    left = await (await delivering.bucket(spec)).begin(file.key, TYPE, file.bytes)
    await left.part(1, delivering.content(file)[: 8 * MIB], 0, last=False)
    outcome = await delivering.deliver(spec, file, abandoned=left.id)
    assert isinstance(outcome, Delivered), outcome
    try:
        assert backend.content(file.key) == delivering.content(file)
        assert backend.unfinished() == 0
        assert delivering.begun[0] is None
        # Aborted once more, it is as gone as it was.
        await left.abort()
        with pytest.raises(Refused):
            await goes_on(left)
    finally:
        await delivering.remove(spec, outcome)


@pytest.mark.parametrize("name", ["s3", "s3compatible", "oss"])
async def test_an_upload_that_was_begun_and_never_told_of_is_aborted_by_the_next_attempt_and_no_other(
    request: pytest.FixtureRequest, delivering: Delivering, name: str
) -> None:
    """Its worker was killed between the store's answer and its own word of it. The key at Amazon has the rights of the
    service's policy, of which a list is none: it delivers all the same."""
    backend = BACKENDS[name](request.getfixturevalue)
    spec, file = delivering.spec(dict(backend.right)), delivering.file(16 * MIB + 6)
    bucket = await delivering.bucket(spec)
    left = [await bucket.begin(file.key, TYPE, file.bytes) for _ in range(2)]
    another = await bucket.begin(f"{file.key}-of-another", TYPE, file.bytes)
    before = backend.unfinished()
    if name == "s3":
        with pytest.raises(Refused) as raised:
            await bucket.unfinished(file.key)
        assert raised.value.status == 403
    outcome = await delivering.deliver(spec, file, repeated=True)
    try:
        assert isinstance(outcome, Delivered), outcome
        assert backend.content(file.key) == delivering.content(file)
        assert backend.unfinished() == before - (0 if name == "s3" else 2)
    finally:
        for each in (*left, another):
            await each.abort()
        if isinstance(outcome, Delivered):
            await delivering.remove(spec, outcome)


async def goes_on(upload: Upload) -> None:
    await upload.part(2, b"x" * 8 * MIB, 8 * MIB, last=False)
    await upload.complete(b"0" * 16)


async def test_a_delivery_that_is_cancelled_leaves_no_parts(delivering: Delivering, backend: Backend) -> None:
    before = backend.objects()
    spec, file = delivering.spec(dict(backend.right)), delivering.file(30 * MIB)
    going = asyncio.create_task(delivering.deliver(spec, file))
    while not delivering.progress:
        assert not going.done()
        await asyncio.sleep(0.005)
    going.cancel()
    await asyncio.wait({going})
    if going.cancelled():
        assert backend.objects() == before
        assert delivering.begun[1:] == [None]
    else:
        await delivering.remove(spec, going.result())  # it was faster
    assert backend.unfinished() == 0


@pytest.mark.parametrize(("may_read", "forgets"), [(True, False), (False, False), (False, True)])
async def test_a_lost_answer_is_settled_by_asking_or_where_the_key_may_not_read_by_sending_again(
    delivering: Delivering, aws: Aws, may_read: bool, forgets: bool
) -> None:
    """The service's own policy does not let a key read. A HEAD is answered 403 then, which says nothing of the file:
    neither that it is there nor that a right is missing. To a repeated complete some stores say once more that all is
    well, and some have forgotten the upload."""
    guide = key_guide({"type": "s3", "s3_bucket_name": "results", "s3_path_prefix": "delivered"})
    assert guide.policy
    statements = [*guide.policy["Statement"]]
    if may_read:
        statements.append({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"})
    key, secret = aws.add_user(f"loses-{may_read}-{forgets}", {**guide.policy, "Statement": statements})
    seen: list[str] = []

    def loses(method: str, path: str, status: int) -> bool:
        kind = next((name for name in ("uploads", "partNumber", "uploadId") if name in path), "object")
        seen.append(f"{method} {kind} {status}")
        return seen.count("POST uploadId 200") == 1 and seen[-1] == "POST uploadId 200"

    def answers(method: str, path: str, _: Mapping[str, str]) -> Canned | None:
        completes = method == "POST" and "uploadId" in path
        gone = forgets and completes and seen.count("POST uploadId 200") == 1 and "POST uploadId 404" not in seen
        return Canned(404, {"Content-Type": "application/xml"}, GONE) if gone else None

    file = delivering.file(17 * MIB)
    with gateway(int(aws.direct.rpartition(":")[2]), answers, loses=loses) as url:
        body = {**s3compatible(url, key, secret), "s3_region": REGION}
        outcome = await delivering.deliver(delivering.spec(body), file)
    assert isinstance(outcome, Delivered), (outcome, seen)
    try:
        found = aws.client().get_object(Bucket="results", Key=file.key)
        assert found["Body"].read() == delivering.content(file)
        assert outcome.uploaded.etag == found["ETag"].strip('"')
        assert seen.count("POST uploads 200") == (2 if forgets else 1)
        assert seen.count("POST uploadId 200") == (1 if may_read else 2)
        assert [each for each in seen if each.startswith("HEAD")][:1] == [f"HEAD object {200 if may_read else 403}"]
        assert "Uploads" not in aws.client().list_multipart_uploads(Bucket="results")
    finally:
        aws.client().delete_object(Bucket="results", Key=file.key)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts beside a verification are waited for on a machine however slow."""
    monkeypatch.setattr(verifying, "_BESIDE_SECONDS", 30.0)
    monkeypatch.setattr(trial, "ABORT_SECONDS", 30.0)


async def verified(delivering: Delivering, spec: Spec) -> Report:
    provider = await delivering.provider_for(spec)
    return await verify(provider, spec, KEY % "dropoff-verify-0", timeout=100, job="job", multipart=True)


async def test_a_verification_tries_an_upload_in_parts_and_leaves_none(
    delivering: Delivering, backend: Backend
) -> None:
    before, spec = backend.objects(), delivering.spec(dict(backend.right))
    report = await verified(delivering, spec)
    assert report.ok and not report.warnings, report
    (tried,) = [each for each in report.steps if each.step is Step.MULTIPART]
    # Azure has no call that aborts one.
    assert tried.outcome is (Outcome.SKIPPED if spec.type == "azure" else Outcome.PASSED), tried
    assert (backend.objects(), backend.unfinished()) == (before, 0)


async def test_a_key_that_may_not_abort_is_warned_of_what_it_leaves(delivering: Delivering, aws: Aws) -> None:
    spec = delivering.spec({"type": "s3", "s3_bucket_name": "results", **keys(aws.keys["no-versions"])})
    report = await verified(delivering, spec)
    client = aws.client()
    (left,) = client.list_multipart_uploads(Bucket="results")["Uploads"]
    client.abort_multipart_upload(Bucket="results", Key=left["Key"], UploadId=left["UploadId"])
    assert report.ok, report
    assert [(each.step, each.code) for each in report.steps if each.code] == [(Step.MULTIPART, Fault.WRITE_DENIED)]
    what, where = report.warnings
    assert "a delivery that fails would leave its parts" in what
    assert left["Key"] in where
