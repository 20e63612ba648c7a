"""A key that was made a minute ago: its refusal is tried again where that can help, and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.verification import Report
from tests.faults.test_steps import denied
from tests.faults.verifying import BODIES, BOUND, KEY, WITHIN, failed, providers, spec_of
from tests.servers.odd import Odd, answering
from tests.stack import eventually
from tests.types.every import STORAGES
from tests.types.gcs import TOKEN
from tests.types.s3 import LOCATED, PUT
from workers import verify as verifying
from workers.storage.port import Provider
from workers.verify import Patience, verify

SLOW = {"s3", "gcs", "gcs by service account", "oss"}
EVERY = pytest.mark.parametrize("name", BODIES)


def refusal(name: str, fault: Fault) -> bytes:
    """A recorded reply of the provider's, at the upload."""
    rows = STORAGES[name].rows
    return next(row.answer for row in rows if row.fault is fault and row.step == "upload" and row.at != "token")


@dataclass
class Place:
    """A host that refuses the first uploads as `refused`, and a customer whose key is new or is not."""

    host: Odd
    issuer: Odd
    provider_for: Callable[[Spec], Awaitable[Provider]]
    asked: list[None] = field(default_factory=list)

    async def verified(
        self, name: str, refused: bytes, times: int, new: bool = True, seconds: float = WITHIN, **replies: bytes
    ) -> Report:
        storage = STORAGES[name]
        self.host.requests.clear()
        self.asked.clear()
        self.host.replies = {"": storage.stored, "DELETE": storage.deleted, "HEAD": LOCATED, **replies}
        self.host.firsts = [refused] * times

        async def is_new() -> bool:
            self.asked.append(None)
            return new

        spec = spec_of(name, self.host.url)
        patience = Patience(seconds, is_new)
        return await verify(await self.provider_for(spec), spec, KEY, timeout=BOUND, job="job", patience=patience)

    @property
    def uploads(self) -> int:
        return sum(request.split(b" ")[0] in (b"PUT", b"POST") for request in self.host.requests)


@pytest.fixture(scope="module")
async def _place() -> AsyncIterator[Place]:
    with answering(b"") as host, answering(TOKEN) as issuer:
        async with providers(host.url, gcs_token_endpoint=issuer.url + "/token") as provider_for:
            yield Place(host, issuer, provider_for)


@pytest.fixture
def place(_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(verifying, "_PAUSES", (0.02, 0.05))
    return _place


@EVERY
async def test_a_right_that_comes_late_is_waited_for_where_it_may(place: Place, name: str) -> None:
    report = await place.verified(name, refusal(name, Fault.WRITE_DENIED), 3)
    if name in SLOW:
        assert report.ok and report.attempts == 4, report
        assert place.uploads == 4 and len(place.asked) == 1
        assert report.as_answer()["attempts"] == 4
    else:
        assert report.code == Fault.WRITE_DENIED and place.uploads == 1
        assert not place.asked and "attempts" not in report.as_answer()


@pytest.mark.parametrize("name", ["s3", "gcs", "oss"])
async def test_a_key_that_is_not_known_yet_is_waited_for(place: Place, name: str) -> None:
    report = await place.verified(name, refusal(name, Fault.ACCESS_KEY_UNKNOWN), 1)
    assert report.ok and report.attempts == 2, report


@pytest.mark.parametrize("name", sorted(SLOW))
async def test_what_time_does_not_mend_is_told_at_once(place: Place, name: str) -> None:
    for fault in (Fault.SECRET_MISMATCH, Fault.BUCKET_NOT_FOUND, Fault.CLOCK_SKEW, Fault.PROVIDER_ERROR):
        if refused := [row.answer for row in STORAGES[name].rows if row.fault is fault and not row.at]:
            report = await place.verified(name, refused[0], 9)
            assert report.code == fault and report.attempts is None, report
            assert place.uploads == 1 and not place.asked
    report = await place.verified(name, refusal(name, Fault.WRITE_DENIED), 9, new=False)
    assert report.code == Fault.WRITE_DENIED and place.uploads == 1, "the key is not new"
    # What was stored and may not be deleted would only be stored again.
    report = await place.verified(name, b"", 0, DELETE=denied(name))
    assert report.code == Fault.DELETE_DENIED and place.uploads == 1


async def test_what_a_policy_denies_by_name_is_told_at_once(place: Place) -> None:
    rows = [row for row in STORAGES["s3"].rows if row.step == "upload" and "explicit deny" in row.message]
    assert len(rows) == 4 and all(row.message.startswith(PUT) for row in rows)
    for row in rows:
        report = await place.verified("s3", row.answer, 9)
        assert report.code == Fault.WRITE_DENIED and place.uploads == 1, report


async def test_it_is_waited_for_no_longer_than_was_said(place: Place, time_passes: Callable[[float], None]) -> None:
    waiting = asyncio.create_task(place.verified("s3", refusal("s3", Fault.WRITE_DENIED), 10_000, seconds=WITHIN))
    await eventually(lambda: place.uploads > 3, "it is tried again and again")
    assert not waiting.done()
    time_passes(WITHIN)
    async with asyncio.timeout(WITHIN):
        report = await waiting
    assert failed(report) == [("upload", Fault.WRITE_DENIED)]
    assert report.attempts and report.attempts > 3 and f"tried {report.attempts} times" in report.message
    report = await place.verified("s3", refusal("s3", Fault.WRITE_DENIED), 99, seconds=0)
    assert place.uploads == 1 and "tried" not in report.message


@pytest.mark.parametrize(
    ("endpoint", "slow"),
    [
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://results.s3.eusc-de-east-1.amazonaws.eu", True),
        ("https://storage.googleapis.com", True),
        ("https://s3.oss-cn-hangzhou.aliyuncs.com", True),
        ("https://amazonaws.com.example.com", False),
        ("https://minio.example.com", False),
    ],
)
def test_a_compatible_service_is_one_of_them_by_its_host(endpoint: str, slow: bool) -> None:
    assert spec_of("s3compatible", s3_endpoint=endpoint, s3_bucket_name="results").has_slow_keys() == slow


async def test_a_service_account_that_is_not_known_yet_is_waited_for(place: Place) -> None:
    rows = STORAGES["gcs by service account"].rows
    unknown = next(row.answer for row in rows if row.at == "token" and row.fault is Fault.ACCESS_KEY_UNKNOWN)
    place.issuer.firsts = [unknown] * 2
    report = await place.verified("gcs by service account", b"", 0)
    assert report.ok and report.attempts == 3, report
    assert place.uploads == 1 and report.host == place.host.url.removeprefix("http://")
