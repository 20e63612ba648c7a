"""Clients that only connect: they end, they keep nobody out, and the log has a line of them."""

import contextlib
import itertools
import resource
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from tests.stack import DROPOFF, Api, Deployment

# As many as a process on a small machine may have; more clients than that come.
DESCRIPTORS, CROWD = 300, 400
_LIMITED = (
    f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS})); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    limited = (sys.executable, "-c", _LIMITED, *DROPOFF[1:])
    with Deployment(tmp_path_factory.mktemp("crowd"), dropoff=limited) as running:
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
