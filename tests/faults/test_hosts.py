"""Hosts that misbehave, with each way to store: the right fault, in time, and nothing followed or left running."""

import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest

from app.domain.faults import Fault
from app.domain.types.base import HostTyped, Spec
from app.domain.verification import Step
from demo.seaweedfs import SeaweedFS
from tests.faults.verifying import (
    BODIES,
    BOUND,
    KEY,
    SHORT,
    WITHIN,
    at_once,
    failed,
    left_at_the_bound,
    providers,
    ready,
    spec_of,
    step,
    unreached,
    verified,
)  # fmt: skip
from tests.servers.gcs import GcsServer
from tests.servers.odd import FOREVER_SECONDS, Odd, answering, dead_url, dripping, html, redirecting, silent
from tests.stack import until
from tests.types.every import STORAGES
from tests.types.gcs import TOKEN
from workers.storage.port import Provider
from workers.verify import verify

EVERY = pytest.mark.parametrize("name", BODIES)


@EVERY
async def test_what_may_not_be_called_is_not_called(name: str) -> None:
    with html() as host:
        report = await verified(name, host.url, egress_allow=())
    assert report.code == Fault.ENDPOINT_NOT_ALLOWED
    assert failed(report) == [(STORAGES[name].contacts, Fault.ENDPOINT_NOT_ALLOWED)]
    assert host.connections == 0
    assert not report.left_behind


@pytest.mark.parametrize("address", ["localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"])
async def test_loopback_is_recognised_however_it_is_spelled(address: str) -> None:
    """What the parameter's own rules would refuse already is given past them: the guard must not need them."""
    with html() as host:
        port = host.url.rpartition(":")[2]
        spec = spec_of("s3compatible", host.url).model_copy(update={"s3_endpoint": f"http://{address}:{port}"})
        async with providers(egress_allow=()) as provider_for:
            report = await verify(await provider_for(spec), spec, "k", timeout=WITHIN, job="job")
    assert report.code in (Fault.ENDPOINT_NOT_ALLOWED, Fault.HOST_NOT_FOUND)
    assert host.connections == 0


@EVERY
async def test_a_redirect_is_not_followed(name: str) -> None:
    with html() as target, redirecting(target.url + "/elsewhere") as host:
        report = await verified(name, host.url)
    assert report.code == Fault.REDIRECT_REFUSED, report
    assert target.connections == 0
    # S3 names a bucket's region in a redirect's header: without one it is taken for us-east-1.
    assert len(host.requests) == (2 if STORAGES[name].locates else 1)


