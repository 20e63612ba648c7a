"""What a report says of its steps: each once and in order, how long it took, why it was skipped, what was left."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.verification import Outcome, Report, Step
from tests.faults.verifying import BODIES, KEY, SHORT, WITHIN, failed, providers, spec_of, step, verified
from tests.servers.odd import Odd, answering, dead_url, html, redirecting, silent
from tests.types.every import STORAGES
from tests.types.gcs import TOKEN
from tests.types.s3 import LOCATED
from workers.egress.guard import Guard
from workers.storage.port import Provider
from workers.verify import verify

EVERY = pytest.mark.parametrize("name", BODIES)
VERSIONED = pytest.mark.parametrize("name", [name for name, storage in STORAGES.items() if storage.version])
REUSED = "an open connection was used again"
BROKEN = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


class Store:
    """A store of every kind where all goes well, but for what a test says otherwise."""

    def __init__(self, host: Odd, provider_for: Callable[[Spec], Awaitable[Provider]]) -> None:
        self.host = host
        self._provider_for = provider_for

    async def verified(self, name: str, timeout: float = WITHIN, lenient: bool = False, **replies: bytes) -> Report:
        storage = STORAGES[name]
        self.host.replies = {"": storage.stored, "HEAD": LOCATED, "DELETE": storage.deleted, **replies}
        spec = storage.spec(self.host.url)
        return await verify(await self._provider_for(spec), spec, KEY, timeout=timeout, job="job", lenient=lenient)

    @property
    def deletes(self) -> list[str]:
        """The first line of each DELETE."""
        lines = [request.partition(b"\r\n")[0].decode() for request in self.host.requests]
        return [line for line in lines if line.startswith("DELETE ")]


@contextlib.asynccontextmanager
async def storing() -> AsyncIterator[Store]:
    with answering(b"") as host, answering(TOKEN) as issuer:
        async with providers(host.url, gcs_token_endpoint=issuer.url + "/token") as provider_for:
            yield Store(host, provider_for)


@pytest.fixture(scope="module")
async def _store() -> AsyncIterator[Store]:
    async with storing() as running:
        yield running


@pytest.fixture
def store(_store: Store) -> Store:
    """One that other tests have used: regions are known, and connections may be open."""
    _store.host.requests.clear()
    return _store


@pytest.fixture
async def fresh() -> AsyncIterator[Store]:
    """One that nobody has used."""
    async with storing() as running:
        yield running


def accounts_for_each_step(report: Report) -> None:
    assert [each.step for each in report.steps] == list(Step), report
    for each in report.steps:
        assert (each.outcome is Outcome.FAILED) == (each.code is not None)
        assert (each.outcome is Outcome.SKIPPED) == (each.ms is None)
        assert each.reason or each.outcome is not Outcome.SKIPPED
        assert each.ms is None or each.ms >= 0
    # Nothing is counted twice; each is rounded by itself.
    assert sum(each.ms or 0 for each in report.steps) <= report.duration_ms + len(Step)
    assert report.ok == (not failed(report))
    assert report.code == (failed(report)[0][1] if failed(report) else None)


@EVERY
async def test_a_report_accounts_for_each_step_once_and_in_order_however_it_ended(name: str, store: Store) -> None:
    accounts_for_each_step(await store.verified(name))
    accounts_for_each_step(await store.verified(name, DELETE=BROKEN))
    accounts_for_each_step(await store.verified(name, **{"": BROKEN}))
    accounts_for_each_step(await store.verified(name, **{"": BROKEN, "DELETE": BROKEN}))
    accounts_for_each_step(await store.verified(name, timeout=0.001))


@pytest.mark.parametrize("place", ["elsewhere", "website", "silent", "dead", "nowhere", "forbidden"])
async def test_a_report_accounts_for_each_step_whatever_the_host_is(place: str) -> None:
    with redirecting("http://127.0.0.1:1/") as elsewhere, html() as website, silent() as mute:
        urls = {"elsewhere": elsewhere.url, "silent": mute.url, "dead": dead_url(), "nowhere": "http://storage.invalid"}
        url = urls.get(place, website.url)
        async with providers(url, **({"egress_allow": ()} if place == "forbidden" else {})) as provider_for:
            specs, within = [spec_of(name, url) for name in BODIES], SHORT if place == "silent" else WITHIN
            reports = await asyncio.gather(
                *[verify(await provider_for(spec), spec, KEY, timeout=within, job="job") for spec in specs]
            )
    for report in reports:
        assert not report.ok
        accounts_for_each_step(report)


@EVERY
async def test_each_step_has_its_own_time(name: str, fresh: Store) -> None:
    fresh.host.pauses = {"HEAD ": 0.2, "PUT ": 0.3, "POST ": 0.3, "DELETE ": 0.1}
    report = await fresh.verified(name)
    accounts_for_each_step(report)
    assert report.ok, report
    took = {each.step: each.ms for each in report.steps}
    assert (took["locate"] or 0) >= 200 if STORAGES[name].locates else took["locate"] is None
    assert (took["upload"] or 0) >= 300, took
    assert (took["delete"] or 0) >= 100, took


@EVERY
async def test_the_time_that_a_connection_takes_is_counted_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Guard.socket

    def slowly(self: Guard, info: tuple[Any, ...]) -> socket.socket:
        time.sleep(0.2)
        return make(self, info)

    monkeypatch.setattr(Guard, "socket", slowly)
    async with storing() as store:
        report = await store.verified(name)
    accounts_for_each_step(report)
    assert (step(report, STORAGES[name].contacts).ms or 0) >= 200, report


@EVERY
async def test_a_connection_that_is_used_again_is_told_as_such(name: str, fresh: Store) -> None:
    first, second = await fresh.verified(name), await fresh.verified(name)
    # What locates has made its first connection for that.
    locates = STORAGES[name].locates
    assert step(first, "connect").outcome == (Outcome.SKIPPED if locates else Outcome.PASSED), first
    for report in (second, first) if locates else (second,):
        for each in ("resolve", "connect"):
            assert (step(report, each).outcome, step(report, each).reason) == (Outcome.SKIPPED, REUSED)
    accounts_for_each_step(second)


@EVERY
async def test_what_goes_wrong_on_a_connection_that_is_used_again_is_the_uploads(name: str, fresh: Store) -> None:
    """A request has left there, so that the file may have been stored."""
    assert (await fresh.verified(name)).ok
    report = await fresh.verified(name, **{"": b"SSH-2.0-OpenSSH_9.6\r\n"})
    assert failed(report) == [("upload", Fault.CONNECTION_FAILED)], report
    assert step(report, "delete").outcome is Outcome.PASSED


@EVERY
async def test_what_was_not_tried_is_skipped_with_its_reason(name: str, store: Store) -> None:
    refused = await store.verified(name, **{"": STORAGES[name].row(Fault.WRITE_DENIED, 403, "AccessDenied").answer})
    assert step(refused, "delete").reason == "nothing was uploaded"
    if not STORAGES[name].locates:
        assert step(refused, "locate").reason == "the place is known without asking"
    dead = await verified(name, dead_url())
    reasons = {each.step: each.reason for each in dead.steps if each.outcome is Outcome.SKIPPED}
    if STORAGES[name].locates:
        after = ("resolve", "connect", "upload", "delete", "multipart")
        assert reasons == dict.fromkeys(after, "the bucket was not located")
    else:
        assert (reasons["upload"], reasons["delete"]) == ("there was no connection", "nothing was uploaded")


@EVERY
async def test_whatever_keeps_the_file_from_being_deleted_it_is_named(name: str, store: Store) -> None:
    report = await store.verified(name, DELETE=BROKEN)
    assert failed(report) == [("delete", Fault.PROVIDER_UNAVAILABLE)]
    assert report.left_behind
    assert f"{KEY} may have been left behind" in report.message
    assert step(report, "upload").outcome is Outcome.PASSED


def versioned(name: str) -> bytes:
    """The answer to an upload into a bucket that keeps versions."""
    headers = b"x-amz-version-id: v1\r\nx-oss-version-id: v1\r\nx-ms-version-id: v1\r\n"
    return STORAGES[name].stored.replace(b"\r\n", b"\r\n" + headers, 1)


def denied(name: str) -> bytes:
    """The answer to a delete that the key may not do."""
    return STORAGES[name].row(Fault.DELETE_DENIED, 403, *STORAGES[name].delete_denied).answer


@VERSIONED
async def test_the_version_that_was_written_is_deleted_and_nothing_else(name: str, store: Store) -> None:
    report = await store.verified(name, **{"": versioned(name)})
    assert report.ok and report.warnings == (), report
    assert tuple(STORAGES[name].version in line for line in store.deletes) == STORAGES[name].deletes


@VERSIONED
async def test_a_key_that_may_not_delete_versions_is_a_warning(name: str, store: Store) -> None:
    report = await store.verified(name, **{"": versioned(name), STORAGES[name].version: denied(name)})
    assert report.ok and not report.left_behind, report
    assert step(report, "delete").outcome is Outcome.PASSED
    (warning,) = report.warnings
    assert KEY in warning and "a version of it remains" in warning
    assert STORAGES[name].version not in store.deletes[-1]


@EVERY
async def test_a_key_that_may_not_delete_at_all_is_a_refusal(name: str, store: Store) -> None:
    report = await store.verified(name, **{"": versioned(name), "DELETE": denied(name)})
    assert failed(report) == [("delete", Fault.DELETE_DENIED)]
    assert report.left_behind and KEY in report.message
    assert report.warnings == ()


@VERSIONED
async def test_a_version_that_is_retained_is_a_refusal_and_is_not_hidden(name: str, store: Store) -> None:
    kept = STORAGES[name].row(Fault.DELETE_BLOCKED_BY_RETENTION, 403, *STORAGES[name].retained).answer
    report = await store.verified(name, **{"": versioned(name), STORAGES[name].version: kept})
    assert failed(report) == [("delete", Fault.DELETE_BLOCKED_BY_RETENTION)], report
    assert report.left_behind and KEY in report.message
    assert STORAGES[name].version in store.deletes[-1]
