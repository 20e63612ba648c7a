"""What is no text: bytes that are not UTF-8, and the NUL that no database takes, wherever a request may have them."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.servers.postgres import Postgres
from tests.stack import Api, Process, up_process

OPERATOR = "the-key-of-the-operator"


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Process]]:
    with up_process(tmp_path_factory.mktemp("sqlite"), operator_key=OPERATOR) as started:
        yield started


@pytest.fixture(scope="module")
def on_postgresql(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[tuple[Api, Process]]:
    folder = tmp_path_factory.mktemp("postgresql")
    with up_process(folder, operator_key=OPERATOR, database_url=postgres.new_database()) as started:
        yield started


@pytest.fixture(params=["on_sqlite", "on_postgresql"])
def running(request: pytest.FixtureRequest) -> tuple[Api, Process]:
    started: tuple[Api, Process] = request.getfixturevalue(request.param)
    return started


def bearer(key: str) -> bytes:
    return f"Authorization: Bearer {key}".encode()


def status(api: Api, method: str, target: bytes, *headers: bytes) -> int:
    """The status of the answer to a request whose target and headers are sent as these bytes."""
    url = urlsplit(api.url)
    head = [method.encode() + b" " + target + b" HTTP/1.1", f"Host: {url.netloc}".encode(), b"Connection: close"]
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=30) as connection:
        connection.sendall(b"\r\n".join([*head, *headers, b"", b""]))
        answer = connection.recv(64)
        while connection.recv(65536):
            pass
    return int(answer.split()[1])


KINDS = [b"%00", b"a%00b", b"%FF", b"%ED%A0%80", b"\xff"]
"""NUL; what is not UTF-8, and half a surrogate pair, percent-encoded; a byte that no target may have."""


@pytest.mark.parametrize("odd", KINDS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_a_destination_whose_id_is_no_text_is_not_there(running: tuple[Api, Process], method: str, odd: bytes) -> None:
    api, _ = running
    path = b"/destinations/" + odd + (b"/verify" if method == "POST" else b"")
    assert status(api, method, path, bearer(api.key)) == (400 if odd == b"\xff" else 404)


def test_a_destination_whose_id_has_a_nul_is_answered_as_any_that_is_not_there(running: tuple[Api, Process]) -> None:
    api, _ = running
    with_nul, unknown = (api.call("GET", f"/destinations/{each}") for each in ("%00", "0" * 12))
    assert (with_nul.status, with_nul.json) == (unknown.status, unknown.json)


@pytest.mark.parametrize("odd", KINDS)
def test_a_job_whose_id_is_no_text_is_not_there(running: tuple[Api, Process], odd: bytes) -> None:
    api, _ = running
    assert status(api, "GET", b"/jobs/" + odd, bearer(api.key)) == (400 if odd == b"\xff" else 404)


@pytest.mark.parametrize("name", ["search_term", "search", "destination", "last_event_id", "s3_bucket_name"])
def test_a_nul_on_the_query_string_is_refused_by_the_name_of_its_parameter(
    running: tuple[Api, Process], name: str
) -> None:
    api, _ = running
    paths = {"search_term": "/destinations", "last_event_id": "/jobs/stream", "s3_bucket_name": "/destinations/policy"}
    answer = api.call("GET", paths.get(name, "/jobs"), **{name: "a\0b"})
    assert (answer.status, answer.error["code"], answer.error["parameter"]) == (400, "invalid_parameter", name)


@pytest.mark.parametrize("odd", KINDS)
def test_no_query_string_breaks_anything(running: tuple[Api, Process], odd: bytes) -> None:
    api, process = running
    parameters = {
        b"/destinations": (b"search_term", b"page", b"sort_by"), b"/destinations/policy": (b"type",),
        b"/jobs": (b"search", b"destination", b"cursor", b"from", b"account", b"state"), b"/metrics": (),
        b"/jobs/stream": (b"last_event_id",), b"/dashboard": (b"search",), b"/dashboard/overview": (), b"/readyz": (),
    }  # fmt: skip
    for path, names in parameters.items():
        for name in (*names, b"api_key", odd):
            key = () if name == b"api_key" else (bearer(api.key),)
            assert status(api, "GET", path + b"?" + name + b"=" + odd, *key) < 500, (path, name)
    assert "request broke" not in process.log


# What a proxy, a browser or an SDK may send, and what is looked at here.
HEADERS = [
    b"Authorization: Bearer ", b"Cookie: dropoff_operator=", b"Cookie: other=", b"Cookie: ", b"Idempotency-Key: ",
    b"Last-Event-ID: ", b"traceparent: ", b"Content-Type: ", b"Content-Type: application/json; charset=",
    b"Content-Encoding: ", b"X-Forwarded-Proto: ", b"Sec-Fetch-Site: ", b"If-None-Match: ", b"If-Modified-Since: ",
    b"Range: ", b"Accept: ", b"Accept-Encoding: ", b"User-Agent: ", b"X-Other: ",
]  # fmt: skip
CALLS = [
    ("GET", b"/destinations"), ("POST", b"/destinations"), ("GET", b"/jobs"), ("GET", b"/healthz"), ("GET", b"/readyz"),
    ("GET", b"/metrics"), ("GET", b"/dashboard"), ("GET", b"/dashboard/dashboard.css"), ("GET", b"/dashboard/overview"),
    ("POST", b"/dashboard/session/end"), ("GET", b"/docs"), ("GET", b"/nope"),
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_no_header_that_is_not_utf_8_breaks_anything(on_sqlite: tuple[Api, Process], header: bytes) -> None:
    api, process = on_sqlite
    for method, path in CALLS:
        assert status(api, method, path, header + b"\xff.00") < 500, (method, path)
    if not header.startswith(b"Authorization"):
        for method, path in CALLS[:3]:
            assert status(api, method, path, header + b"\xff.00", bearer(api.key)) < 500, (method, path)
    assert "request broke" not in process.log


def test_a_cookie_that_is_not_utf_8_is_no_session(on_sqlite: tuple[Api, Process]) -> None:
    api, _ = on_sqlite
    cookie = b"Cookie: dropoff_operator=\xff.00"
    assert status(api, "GET", b"/readyz", cookie) == 200
    assert status(api, "GET", b"/jobs", cookie) == 401
    assert status(api, "GET", b"/jobs", cookie, bearer(OPERATOR)) == 200
    assert status(api, "GET", b"/dashboard", cookie) == status(api, "GET", b"/dashboard")
