"""What waits for a thread of a pool that is busy keeps to its own time, and leaves nothing to be done later."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.verification import Report
from tests.faults.verifying import BOUND, KEY, WITHIN, failed, left_at_the_bound, providers, ready, spec_of
from tests.servers.odd import STORED, answering, gated
from tests.stack import eventually
from workers.egress import asynchronous
from workers.storage import oss
from workers.storage.port import Provider
from workers.verify import verify

Passes = Callable[[float], None]


async def verified(provider: Provider, spec: Spec, timeout: float = WITHIN) -> Report:
    return await verify(provider, spec, KEY, timeout=timeout, job="job")


@dataclass
class SlowNames:
    """A resolver that finds `slow.invalid` here, when it is told to; `asked` are the names of all look-ups, `wanted`
    those of which there is to be one."""

    wanted: list[str] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    slow, look_up = SlowNames(), socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        slow.asked.append(host)
        if host.endswith("slow.invalid."):
            slow.begun.set()
            assert slow.answered.wait(WITHIN)
            host = "127.0.0.1"
        return look_up(host, *arguments, **options)

    resolve = asynchronous._Resolver.resolve

    async def noted(resolver: Any, host: str, *arguments: Any, **options: Any) -> Any:
        slow.wanted.append(host)
        return await resolve(resolver, host, *arguments, **options)

    monkeypatch.setattr(asynchronous._Resolver, "resolve", noted)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield slow
    slow.answered.set()


async def test_a_name_that_waits_behind_a_slow_one_is_given_up_in_time(
    names: SlowNames, monkeypatch: pytest.MonkeyPatch, time_passes: Passes
) -> None:
    monkeypatch.setattr(asynchronous, "LOOKUP_THREADS", 1)
    with answering(STORED) as host:
        async with providers() as provider_for:
            urls = ("http://slow.invalid", "http://waiting.invalid", host.url.replace("127.0.0.1", "localhost"))
            first, second, local = (spec_of("s3compatible", url) for url in urls)
            provider, *_ = [await ready(provider_for, spec) for spec in (first, second, local)]
            slow = asyncio.create_task(verified(provider, first, BOUND))
            await eventually(names.begun.is_set, "the slow one has the thread")
            waiting = verified(provider, second, BOUND)
            reports = await left_at_the_bound([waiting], time_passes, lambda: "waiting.invalid" in names.wanted)
            for report in (*reports, await slow):
                assert failed(report) == [("resolve", Fault.TIMEOUT)], report
            names.answered.set()
            report = await verified(provider, local)
            assert report.ok, report
    assert "waiting.invalid." not in names.asked, "nobody waited for it any more"


async def test_a_name_that_is_slow_holds_one_thread_however_many_ask_for_it(
    names: SlowNames, monkeypatch: pytest.MonkeyPatch, time_passes: Passes
) -> None:
    monkeypatch.setattr(asynchronous, "LOOKUP_THREADS", 2)
    with answering(STORED) as host:
        async with providers() as provider_for:
            local = spec_of("s3compatible", host.url.replace("127.0.0.1", "localhost"))
            slow = spec_of("s3compatible", "http://slow.invalid")
            found = spec_of("s3compatible", f"http://slow.invalid:{host.url.rpartition(':')[2]}")
            provider, *_ = [await ready(provider_for, spec) for spec in (slow, local, found)]
            # The last of these comes when nobody waits any more, and the look-up still does.
            for number in (5, 1):
                names.wanted.clear()
                asking = [verified(provider, slow, BOUND) for _ in range(number)]
                reports = await left_at_the_bound(asking, time_passes, lambda n=number: len(names.wanted) == n)
                assert [failed(report) for report in reports] == [[("resolve", Fault.TIMEOUT)]] * number
                assert (await verified(provider, local)).ok, "the other thread is free"
            assert names.asked.count("slow.invalid.") == 1
            names.answered.set()
            assert (await verified(provider, found)).ok


async def test_a_call_that_waits_behind_a_silent_host_is_given_up_in_time_and_never_made(
    monkeypatch: pytest.MonkeyPatch, time_passes: Passes
) -> None:
    monkeypatch.setattr(oss, "THREADS", 1)
    spec = spec_of("oss")
    with gated(STORED) as host:
        async with providers(host.url, verify_seconds=BOUND) as provider_for:
            provider: Any = await provider_for(spec)
            silent = asyncio.create_task(verified(provider, spec, BOUND))
            await eventually(lambda: host.requests, "the host is called")
            (waiting,) = await left_at_the_bound(
                [verified(provider, spec, BOUND)], time_passes, lambda: provider._threads._work_queue.qsize() == 1
            )
            assert failed(waiting) == [("connect", Fault.TIMEOUT)], waiting
            assert not waiting.left_behind
            assert failed(await silent)[0] == ("upload", Fault.TIMEOUT)
            assert len(host.requests) == 1
            host.gate.set()
            assert (await verified(await provider_for(spec), spec)).ok
    assert [request.partition(b" ")[0] for request in host.requests] == [b"PUT", b"PUT", b"DELETE"]


async def test_a_call_that_was_given_up_while_its_name_was_looked_up_uploads_nothing(
    names: SlowNames, monkeypatch: pytest.MonkeyPatch, time_passes: Passes
) -> None:
    """The report has said by then that nothing was uploaded."""
    monkeypatch.setattr(oss, "THREADS", 1)
    spec = spec_of("oss")
    with answering(STORED) as host:
        async with providers(oss_endpoint=host.url.replace("127.0.0.1", "slow.invalid")) as provider_for:
            calling = verified(await provider_for(spec), spec, BOUND)
            (given_up,) = await left_at_the_bound([calling], time_passes, names.begun.is_set)
            # No customer can have mistyped a name so that nobody says whether it is there.
            assert failed(given_up) == [("resolve", Fault.EGRESS_UNAVAILABLE)], given_up
            assert not given_up.left_behind
            names.answered.set()
            assert (await verified(await provider_for(spec), spec)).ok, "the one thread is free again"
    assert [request.partition(b" ")[0] for request in host.requests] == [b"PUT", b"DELETE"]


async def test_an_upload_that_is_not_answered_on_an_open_connection_is_told_as_left_behind(time_passes: Passes) -> None:
    spec = spec_of("oss")
    with answering(STORED) as host:
        async with providers(host.url, verify_seconds=BOUND) as provider_for:
            assert (await verified(await provider_for(spec), spec)).ok
            host.replies["PUT"] = b""
            host.requests.clear()
            uploading = verified(await provider_for(spec), spec, BOUND)
            (report,) = await left_at_the_bound([uploading], time_passes, lambda: host.requests)
    assert failed(report)[0] == ("upload", Fault.TIMEOUT), report
    assert [step.outcome for step in report.steps][:3] == ["skipped"] * 3
