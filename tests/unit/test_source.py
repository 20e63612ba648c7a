"""The operator's source: nothing outside of it is read, and a connection that is cut goes on where it was."""

import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from app.domain.delivery import SourceFault
from workers.source import SourceRefused, open_source

BODY = bytes(range(256)) * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A source with one file, beside a file that is none of its."""
    (tmp_path / "secret").write_text("not for anybody")
    inside = tmp_path / "source"
    (inside / "a").mkdir(parents=True)
    (inside / "a/b.bin").write_bytes(BODY)
    return inside


async def read(url: str, path: str, count: int = 100_000) -> bytes:
    """The whole file, read `count` bytes at a time, all but the last of which are exactly so many."""
    pieces = []
    async with open_source(url) as source, source.open(path) as reader:
        while piece := await reader.read(count):
            pieces.append(piece)
    assert all(len(piece) == count for piece in pieces[:-1])
    return b"".join(pieces)


async def refusal(url: str, path: str) -> SourceFault:
    with pytest.raises(SourceRefused) as caught:
        await read(url, path)
    return caught.value.fault


async def test_a_file_of_the_folder_is_read_whole(folder: Path) -> None:
    assert await read(f"file://{folder}", "a/b.bin") == BODY


@pytest.mark.parametrize(
    "path", ["../secret", "a/../../secret", "/etc/hostname", "a//b.bin", "", ".", "a", "a/b.bin/c", "a/none", "b/b.bin"]
)
async def test_nothing_but_a_file_of_the_folder_is_found(folder: Path, path: str) -> None:
    assert await refusal(f"file://{folder}", path) is SourceFault.NOT_FOUND


async def test_no_link_is_followed_and_no_pipe_waited_for(folder: Path) -> None:
    (folder / "file").symlink_to(folder.parent / "secret")
    (folder / "inner").symlink_to(folder / "a/b.bin")
    (folder / "folder").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe")
    for path in ("file", "inner", "folder/secret", "pipe"):
        assert await refusal(f"file://{folder}", path) is SourceFault.NOT_FOUND


async def test_a_folder_that_is_away_may_come_back(tmp_path: Path) -> None:
    assert await refusal(f"file://{tmp_path}/unmounted", "a") is SourceFault.UNAVAILABLE


class Server:
    """A server of files over TLS, which answers each request as the next of `answers` says; the last for ever."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[Callable[[web.Request], Any]] = []
        self.asked: list[dict[str, str | None]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({"path": request.raw_path, "range": request.headers.get("Range"),
                           "if": request.headers.get("If-Range")})  # fmt: skip
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        response: web.StreamResponse = await answer(request)
        return response


@pytest.fixture
async def server(
    certificate: tuple[Path, Path], authority: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    served = Server("")
    app = web.Application()
    app.router.add_get("/{path:.*}", served.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    served.url = f"https://127.0.0.1:{runner.addresses[0][1]}/results"
    yield served
    await runner.cleanup()


def cut(count: int, etag: str | None = '"v1"') -> Callable[[web.Request], Any]:
    """From where it is asked for, up to `count` more bytes of all that are announced; then the connection ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        headers = {"Content-Length": str(len(BODY) - start), **({"ETag": etag} if etag else {})}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        response = web.StreamResponse(status=206 if asked else 200, headers=headers)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            await response.write(BODY[start : start + count])
            if start + count < len(BODY):
                assert request.transport
                request.transport.close()
        return response

    return answer


async def test_a_cut_connection_goes_on_where_it_was(server: Server) -> None:
    server.answers = [cut(100_000)]
    assert await read(server.url, "c 1/f%.bin") == BODY
    assert [each["range"] for each in server.asked] == [None, "bytes=100000-", "bytes=200000-"]
    assert [each["if"] for each in server.asked] == [None, '"v1"', '"v1"']
    assert server.asked[0]["path"] == "/results/c%201/f%25.bin"


async def test_what_changed_meanwhile_is_not_put_together(server: Server) -> None:
    server.answers = [cut(100_000), whole]
    assert await refusal(server.url, "f") is SourceFault.CHANGED


async def test_without_an_etag_nothing_says_that_it_is_still_the_same_file(server: Server) -> None:
    for etag in (None, 'W/"v1"'):
        server.answers = [cut(100_000, etag)]
        assert await refusal(server.url, "f") is SourceFault.UNAVAILABLE


async def whole(_: web.Request) -> web.Response:
    return web.Response(body=BODY)


def status(number: int, **headers: str) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=number, body=b"x" if number == 200 else None, headers=headers)

    return answer


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (status(404), SourceFault.NOT_FOUND),
        (status(403), SourceFault.UNAVAILABLE),
        (status(503), SourceFault.UNAVAILABLE),
        (status(302, Location="https://example.com/"), SourceFault.UNAVAILABLE),
        (status(200, **{"Content-Encoding": "gzip"}), SourceFault.UNAVAILABLE),
    ],
)
async def test_other_answers_are_no_file(server: Server, answer: Any, fault: SourceFault) -> None:
    server.answers = [answer]
    assert await refusal(server.url, "f") is fault
    assert len(server.asked) == 1


async def test_a_server_that_sends_nothing_more_is_given_up(server: Server) -> None:
    server.answers = [cut(100_000), cut(0)]
    assert await refusal(server.url, "f") is SourceFault.UNAVAILABLE
    assert len(server.asked) < 10
