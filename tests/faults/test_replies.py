"""Each recorded refusal of each provider, over a real socket through the real SDK: what the customer is told."""

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.domain.faults import ADVICE, Fault
from app.domain.types.base import Spec
from app.domain.verification import UNKNOWN_LOCATION, Report, Step
from tests.faults import replies
from tests.faults.replies import ROWS, TABLES
from tests.faults.verifying import BODIES, KEY, WITHIN, failed, providers, spec_of, step
from tests.servers.odd import STORED, Odd, answering
from tests.types.base import REQUEST_ID, Row
from tests.types.every import STORAGES
from tests.types.gcs import TOKEN
from tests.types.s3 import LOCATED
from workers.deliver import Delivered, File, Memory, NotDelivered, deliver
from workers.source import open_source
from workers.storage import azure
from workers.storage.port import Provider
from workers.storage.refusals import FaultTable
from workers.verify import verify


@dataclass
class Stores:
    """One host for every provider, and one that issues Google's tokens, whose answers each test sets."""

    store: Odd
    issuer: Odd
    provider_for: Callable[[Spec], Awaitable[Provider]]

    async def verified(self, row: Row) -> Report:
        """The report where all goes well up to the step that `row` refuses."""
        storage, refused = STORAGES[row.on], "DELETE" if row.step is Step.DELETE else ""
        at_token = row.at == "token"
        self.issuer.replies = {"": row.answer if at_token else TOKEN}
        self.store.replies = {"": storage.stored, "DELETE": storage.deleted, "HEAD": LOCATED}
        if not at_token:
            self.store.replies[refused] = row.answer
        spec = spec_of(row.on, self.store.url)
        return await verify(await self.provider_for(spec), spec, KEY, timeout=WITHIN, job="job")


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Odd, Odd]]:
    """Both, as Azure's own would be: only there an AuthorizationFailure is a network rule's."""
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(azure, "_AZURE_HOSTS", ("127.0.0.1",))
        yield stack.enter_context(answering(b"")), stack.enter_context(answering(b""))


@pytest.fixture(scope="module")
async def stores(hosts: tuple[Odd, Odd]) -> AsyncIterator[Stores]:
    store, issuer = hosts
    async with providers(store.url, gcs_token_endpoint=issuer.url + "/token") as provider_for:
        yield Stores(store, issuer, provider_for)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_refusal_is_told_as_what_it_is(stores: Stores, row: Row) -> None:
    report = await stores.verified(row)
    assert failed(report)[0] == (row.step, row.fault), report
    assert report.code == row.fault
    assert report.parameter == spec_of(row.on, stores.store.url).parameter(ADVICE[row.fault].role)
    refused = step(report, row.step)
    assert refused.provider_code == (row.code or None)
    assert refused.status == row.status
    # Google's tokens come without one, and what a host of the customer's choice says is not repeated.
    nameless = STORAGES[row.on].repeats_nothing or row.at == "token"
    assert refused.request_id == (None if nameless else REQUEST_ID)
    assert row.told in report.message
    assert report.left_behind == (row.step is Step.DELETE)
    assert not report.left_behind or report.object in report.message
    if STORAGES[row.on].repeats_nothing:
        assert "eu-west-2" not in report.model_dump_json() and "identity-based" not in report.message


SIGNALS = [
    (name, table, signal)
    for name, table in TABLES.items()
    for signal in [*table.codes, *(pattern.pattern for pattern, _ in table.messages), *table.finer]
]


def without(table: FaultTable, signal: str) -> FaultTable:
    """`table` without one of its signals: a code, a pattern or a finer code."""
    return replace(
        table,
        codes={code: fault for code, fault in table.codes.items() if code != signal},
        messages=tuple((pattern, fault) for pattern, fault in table.messages if pattern.pattern != signal),
        finer={finer: fault for finer, fault in table.finer.items() if finer != signal},
    )


@pytest.mark.parametrize(("table", "signal"), [(table, signal) for _, table, signal in SIGNALS],
                         ids=[f"{name}-{signal}" for name, _, signal in SIGNALS])  # fmt: skip
