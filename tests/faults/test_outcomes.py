"""What becomes of the test file where it is not known whether it was stored: it is deleted, or named."""

import ssl
from collections.abc import AsyncIterator

import pytest

from app.domain.faults import Fault
from app.domain.verification import Outcome
from tests.faults.test_steps import BROKEN, Store, denied, storing
from tests.faults.verifying import BODIES, KEY, failed, step
from tests.servers.odd import HTML, PAGE
from tests.types.every import STORAGES
from workers.egress.wire import measure
from workers.storage.refusals import transport_refusal

EVERY = pytest.mark.parametrize("name", BODIES)
BY_JSON = "gcs by service account"


@pytest.fixture(scope="module")
async def _store() -> AsyncIterator[Store]:
    async with storing() as running:
        yield running


@pytest.fixture
def store(_store: Store) -> Store:
    _store.host.requests.clear()
    _store.host.cuts.clear()
    return _store


def _with(stored: bytes, body: bytes, kind: str) -> bytes:
    """The answer `stored` with another body."""
    lines = stored.partition(b"\r\n\r\n")[0].split(b"\r\n")
    kept = [line for line in lines if not line.startswith((b"Content-Length", b"Content-Type"))]
    head = b"\r\n".join([*kept, f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()])
    return head + body


# Each makes, of the way in which a store says that it has stored a file, one in which none does.
UNLIKE = {
    "another header": lambda stored: stored.replace(b"ETag", b"E-Tag").replace(b'"etag"', b'"Etag"'),
    "a page": lambda stored: _with(stored, HTML, "text/html; charset=utf-8"),
    "a page as text": lambda stored: _with(stored, HTML, "text/plain"),
    "a sentence": lambda stored: _with(stored, b"Stored.", "text/plain"),
    "other JSON": lambda stored: _with(stored, b'{"stored": true}', "application/json"),
    "nothing": lambda _: b"HTTP/1.1 204 No Content\r\n\r\n",
    "accepted": lambda stored: _with(b"HTTP/1.1 202 Accepted" + stored[stored.index(b"\r\n") :], b"", "text/plain"),
}


@EVERY
@pytest.mark.parametrize("unlike", UNLIKE)
async def test_a_success_that_is_not_the_stores_own_is_refused_and_the_file_deleted(
    store: Store, name: str, unlike: str
) -> None:
    report = await store.verified(name, **{"": UNLIKE[unlike](STORAGES[name].stored)})
    assert failed(report) == [("upload", Fault.NOT_A_STORAGE_ENDPOINT)], report
    assert step(report, "delete").outcome is Outcome.PASSED
    assert not report.left_behind
    (delete,) = store.deletes
    assert KEY in delete.replace("%2F", "/")


async def test_a_file_of_another_content_than_was_sent_is_refused_and_deleted(store: Store) -> None:
    """OSS tells the checksum of what it has stored, which its SDK compares."""
    head, _, rest = STORAGES["oss"].stored.partition(b"\r\n")
    report = await store.verified("oss", **{"": head + b"\r\nx-oss-hash-crc64ecma: 1\r\n" + rest})
    assert failed(report) == [("upload", Fault.NOT_A_STORAGE_ENDPOINT)], report
    assert step(report, "delete").outcome is Outcome.PASSED and not report.left_behind
    assert len(store.deletes) == 1


@EVERY
@pytest.mark.parametrize("unlike", ["another header", "a page"])
async def test_where_it_cannot_be_deleted_it_is_named(store: Store, name: str, unlike: str) -> None:
    for refusal in (PAGE, BROKEN, denied(name)):
        report = await store.verified(name, **{"": UNLIKE[unlike](STORAGES[name].stored), "DELETE": refusal})
        assert report.code == Fault.NOT_A_STORAGE_ENDPOINT, report
        assert step(report, "delete").outcome is Outcome.FAILED
        assert report.left_behind and KEY in report.message


@EVERY
async def test_a_page_does_not_say_that_the_file_is_deleted(store: Store, name: str) -> None:
    report = await store.verified(name, DELETE=PAGE)
    assert failed(report) == [("delete", Fault.NOT_A_STORAGE_ENDPOINT)], report
    assert report.left_behind and KEY in report.message


@EVERY
async def test_an_upload_whose_connection_ends_without_an_answer_is_not_sent_again(store: Store, name: str) -> None:
    """Of two versions in a bucket, only one would be deleted."""
    assert (await store.verified(name)).ok
    store.host.requests.clear()
    store.host.cuts = {"PUT ", "POST "}
    report = await store.verified(name)
    assert failed(report) == [("upload", Fault.CONNECTION_FAILED)], report
    assert step(report, "connect").outcome is Outcome.SKIPPED, "the connection was an open one"
    assert [request.split(b" ")[0] in (b"PUT", b"POST") for request in store.host.requests] == [True, False]
    assert step(report, "delete").outcome is Outcome.PASSED


@EVERY
async def test_a_delete_whose_connection_ends_without_an_answer_is_not_sent_again(store: Store, name: str) -> None:
    store.host.cuts = {"DELETE "}
    report = await store.verified(name)
    assert failed(report) == [("delete", Fault.CONNECTION_FAILED)], report
    assert len(store.deletes) == 1
    assert report.left_behind and KEY in report.message


MARKING = ["s3", "s3compatible", "gcs", "oss"]
"""The ways to store that say when a delete has only hidden a file."""


def marked(version: str) -> bytes:
    """The answer to a delete that has made a marker of that version."""
    each = "".join(f"x-{who}-delete-marker: true\r\nx-{who}-version-id: {version}\r\n" for who in ("amz", "oss"))
    return f"HTTP/1.1 204 No Content\r\n{each}\r\n".encode()


@pytest.mark.parametrize("name", MARKING)
async def test_a_version_that_may_remain_behind_a_marker_is_named(store: Store, name: str) -> None:
    """The upload did not tell which version it was, so that the delete could only hide it."""
    report = await store.verified(name, **{"": BROKEN, "DELETE": marked("m1")})
    assert failed(report) == [("upload", Fault.PROVIDER_UNAVAILABLE)]
    (warning,) = report.warnings
    assert KEY in warning and "a version of it may remain" in warning


@pytest.mark.parametrize("name", MARKING)
async def test_a_marker_that_has_taken_the_files_place_leaves_no_version(store: Store, name: str) -> None:
    """Versions are suspended: there is one at most, and the marker is that."""
    report = await store.verified(name, DELETE=marked("null"))
    assert report.ok and report.warnings == (), report


def test_tls_that_breaks_when_the_request_can_have_left_leaves_the_outcome_open() -> None:
    for connected in (False, True):
        with measure() as wire:
            if connected:
                wire.reuse()
            refused = transport_refusal(ssl.SSLError(1, "unexpected eof"))
        assert refused and refused.fault is Fault.TLS_FAILURE
        assert refused.unknown_outcome == connected
