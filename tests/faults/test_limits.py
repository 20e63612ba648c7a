"""The limits of what is read of an answer: what just keeps one is taken, and what is just over it is refused."""

import gzip
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from app.domain.faults import Fault
from app.domain.verification import Report
from tests.faults.test_steps import Store, storing
from tests.faults.verifying import BODIES, failed, step
from tests.types.every import STORAGES
from workers.egress.guard import ANSWER_LIMIT

EVERY = pytest.mark.parametrize("name", BODIES)
CODE = "AccessDenied"
REFUSAL = f"<Error><Code>{CODE}</Code><Message>No.</Message></Error>".encode()


@pytest.fixture(scope="module")
async def store() -> AsyncIterator[Store]:
    async with storing() as running:
        yield running


def reply(status: int, body: bytes, **headers: str) -> bytes:
    """One whole answer; a header is written with _ for -."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


# Each is an answer that is longer by `more` bytes in one part of it, and says the same.
def in_the_body(head: bytes, body: bytes, more: int) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % (len(body) + more) + body + b" " * more


def in_a_chunk(head: bytes, body: bytes, more: int) -> bytes:
    return _chunked(head, body) + b"%05x\r\n" % more + b" " * more + b"\r\n0\r\n\r\n"


def in_what_stands_beside_chunks(head: bytes, body: bytes, more: int) -> bytes:
    return _chunked(head, body) + b"".join(b"1;" + line + b"\r\n \r\n" for line in _lines(more)) + b"0\r\n\r\n"


def in_the_trailers(head: bytes, body: bytes, more: int) -> bytes:
    return _chunked(head, body) + b"0\r\n" + _fields(more) + b"\r\n"


def in_the_headers(head: bytes, body: bytes, more: int) -> bytes:
    return in_the_body(head + _fields(more), body, 0)


def in_answers_on_the_way(head: bytes, body: bytes, more: int) -> bytes:
    on_the_way = b"".join(b"HTTP/1.1 100 Continue\r\nX-A: " + line + b"\r\n\r\n" for line in _lines(more))
    return on_the_way + in_the_body(head, body, 0)


PARTS = [
    in_the_body, in_a_chunk, in_what_stands_beside_chunks, in_the_trailers, in_the_headers, in_answers_on_the_way,
]  # fmt: skip


def _chunked(head: bytes, body: bytes) -> bytes:
    return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n"


def _fields(more: int) -> bytes:
    return b"".join(b"X-A: " + line + b"\r\n" for line in _lines(more))


def _lines(more: int) -> list[bytes]:
    """Lines of `more` bytes in all, none of them so long that a parser would refuse it for that."""
    return [b"x" * 6000] * (more // 6000) + [b"x" * (more % 6000)]


def long(stored: bytes, part: Callable[[bytes, bytes, int], bytes], size: int) -> bytes:
    """The answer `stored`, `size` bytes long by one part of it. What has no body gets one that is XML."""
    head, _, body = stored.partition(b"\r\n\r\n")
    head += b"" if body else b"\r\nContent-Type: application/xml"
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    make = partial(part, b"\r\n".join([*lines, b""]), body or b"<a/>")
    return next(said for more in range(size - len(make(0)), 0, -1) if len(said := make(more)) == size)


@EVERY
@pytest.mark.parametrize("part", PARTS)
async def test_an_answer_is_read_up_to_its_limit_and_no_byte_further(
    store: Store, name: str, part: Callable[[bytes, bytes, int], bytes]
) -> None:
    at, over = (long(STORAGES[name].stored, part, ANSWER_LIMIT + more) for more in (0, 1))
    assert (len(at), len(over)) == (ANSWER_LIMIT, ANSWER_LIMIT + 1)
    report = await store.verified(name, **{"": at})
    assert report.ok, report
    report = await store.verified(name, **{"": over})
    assert failed(report) == [("upload", Fault.NOT_A_STORAGE_ENDPOINT)], report


PACKED = {
    "gzip": (gzip.compress, {"Content_Encoding": "gzip"}),
    "deflate": (zlib.compress, {"Content_Encoding": "deflate"}),
    "gzip as a charset": (zlib.compress, {"Content_Type": "text/plain; charset=zlib"}),
}


def told(report: Report) -> str | None:
    """The code of the store's that the refused upload is told with."""
    assert not report.ok and report.code != Fault.INTERNAL_ERROR, report
    return step(report, "upload").provider_code


@EVERY
@pytest.mark.parametrize("packing", PACKED)
async def test_nothing_is_unpacked(store: Store, name: str, packing: str) -> None:
    """Neither what would be twice the limit then, nor what would be far below it: nobody asked for either."""
    pack, headers = PACKED[packing]
    for body in (REFUSAL, REFUSAL.ljust(2 * ANSWER_LIMIT)):
        assert told(await store.verified(name, **{"": reply(403, pack(body), **headers)})) is None
    # Google's other interface speaks JSON.
    plain = await store.verified(name, **{"": reply(403, REFUSAL, Content_Type="application/xml", x_ms_request_id="1")})
    assert told(plain) == (None if name == "gcs by service account" else CODE)


DECLARING = {
    "an entity": f'<!DOCTYPE e [<!ENTITY a "{CODE}">]><Error><Code>&a;</Code></Error>',
    "an attribute's default": f'<!DOCTYPE e [<!ATTLIST Error a "b">]><Error><Code>{CODE}</Code></Error>',
}


@EVERY
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("declared", DECLARING)
async def test_what_declares_one_thing_that_may_stand_for_many_is_not_parsed(
    store: Store, name: str, declared: str, encoding: str
) -> None:
    body = DECLARING[declared].encode(encoding)
    report = await store.verified(name, **{"": reply(403, body, Content_Type="application/xml")})
    assert failed(report)[0] == ("upload", Fault.NOT_A_STORAGE_ENDPOINT), report
    assert told(report) is None


NESTED = sys.getrecursionlimit() + 1
JSON = {"Content_Type": "application/json"}
# What Python, or a parser, is just not content with: one level more, one digit more.
JUST_OVER = {
    "nested XML": reply(403, b"<a>" * NESTED + b"</a>" * NESTED, Content_Type="application/xml"),
    "nested XML in a code": reply(403, b"<Error><Code>" + b"<a>" * NESTED + b"</a>" * NESTED + b"</Code></Error>"),
    "nested JSON": reply(200, b"[" * NESTED + b"]" * NESTED, **JSON),
    "nested JSON in an error": reply(403, b'{"error":' + b"[" * NESTED + b"]" * NESTED + b"}", **JSON),
    "a long number": reply(200, b'{"etag":' + b"1" * (sys.get_int_max_str_digits() + 1) + b"}", **JSON),
}


@EVERY
@pytest.mark.parametrize("answer", JUST_OVER)
async def test_what_a_parser_is_not_content_with_is_no_error_of_ours(store: Store, name: str, answer: str) -> None:
    report = await store.verified(name, **{"": JUST_OVER[answer]})
    assert told(report) is None
    assert report.code in (Fault.NOT_A_STORAGE_ENDPOINT, Fault.WRITE_DENIED), report
