"""Many clients at once: those that only connect keep nobody out, and no more than so many others wait their turn."""

import contextlib
import itertools
import json
import re
import resource
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.stack import DROPOFF, Api, Deployment, s3compatible, until

# As many as a process on a small machine may have; more clients than that come.
DESCRIPTORS, CROWD = 300, 400
# So many creates may wait for their turn; of more than that, at once, some are refused.
ROOM, TOO_MANY = 20, 100
OPERATOR = "an-operators-key-for-tests"
_LIMITED = (
    f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS})); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    limited = (sys.executable, "-c", _LIMITED, *DROPOFF[1:])
    with Deployment(
        tmp_path_factory.mktemp("crowd"), dropoff=limited,
        waiting_requests=str(ROOM), operator_key=OPERATOR, destination_limit="1000",
    ) as running:  # fmt: skip
        yield running


@contextlib.contextmanager
def crowd(url: str, *sent: bytes) -> Iterator[list[socket.socket]]:
    """So many clients, each of which sends one of `sent`, by turns."""
    host, _, port = url.removeprefix("http://").partition(":")
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(CROWD)]
        for each, what in zip(made, itertools.cycle(sent), strict=False):
            with contextlib.suppress(ConnectionError):  # it has made room already
                each.sendall(what)
        yield made


def test_a_crowd_that_says_nothing_keeps_nobody_out_and_is_gone_in_ten_seconds(deployment: Deployment) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 2 * CROWD
    api = Api(deployment.url)
    before, began = len(deployment.api.log.splitlines()), time.monotonic()
    with crowd(deployment.url, b"", b"GET /healthz HTTP/1.1\r\nHost: h\r\n") as clients:
        answers = [api.call("GET", "/healthz") for _ in range(5)]
        assert {answer.status for answer in answers} == {200}
        # The crowd keeps its connections for ten seconds.
        assert max(answer.seconds for answer in answers) < 8
        for each in clients:
            each.settimeout(60)
            with contextlib.suppress(ConnectionError):
                assert each.recv(1) == b"", "closed without a word"
        assert time.monotonic() - began < 40
    lines = deployment.api.log.splitlines()[before:]
    assert len([line for line in lines if '"path": "/healthz"' not in line]) <= 2, lines


def test_bad_requests_leave_no_traceback(deployment: Deployment) -> None:
    host, _, port = deployment.url.removeprefix("http://").partition(":")
    for _ in range(5):
        with socket.create_connection((host, int(port)), 60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 400")
    assert "Traceback" not in deployment.api.log


def creates_after_a_stall(deployment: Deployment, count: int) -> list[tuple[int, str]]:
    """So many creates that came while the API process stood still, each as the status and the text of its answer."""
    api = deployment.client()
    body = json.dumps({"name": "n", "enabled": False, **s3compatible("https://store.example.com")})
    request = (
        f"POST /destinations HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {api.key}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    host, _, port = deployment.url.removeprefix("http://").partition(":")
    with contextlib.ExitStack() as stack:
        deployment.api.signal(signal.SIGSTOP)
        try:
            clients = [stack.enter_context(socket.create_connection((host, int(port)), 30)) for _ in range(count)]
            for each in clients:
                each.sendall(request.encode())
        finally:
            deployment.api.signal(signal.SIGCONT)
        answers = [b"".join(iter(lambda each=each: each.recv(65536), b"")).decode() for each in clients]  # type: ignore[misc]
    return [(int(answer.split()[1]), answer) for answer in answers]


def refused(deployment: Deployment) -> int:
    """How many requests were not admitted."""
    text = Api(deployment.url, OPERATOR).call("GET", "/metrics").text
    found = re.search(r"^dropoff_requests_not_admitted_total (\d+)", text, re.MULTILINE)
    assert found
    return int(found[1])


def test_a_process_that_stood_still_refuses_none_of_those_that_came_meanwhile(deployment: Deployment) -> None:
    before = refused(deployment)
    assert [status for status, _ in creates_after_a_stall(deployment, ROOM)] == [200] * ROOM
    assert refused(deployment) == before


def test_more_than_may_wait_are_refused_and_those_that_wait_are_not(deployment: Deployment) -> None:
    before, listed = refused(deployment), deployment.api.log.count('"POST"')
    answers = creates_after_a_stall(deployment, TOO_MANY)
    counts = Counter(status for status, _ in answers)
    assert counts.keys() == {200, 503}
    assert counts[200] >= ROOM
    assert refused(deployment) == before + counts[503]
    for _, answer in answers:
        assert "X-Request-Id: " in answer
        assert ("Retry-After: 5" in answer) == ("nothing was created or changed" in answer) == (" 503 " in answer[:20])
    lines = deployment.api.events("this process does not keep up")
    assert len(lines) == 1, "once a minute at most"
    until(
        lambda: deployment.api.log.count('"POST"') == listed + counts[200], "those that were looked at are in the log"
    )
    # One by one there is room.
    assert {status for status, _ in (creates_after_a_stall(deployment, 1)[0] for _ in range(3))} == {200}