REFUSAL = b"HTTP/1.1 403 Said\r\n"
# Hosts that hold the line: whether over TLS, and who stands there.
STALLS: dict[str, tuple[bool, Callable[[], AbstractContextManager[Odd]]]] = {
    "says nothing, not even Continue": (False, silent),
    "a header byte by byte": (False, partial(dripping, REFUSAL + b"X-A: ", b"x")),
    "a body byte by byte": (False, partial(dripping, REFUSAL + b"Content-Length: 100\r\n\r\n", b"x")),
    "Continue again and again": (False, partial(dripping, b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
    "TLS never begun": (True, silent),
    "TLS never finished": (True, partial(dripping, b"\x16\x03\x03\x00\x64\x02\x00", b"\x00", asked=False)),
}


@pytest.mark.parametrize("how", STALLS)
async def test_a_host_that_holds_the_line_is_left_at_the_bound(how: str, time_passes: Callable[[float], None]) -> None:
    tls, stalling = STALLS[how]
    # What finds the region of a bucket on S3 is a HEAD, whose answer has no body.
    names = [name for name in BODIES if not STORAGES[name].locates or "body" not in how]
    at = {name: "locate" if STORAGES[name].locates else "connect" if tls else "upload" for name in names}
    # For the upload, and for the delete of what may have been uploaded.
    calls = sum(2 if step == "upload" else 1 for step in at.values())
    with stalling() as host, answering(TOKEN) as issuer:
        url = host.url.replace("http:", "https:") if tls else host.url
        places = {"gcs_token_endpoint": issuer.url + "/token", "verify_seconds": BOUND}
        async with providers(url, **places) as provider_for:
            specs = [spec_of(name, url) for name in names]
            made = [(await ready(provider_for, spec), spec) for spec in specs]
            came = host.called if tls else host.requests
            reports = await left_at_the_bound(
                [verify(provider, spec, KEY, timeout=BOUND, job="job") for provider, spec in made], time_passes,
                lambda: len(came) >= len(names), lambda: len(host.called) >= calls,
            )  # fmt: skip
    for name, report in zip(names, reports, strict=True):
        # A connection is there when TLS is.
        fault = unreached(name, Fault.TIMEOUT) if tls else Fault.TIMEOUT
        assert failed(report)[0] == (at[name], fault), (name, report)
        assert report.duration_ms > BOUND * 700, name
        assert report.left_behind == (at[name] == "upload"), name
    assert not [request for request in host.requests if b"Expect" in request]
    assert host.connections == calls


@pytest.mark.parametrize("tls", [False, True])
async def test_a_thread_whose_answer_nobody_waits_for_ends_soon(tls: bool) -> None:
    """The host goes on, and each of its bytes would be a reason to wait for the next."""
    with dripping(REFUSAL + b"X-A: ", b"x", every=0.2) as host:
        url = host.url.replace("http:", "https:") if tls else host.url
        await verified("oss", url, within=SHORT, verify_seconds=SHORT)
        busy = [thread for thread in threading.enumerate() if thread.name.startswith("oss")]
        until(lambda: not any(thread.is_alive() for thread in busy), "the threads have ended", FOREVER_SECONDS / 2)


@pytest.fixture(scope="module")
def deaf() -> Iterator[str]:
    """The address of a port whose queue of connections is full: it neither accepts nor refuses one."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for each in waiting:
            each.close()


async def test_a_host_that_does_not_take_the_connection_is_left_at_the_bound(deaf: str) -> None:
    for name, report in (await at_once(BODIES, deaf)).items():
        assert failed(report) == [(STORAGES[name].contacts, unreached(name, Fault.TIMEOUT))], report
        assert not report.left_behind


@EVERY
async def test_a_port_on_which_nobody_listens_refuses(name: str) -> None:
    report = await verified(name, dead_url())
    assert failed(report) == [(STORAGES[name].contacts, unreached(name, Fault.CONNECTION_REFUSED))], report
    assert not report.left_behind


@EVERY
async def test_a_name_that_nobody_has_is_not_found(name: str) -> None:
    report = await verified(name, "http://storage.invalid")
    at, fault = "locate" if STORAGES[name].locates else "resolve", unreached(name, Fault.HOST_NOT_FOUND)
    assert failed(report) == [(at, fault)], report
    assert "storage.invalid" in report.message
    if fault is Fault.EGRESS_UNAVAILABLE:
        assert report.parameter is None
        assert "typing error" not in report.message


@EVERY
async def test_a_resolver_that_fails_is_the_fault_of_nobody_who_typed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    report = await verified(name, "http://storage.invalid")
    whole = spec_of(name).host_typed is HostTyped.WHOLE
    assert report.code == (Fault.HOST_NOT_FOUND if whole else Fault.EGRESS_UNAVAILABLE)
    assert (report.parameter is None) == (not whole)


async def test_an_azure_account_that_nobody_has_is_a_name_that_nobody_has() -> None:
    report = await verified("azure", "", azure_endpoint="http://{account}.blob.invalid")
    assert failed(report) == [("resolve", Fault.HOST_NOT_FOUND)]
    assert report.parameter == "azure_account_name"
    assert f"{BODIES['azure']['azure_account_name']}.blob.invalid" in report.message


@pytest.mark.parametrize("failing", ["connect", "upload"])
async def test_a_step_that_failed_counts_its_own_time_alone(
    failing: str, monkeypatch: pytest.MonkeyPatch, time_passes: Callable[[float], None]
) -> None:
    """Here the name is found slowly, and what comes after that fails at once."""
    look_up = socket.getaddrinfo

    def slowly(*arguments: Any, **options: Any) -> Any:
        time_passes(BOUND / 2)
        return look_up(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with answering(b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n") as host:
        url = host.url if failing == "upload" else dead_url()
        report = await verified("oss", url.replace("127.0.0.1", "localhost"), within=BOUND)
    (known,) = failed(report)
    resolve, failure = step(report, "resolve").ms, step(report, failing).ms
    assert known[0] == failing
    assert resolve is not None and failure is not None and failure < 500 * BOUND <= resolve


Place = tuple[Odd, Callable[[Spec], Awaitable[Provider]]]


@pytest.fixture(scope="module")
async def place() -> AsyncIterator[Place]:
    """One host in everybody's place, whose answer each test sets, and a worker that calls it."""
    with answering(b"") as host:
        async with providers(host.url) as provider_for:
            yield host, provider_for


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", Fault.PROVIDER_UNAVAILABLE),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Fault.THROTTLED),
        (b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n", Fault.THROTTLED),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Fault.CONNECTION_FAILED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Fault.NOT_A_STORAGE_ENDPOINT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Fault.NOT_A_STORAGE_ENDPOINT),
        (b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n", Fault.NOT_A_STORAGE_ENDPOINT),
    ],
)
@EVERY
async def test_an_answer_without_an_explanation_goes_by_its_status(
    place: Place, name: str, reply: bytes, fault: Fault
) -> None:
    host, provider_for = place
    host.replies = {"": reply}
    spec = spec_of(name, host.url)
    report = await verify(await provider_for(spec), spec, KEY, timeout=WITHIN, job="job")
    assert report.code == fault, report


@EVERY
async def test_each_step_is_one_request(name: str) -> None:
    """No SDK tries again by itself: an upload whose outcome is unknown, and the delete after it."""
    with answering(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n") as host:
        report = await verified(name, host.url)
    if STORAGES[name].asks_first:
        # Neither comes to the upload: one asks where the bucket is, the other for a token.
        assert len(host.requests) == 1
    else:
        assert [request.split(b" ")[0] for request in host.requests] == [b"PUT", b"DELETE"]
        assert report.left_behind


@pytest.mark.parametrize("name", [name for name, storage in STORAGES.items() if not storage.asks_first])
async def test_an_upload_that_may_have_happened_and_did_not_leaves_nothing_behind(name: str) -> None:
    broken = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    absent = STORAGES[name].row(Fault.BUCKET_NOT_FOUND, *STORAGES[name].absent, step=Step.DELETE).answer
    with answering(broken, DELETE=absent) as host:
        report = await verified(name, host.url)
    assert failed(report) == [("upload", Fault.PROVIDER_UNAVAILABLE)]
    assert step(report, "delete").reason == "there was nothing to delete"
    assert not report.left_behind


class TestGoogleToken:
    """The host that issues Google's tokens fails while that of the storage is well."""

    @pytest.fixture
    def key(self, gcs: GcsServer) -> dict[str, object]:
        return {"gcs_service_account_key": gcs.service_account_key("owner"), "gcs_bucket_name": "results"}

    @pytest.mark.parametrize(
        ("place", "failure"),
        [
            ("dead", ("connect", Fault.EGRESS_UNAVAILABLE)),
            ("silent", ("upload", Fault.TIMEOUT)),
            ("html", ("upload", Fault.NOT_A_STORAGE_ENDPOINT)),
        ],
    )
    async def test_is_told_by_its_own_name(
        self, gcs: GcsServer, key: dict[str, object], place: str, failure: tuple[str, Fault],
        time_passes: Callable[[float], None],
    ) -> None:  # fmt: skip
        objects = gcs.objects("results")
        with silent() as mute, html() as website:
            url = {"dead": dead_url(), "silent": mute.url, "html": website.url}[place]
            places = {"gcs_token_endpoint": url + "/token"}
            if place == "silent":
                verifying = verified("gcs by service account", gcs.url, key, within=BOUND, **places)
                (report,) = await left_at_the_bound([verifying], time_passes, lambda: mute.requests)
            else:
                report = await verified("gcs by service account", gcs.url, key, **places)
        assert failed(report)[0] == failure, report
        assert report.host == url.removeprefix("http://")
        assert gcs.objects("results") == objects

    async def test_a_key_of_a_disabled_account_is_unknown(self, gcs: GcsServer) -> None:
        body = {"gcs_service_account_key": gcs.service_account_key("gone"), "gcs_bucket_name": "results"}
        report = await verified("gcs by service account", gcs.url, body)
        assert failed(report) == [("upload", Fault.ACCESS_KEY_UNKNOWN)]
        assert step(report, "upload").provider_code == "invalid_grant"

    async def test_a_private_key_that_is_none_is_refused_before_any_call(self, gcs: GcsServer) -> None:
        """It looks whole, so that the local rules pass it, and one line of it is another's."""
        lines = str(gcs.service_account_key("owner")["private_key"]).split("\n")
        broken = {**gcs.service_account_key("owner"), "private_key": "\n".join([*lines[:9], "A" * 64, *lines[10:]])}
        before = gcs.log
        report = await verified("gcs by service account", gcs.url, {"gcs_service_account_key": broken})
        assert report.code == Fault.SECRET_MISMATCH
        assert report.parameter == "gcs_service_account_key"
        assert gcs.log == before


@EVERY
async def test_a_certificate_that_nobody_trusts_is_refused(name: str, seaweedfs: SeaweedFS) -> None:
    report = await verified(name, seaweedfs.https_url)
    assert failed(report) == [(STORAGES[name].contacts, Fault.TLS_FAILURE)], report
    assert "not publicly trusted" in report.message or "self-signed" in report.message


@EVERY
async def test_a_port_that_does_not_speak_tls_is_told_so(name: str, seaweedfs: SeaweedFS) -> None:
    report = await verified(name, seaweedfs.url.replace("http://", "https://"))
    assert failed(report) == [(STORAGES[name].contacts, Fault.TLS_FAILURE)], report
    assert "does not speak TLS" in report.message
