"""What a report says of the upload in parts beside it: what was refused, what will fail of that, what was left."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.verification import Outcome, Report, Step
from tests.faults.verifying import BOUND, KEY, SLACK, WITHIN, failed, providers, step
from tests.servers.odd import STORED, Odd, answering
from tests.stack import eventually
from tests.types.every import STORAGES
from workers import trial
from workers import verify as verifying
from workers.storage.port import Provider
from workers.verify import Patience, verify

DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>'
BEGUN = (
    b'<?xml version="1.0"?><InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key>'
    b"<UploadId>one</UploadId></InitiateMultipartUploadResult>"
)
GONE = b"HTTP/1.1 204 No Content\r\n\r\n"


def xml(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nx-amz-request-id: 1\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


REFUSED = xml("403 Forbidden", DENIED)


class Store:
    """A store of the S3 dialect that takes parts, but for what a test says otherwise."""

    def __init__(self, host: Odd, provider_for: Callable[[Spec], Awaitable[Provider]]) -> None:
        self.host = host
        self._provider_for = provider_for

    async def verified(
        self,
        name: str = "s3compatible",
        *,
        multipart: bool = True,
        timeout: float = BOUND,
        patience: Patience | None = None,
        **replies: bytes,
    ) -> Report:
        begun = {"uploads": xml("200 OK", BEGUN), "partNumber": STORED}
        self.host.replies = {"": STORED, "DELETE": GONE, **begun, **replies}
        spec = STORAGES[name].spec(self.host.url)
        return await verify(
            await self._provider_for(spec), spec, KEY,
            timeout=timeout, job="job", multipart=multipart, patience=patience,
        )  # fmt: skip

    @property
    def of_parts(self) -> list[str]:
        """The first word and the query of each request about an upload in parts."""
        lines = [request.partition(b"\r\n")[0].decode().split() for request in self.host.requests]
        return [f"{method} {target.partition('?')[2]}" for method, target, _ in lines if "upload" in target]


@pytest.fixture
async def hurried() -> AsyncIterator[Store]:
    """One whose parts are waited for no longer than in production."""
    with answering(b"") as host:
        async with providers(host.url, verify_seconds=BOUND) as provider_for:
            yield Store(host, provider_for)


@pytest.fixture
def store(hurried: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """One whose parts are waited for on a machine however slow."""
    for name in ("_BESIDE_SECONDS", "_AFTER_A_FAILURE_SECONDS"):
        monkeypatch.setattr(verifying, name, WITHIN)
    monkeypatch.setattr(trial, "ABORT_SECONDS", WITHIN)
    return hurried


async def test_an_upload_in_parts_is_begun_filled_and_aborted(store: Store) -> None:
    report = await store.verified()
    assert report.ok and not report.warnings, report
    assert [each.step for each in report.steps] == list(Step)
    assert step(report, "multipart").outcome is Outcome.PASSED
    began, part, aborted = store.of_parts
    assert began.startswith("POST uploads") and aborted == "DELETE uploadId=one", store.of_parts
    assert part.startswith("PUT ") and "partNumber=1" in part


async def test_where_nothing_is_delivered_no_parts_are_tried(store: Store) -> None:
    report = await store.verified(multipart=False)
    assert report.ok and not report.warnings
    assert step(report, "multipart").reason == "this service delivers no files"
    assert store.of_parts == []


@pytest.mark.parametrize(("refused", "aborts"), [("uploads", 0), ("partNumber", 1)])
async def test_parts_that_are_refused_are_a_warning_of_what_will_fail(store: Store, refused: str, aborts: int) -> None:
    report = await store.verified(**{refused: REFUSED})
    assert report.ok and report.code is None, report
    assert failed(report) == [("multipart", Fault.WRITE_DENIED)]
    assert step(report, "multipart").provider_code == "AccessDenied"
    (warning,) = report.warnings
    assert "Files over 16 MiB will not arrive" in warning
    assert len([each for each in store.of_parts if each.startswith("DELETE")]) == aborts


@pytest.mark.parametrize("name", ["s3compatible", "oss"])
async def test_an_answer_that_lacks_what_it_must_have_is_no_stores(store: Store, name: str) -> None:
    report = await store.verified(name, uploads=xml("200 OK", b'<?xml version="1.0"?><Another/>'))
    assert report.ok
    assert failed(report) == [("multipart", Fault.NOT_A_STORAGE_ENDPOINT)]


async def test_an_abort_that_is_refused_is_told_with_what_was_left(store: Store) -> None:
    report = await store.verified(**{"uploadId=one HTTP": REFUSED})
    assert report.ok
    assert failed(report)[0][0] == "multipart"
    what, left = report.warnings
    assert "a delivery that fails would leave its parts" in what
    assert KEY in left and "not aborted" in left


@pytest.mark.parametrize("fault", [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"])
async def test_what_may_pass_is_not_told_as_a_refusal(store: Store, fault: bytes) -> None:
    report = await store.verified(partNumber=fault)
    assert report.ok
    (warning,) = report.warnings
    assert "was not found out" in warning and "will not arrive" not in warning


async def test_a_store_that_does_not_answer_of_parts_is_waited_for_within_a_bound(hurried: Store) -> None:
    began = time.monotonic()
    report = await hurried.verified(uploads=b"")
    assert time.monotonic() - began < verifying._BESIDE_SECONDS + SLACK
    assert report.ok
    assert failed(report) == [("multipart", Fault.TIMEOUT)]
    what, left = report.warnings
    assert "was not found out" in what and "may have been begun" in left


async def test_a_refused_upload_is_the_verdict_whatever_becomes_of_parts(hurried: Store) -> None:
    began = time.monotonic()
    report = await hurried.verified(**{"": REFUSED, "uploads": b""})
    assert time.monotonic() - began < verifying._AFTER_A_FAILURE_SECONDS + SLACK
    assert failed(report) == [("upload", Fault.WRITE_DENIED)]
    assert step(report, "multipart").reason == "the test file was not taken"
    (left,) = report.warnings
    assert "may have been begun" in left


async def test_parts_take_no_time_beside_a_store_that_is_slow_with_files(store: Store) -> None:
    """They are over while it is at the file."""
    file = threading.Event()
    store.host.holds = {"x-id=PutObject": file, "txt HTTP": file}
    going = asyncio.create_task(store.verified())
    await eventually(lambda: len(store.of_parts) == 3, "the parts are begun, sent and aborted")
    assert not going.done()
    file.set()
    report = await going
    assert report.ok and step(report, "multipart").outcome is Outcome.PASSED
    assert {"POST", "PUT", "DELETE"} == {each.split()[0] for each in store.of_parts}


async def test_who_goes_away_leaves_no_upload_behind(store: Store) -> None:
    store.host.holds = dict.fromkeys(("dropoff-verify-0.txt ", "x-id=PutObject", "partNumber"), threading.Event())
    going = asyncio.create_task(store.verified())
    await eventually(lambda: len(store.of_parts) == 2, "a part is sent")
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert store.of_parts[-1] == "DELETE uploadId=one", store.of_parts


async def test_parts_that_were_tried_with_a_key_too_new_are_tried_again_with_the_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_new() -> bool:
        """Asked when the first put was refused; the next comes when the first begin was refused too."""
        await eventually(lambda: not store.host.firsts, "the upload in parts was begun")
        return True

    monkeypatch.setattr(verifying, "_PAUSES", (0.05,))
    # The first put and the first begin; the second put comes through.
    store.host.firsts = [REFUSED, REFUSED]
    report = await store.verified("oss", patience=Patience(WITHIN, is_new))
    assert report.ok and report.attempts == 2, report
    assert step(report, "multipart").outcome is Outcome.PASSED, report
    assert not report.warnings
    assert len([each for each in store.of_parts if each.startswith("POST uploads")]) == 2
