"""What is said on the way to a store, by a proxy, a console or a website, is not taken for the store's word."""

import json
from collections.abc import AsyncIterator

import pytest

from app.domain.faults import Fault
from app.domain.verification import Outcome
from tests.faults.test_steps import Store, storing
from tests.faults.verifying import BODIES, KEY, failed, spec_of, step, verified
from tests.servers.odd import answering

NGINX = (
    b"<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>"
)
SAID: dict[str, tuple[str, bytes]] = {
    "a page": ("text/html", NGINX),
    "a page that is XML": ("application/xhtml+xml", b"<html xmlns='http://www.w3.org/1999/xhtml'><body/></html>"),
    "a page as text": ("text/plain", NGINX),
    "a text": ("text/plain; charset=utf-8", b"404 page not found\n"),
    "a text as XML": ("application/xml", b"Access denied"),
    "JSON of a gateway": ("application/json", b'{"message":"Forbidden"}'),
    "JSON of a framework": ("application/json", b'{"timestamp":1,"status":404,"error":"Not Found","path":"/x"}'),
    "JSON with a code": ("application/json", json.dumps({"error": {"code": "AccessDenied", "message": "No"}}).encode()),
    "JSON as OAuth has it": ("application/json", b'{"error":"AccessDenied","error_description":"No"}'),
    "XML of something else": ("application/xml", b"<fault><code>NoSuchBucket</code><message>No</message></fault>"),
    "an error without a code": ("application/xml", b"<Error><Message>No</Message></Error>"),
    "nothing": ("text/plain", b""),
}
"""Answers without an error document of a store's, by what they are."""
STATUSES = (400, 401, 403, 404)
EVERY = pytest.mark.parametrize("name", BODIES)


def said(status: int, what: str) -> bytes:
    kind, body = SAID[what]
    return f"HTTP/1.1 {status} No\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
async def store() -> AsyncIterator[Store]:
    async with storing() as running:
        yield running


@EVERY
@pytest.mark.parametrize("what", SAID)
async def test_a_refusal_without_a_stores_document_is_nobodys_word_about_keys_and_buckets(
    store: Store, name: str, what: str
) -> None:
    for status in STATUSES:
        report = await store.verified(name, **{"": said(status, what)})
        assert failed(report) == [("upload", Fault.NOT_A_STORAGE_ENDPOINT)], report
        refused = step(report, "upload")
        # Azure's SDK breaks on some.
        assert refused.status == status or (name == "azure" and refused.status is None)
        assert refused.provider_code is None
        assert not report.left_behind
        assert report.parameter == spec_of(name, store.host.url).roles["endpoint"]  # type: ignore[index]
        report = await store.verified(name, DELETE=said(status, what))
        assert failed(report) == [("delete", Fault.NOT_A_STORAGE_ENDPOINT)], report
        assert report.left_behind and KEY in report.message


@EVERY
@pytest.mark.parametrize("what", ["a page", "JSON of a gateway", "nothing"])
async def test_who_takes_no_delete_after_an_upload_refuses_just_that(store: Store, name: str, what: str) -> None:
    report = await store.verified(name, DELETE=said(405, what))
    assert failed(report) == [("delete", Fault.DELETE_DENIED)], report
    assert report.left_behind and KEY in report.message


@EVERY
@pytest.mark.parametrize("what", ["a page", "a text", "nothing"])
async def test_an_outage_on_the_way_is_one(store: Store, name: str, what: str) -> None:
    """A store may be behind it, which the file may have come to."""
    for status in (500, 502, 504):
        report = await store.verified(name, **{"": said(status, what)})
        assert failed(report) == [("upload", Fault.PROVIDER_UNAVAILABLE)], report
        assert step(report, "delete").outcome is Outcome.PASSED


async def test_a_page_in_amazons_place_does_not_say_that_there_is_no_bucket() -> None:
    """An answer to HEAD has no body; S3 numbers each of its own."""
    with answering(said(404, "a page")) as host:
        report = await verified("s3", host.url)
    assert failed(report) == [("locate", Fault.NOT_A_STORAGE_ENDPOINT)], report


async def test_googles_own_text_is_its_word(store: Store) -> None:
    """What takes uploads there says "Not Found" of a bucket, and has no document for it."""
    answer = said(404, "a text").replace(b"\r\n", b"\r\nX-GUploader-UploadID: ABg5-Ux\r\n", 1)
    report = await store.verified("gcs by service account", **{"": answer})
    assert failed(report) == [("upload", Fault.BUCKET_NOT_FOUND)], report
    assert step(report, "upload").request_id == "ABg5-Ux"


async def test_a_document_in_a_namespace_is_one(store: Store) -> None:
    body = b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>QuotaExceeded</Code><Message/></Error>'
    head = f"HTTP/1.1 403 No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    report = await store.verified("s3compatible", **{"": head + body})
    assert failed(report) == [("upload", Fault.QUOTA_EXCEEDED)], report


@pytest.mark.parametrize("status", [403, 404])
async def test_who_issues_tokens_says_nothing_about_buckets(status: int) -> None:
    body = b'{"error":"something_new","error_description":"No"}'
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with answering(head + body) as issuer:
        report = await verified("gcs by service account", issuer.url, gcs_token_endpoint=issuer.url + "/token")
    assert failed(report) == [("upload", Fault.PROVIDER_ERROR)], report
    assert step(report, "upload").provider_code == "something_new"
