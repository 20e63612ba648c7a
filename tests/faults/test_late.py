"""A delete that is still owed when the time is over: tried once more behind the verdict, and its outcome logged."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.domain.errors import Fault
from app.domain.verification import Report
from tests.faults.verifying import KEY, WITHIN, failed, providers, spec_of
from tests.servers.odd import Odd, answering, gated
from workers import late
from workers.late import LateDeletes
from workers.verify import verify

LOCATED = b"HTTP/1.1 403 No\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n"
TOKEN = b'{"access_token": "t", "expires_in": 3600}'
DELETED = {"azure": b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"}
GONE = b"HTTP/1.1 204 No Content\r\n\r\n"
REFUSED = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
STORES = ["s3", "s3compatible", "gcs", "azure", "oss", "gcs by service account"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late delete waits for a tenth of a second, and has one and a half in all."""
    monkeypatch.setattr(late, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(late, "LATE_SECONDS", 1.5)


@contextlib.asynccontextmanager
async def reported(name: str, host: Odd, owed: LateDeletes, **changes: Any) -> AsyncIterator[Report]:
    """The report on one verification; the providers live as long as the block and the deletes that are owed."""
    token = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(TOKEN), TOKEN)
    with answering(token) as issuer:
        async with providers(host.url, gcs_token_endpoint=issuer.url) as provider_for:
            spec = spec_of(name, host.url, **changes)
            yield await verify(provider_for(spec), spec, KEY, within=WITHIN, job="a-job", late=owed)
            await owed.close()


def deletes(host: Odd) -> list[bytes]:
    return [request for request in host.requests if request.startswith(b"DELETE")]


@pytest.mark.parametrize("name", STORES)
async def test_a_store_that_stalls_is_asked_once_more_after_the_verdict(name: str) -> None:
    owed = LateDeletes()
    with gated(DELETED.get(name, GONE), HEAD=LOCATED) as host, capture_logs() as logs:
        async with reported(name, host, owed) as report:
            assert report.duration_ms < (WITHIN + 1) * 1000
            assert failed(report) == [("upload", Fault.TIMEOUT), ("delete", Fault.TIMEOUT)]
            assert report.left_behind
            assert f"The test file {KEY} may have been left behind" in report.message
            assert "a-job" in owed
            assert len(deletes(host)) == 1
            host.gate.set()
        assert len(deletes(host)) == 2
    (line,) = logs
    assert line["event"] == "test file removed late"
    about = {"type": "gcs" if "gcs" in name else name, "object": KEY, "job": "a-job", "host": report.host}
    assert {name: line[name] for name in about} == about
    assert "a-job" not in owed


@pytest.mark.parametrize("name", STORES)
async def test_one_that_goes_on_stalling_is_not_asked_again(name: str) -> None:
    owed = LateDeletes()
    with gated(GONE, HEAD=LOCATED) as host, capture_logs() as logs:
        async with reported(name, host, owed) as report:
            told = time.monotonic()
        assert report.duration_ms < (WITHIN + 1) * 1000
        assert time.monotonic() - told < late.LATE_SECONDS + 1
        assert len(deletes(host)) == 2
    (line,) = logs
    assert (line["event"], line["log_level"], line["code"]) == ("test file left behind", "warning", Fault.TIMEOUT)
    assert (line["object"], line["job"]) == (KEY, "a-job")


@pytest.mark.parametrize(
    ("answer", "tries", "events"),
    [
        (BROKEN, 2, ["test file left behind"]),
        (REFUSED, 1, []),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 1, []),
    ],
)
async def test_only_what_may_still_succeed_is_tried_again(answer: bytes, tries: int, events: list[str]) -> None:
    owed = LateDeletes()
    with answering(BROKEN, DELETE=answer) as host, capture_logs() as logs:
        async with reported("s3compatible", host, owed) as report:
            assert ("a-job" in owed) == bool(events)
        assert len(deletes(host)) == tries
    assert [line["event"] for line in logs] == events
    assert report.left_behind == (b"404" not in answer)


async def test_each_late_delete_is_signed_by_its_own_keys() -> None:
    """One client serves all: what goes on behind the verdicts must not take the keys of who comes next."""
    keys = {f"key{n}": f"in/dropoff-verify-{n}.txt" for n in range(8)}
    owed = LateDeletes()
    with gated(GONE) as host, capture_logs() as logs:
        async with providers() as provider_for:
            specs = {key: spec_of("s3compatible", host.url, s3_access_key_id=key) for key in keys}
            await asyncio.gather(
                *(
                    verify(provider_for(spec), spec, keys[key], within=WITHIN, job=key, late=owed)
                    for key, spec in specs.items()
                )
            )
            host.gate.set()
            await owed.close()
        late_ones = deletes(host)[len(keys) :]
    assert len(late_ones) == len(logs) == len(keys)
    for request in late_ones:
        key = request.partition(b"Credential=")[2].partition(b"/")[0].decode()
        assert keys.pop(key).encode() in request.partition(b" HTTP/")[0]
    assert not keys


async def test_there_is_a_limit_to_those_that_are_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "AT_ONCE", 3)
    owed = LateDeletes()
    tried: list[int] = []

    async def remove(number: int) -> None:
        tried.append(number)
        await asyncio.sleep(60)

    with capture_logs():
        for number in range(5):
            owed.owe(f"job{number}", lambda number=number: remove(number), object="o")  # type: ignore[misc]
        assert [f"job{number}" in owed for number in range(5)] == [True, True, True, False, False]
        began = time.monotonic()
        await owed.close()
    assert time.monotonic() - began < late.LATE_SECONDS + 1, "no job is waited for longer than it may take"
    assert tried == [0, 1, 2]
    assert "job0" not in owed


async def test_a_mistake_of_ours_is_logged() -> None:
    owed = LateDeletes()

    async def remove() -> None:
        raise RuntimeError("a mistake")

    with capture_logs() as logs:
        owed.owe("a-job", remove, object="o")
        await owed.close()
    (line,) = logs
    assert (line["event"], line["log_level"], line["object"]) == ("test file left behind", "error", "o")