def test_each_signal_has_a_row_that_would_notice_its_absence(table: FaultTable, signal: str) -> None:
    """Or one that says that the status means the same."""
    rows = [row for row in ROWS if row.table is table]
    lacking = without(table, signal)
    noticing = [row for row in rows if lacking.fault(row.reply, row.step) != row.fault]
    assert noticing or [row for row in rows if row.code == signal and row.by_status]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_says_whether_the_status_alone_would_be_the_same(row: Row) -> None:
    by_status = FaultTable({}).fault(row.reply, row.step)
    assert (by_status == row.fault) == row.by_status


def test_each_fault_is_reached_by_a_reply_by_a_host_or_without_any() -> None:
    by_reply, by_host, local = {row.fault for row in ROWS}, set(replies.HOSTS), set(replies.LOCAL)
    assert by_reply | by_host | local == set(Fault)
    assert not local & (by_reply | by_host)
    assert by_reply & by_host == {Fault.NOT_A_STORAGE_ENDPOINT}


@pytest.mark.parametrize("name", BODIES)
def test_every_way_to_store_has_the_faults_that_every_customer_meets(name: str) -> None:
    common = {
        Fault.ACCESS_KEY_UNKNOWN, Fault.SECRET_MISMATCH, Fault.BUCKET_NOT_FOUND, Fault.CLOCK_SKEW, Fault.WRITE_DENIED,
        Fault.DELETE_DENIED, Fault.DELETE_BLOCKED_BY_RETENTION, Fault.THROTTLED, Fault.PROVIDER_UNAVAILABLE,
        Fault.PROVIDER_ERROR,
    }  # fmt: skip
    assert common - replies.reached(name) == STORAGES[name].unreachable


@pytest.mark.parametrize("name", BODIES)
async def test_a_file_that_somebody_else_has_removed_need_not_be_deleted(stores: Stores, name: str) -> None:
    """A bucket's own rules may move files away as soon as they come."""
    reply = STORAGES[name].row(Fault.BUCKET_NOT_FOUND, *STORAGES[name].absent, step=Step.DELETE)
    report = await stores.verified(reply)
    assert report.ok, report
    assert step(report, "delete").reason == "there was nothing to delete"


PLANTED = (
    "<script>", "https://evil.example", "AKIAPLANTED", "planted", "sk_live_", "Elsewhere", "s3cr3t", "evil-region-1",
)  # fmt: skip


def hostile(status: int, code: str) -> bytes:
    """An answer with something in each place where a store's word might be taken."""
    body = (
        f"<Error><Code>{code}</Code><Message>&lt;script&gt;planted() https://evil.example sk_live_1 no identity-based "
        "policy allows</Message><Details>planted</Details><Region>evil-region-1</Region>"
        "<RequestId>AKIAPLANTED</RequestId><HostId>s3cr3t</HostId><Endpoint>https://evil.example</Endpoint><Bucket>planted</Bucket></Error>"
    ).encode()
    head = (
        f"HTTP/1.1 {status} Elsewhere <script>\r\nContent-Type: application/xml\r\nServer: planted\r\n"
        "x-amz-request-id: AKIAPLANTED\r\nx-guploader-uploadid: AKIAPLANTED\r\nx-amz-id-2: s3cr3t\r\n"
        "x-amz-bucket-region: evil-region-1\r\nLocation: https://evil.example/\r\n"
        f"x-amz-version-id: planted\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


CODES = {
    **dict.fromkeys(("AccessDenied", "AuthorizationHeaderMalformed", "PermanentRedirect", "Strange.Code_1"), True),
    **dict.fromkeys(("", "planted code", "https://evil.example/s3cr3t", "planted-dash", "&lt;script&gt;"), False),
    "sk_live_" + "7" * 80: False,
}
"""Codes, and whether each is well formed."""


@pytest.mark.parametrize("status", [200, 301, 307, 400, 401, 403, 404, 409, 500, 503])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_nothing_that_a_strangers_host_says_is_repeated_but_a_well_formed_code(
    stores: Stores, status: int, method: str
) -> None:
    spec = spec_of("s3compatible", stores.store.url)
    for code, well_formed in CODES.items():
        stores.store.replies = {"": STORED, method: hostile(status, code)}
        report = await verify(await stores.provider_for(spec), spec, KEY, timeout=WITHIN, job="job")
        assert not report.ok, report
        text = report.model_dump_json()
        assert not [word for word in PLANTED if word.lower() in text.lower()], text
        assert {each.provider_code for each in report.steps} <= ({None, code} if well_formed else {None})
        assert "key's user" not in report.message


async def test_a_key_that_comes_back_as_a_code_is_not_shown(stores: Stores) -> None:
    spec = spec_of("s3compatible", stores.store.url, s3_access_key_id="AKIAIOSFODNN7EXAMPLE")
    stores.store.replies = {"": hostile(403, "AKIAIOSFODNN7EXAMPLE")}
    report = await verify(await stores.provider_for(spec), spec, KEY, timeout=WITHIN, job="job")
    assert report.code == Fault.WRITE_DENIED
    assert "AKIAIOSFODNN7EXAMPLE" not in report.model_dump_json()


KEYED = {
    "a code": ("Denied.AKIAIOSFODNN7EXAMPLE", "7"),
    "a request id": ("AccessDenied", "Credential=AKIAIOSFODNN7EXAMPLE/20260131/us-east-1/s3/aws4_request"),
}


@pytest.mark.parametrize("place", KEYED)
async def test_a_key_that_comes_back_within_a_word_is_not_shown(
    stores: Stores, place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, request_id = KEYED[place]
    spec = spec_of("s3compatible", stores.store.url, s3_access_key_id="AKIAIOSFODNN7EXAMPLE")
    body = f"<Error><Code>{code}</Code></Error>"
    head = f"HTTP/1.1 403 No\r\nContent-Type: application/xml\r\nx-amz-request-id: {request_id}\r\n"
    stores.store.replies = {"": f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()}
    provider = await stores.provider_for(spec)
    report = await verify(provider, spec, KEY, timeout=WITHIN, job="job")
    assert (report.code, step(report, "upload").status) == (Fault.WRITE_DENIED, 403)
    undelivered = await delivered(provider, spec, tmp_path)
    assert isinstance(undelivered, NotDelivered) and undelivered.refusal and undelivered.refusal.status == 403
    assert "AKIAIOSFODNN7EXAMPLE" not in f"{report} {undelivered} {capfd.readouterr()}"


UNTELLING = {
    "too long": b"e" * 3000,
    "no UTF-8": b"\xff\xfe",
    "a credential": b"",
}


@pytest.mark.parametrize("said", UNTELLING)
@pytest.mark.parametrize("name", ["azure", "oss", "s3compatible"])
async def test_what_no_store_says_of_a_file_is_on_no_receipt(
    stores: Stores, name: str, said: str, tmp_path: Path
) -> None:
    """A database has no room for it, and would refuse what others are told with it."""
    spec = spec_of(name, stores.store.url)
    secret = max(spec.secrets().values(), key=len)
    word = UNTELLING[said] or secret.encode()
    head, _, body = STORAGES[name].stored.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"etag", b"x-"))]
    lines += [b"ETag: " + word]
    lines += [f"x-{each}-{of}-id: ".encode() + word for each in ("amz", "ms", "oss") for of in ("version", "request")]
    stores.store.replies = {"": b"\r\n".join(lines) + b"\r\n\r\n" + body}
    outcome = await delivered(await stores.provider_for(spec), spec, tmp_path)
    if isinstance(outcome, Delivered):
        receipt = outcome.uploaded
        shown = [each for each in (receipt.etag, receipt.version, receipt.request_id) if each]
        # What is no UTF-8 is read as Latin-1 by some SDKs.
        assert [each for each in shown if not each.isprintable() or secret in each or len(each) > 2] == []
    else:
        assert outcome.fault is Fault.NOT_A_STORAGE_ENDPOINT


async def delivered(provider: Provider, spec: Spec, folder: Path) -> Delivered | NotDelivered:
    (folder / "f").write_bytes(b"abc")
    file = File("k", "f", 3, hashlib.sha256(b"abc").hexdigest(), "text/plain")
    async with open_source(f"file://{folder}") as source:
        return await deliver(provider, spec, UNKNOWN_LOCATION, file, source, Memory(1024))


def test_a_pattern_is_for_codes_that_say_no_more_than_no() -> None:
    for table in TABLES.values():
        assert "" not in table.vague
        specific = {code for code in table.codes if re.search("NotFound|Key|Signature|Limit|Quota", code)}
        assert not specific & table.vague
