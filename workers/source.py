"""Where result files are read from: the operator's folder, or the operator's address of https, and nothing outside."""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Protocol, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp

from app.domain.delivery import SOURCE_TEXTS, SourceFault
from app.tls import tls_context
from workers.egress.guard import CONNECT_SECONDS
from workers.storage.port import digest

T = TypeVar("T")

THREADS = 32
READ_SECONDS = 30.0
"""An https source that sends nothing for so long is asked again for the rest."""
_RESUMES = 5
"""How often a file of an https source is asked for again that has sent nothing since it was asked for before."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class SourceRefused(Exception):
    """The file cannot be read; the reason may be shown to the customer."""

    def __init__(self, fault: SourceFault, detail: str = "") -> None:
        super().__init__(str(fault))
        self.fault = fault
        self.message = SOURCE_TEXTS[fault]
        self.detail = detail
        """For the log of the operator, whose source it is."""


def require_size(found: int, announced: int) -> None:
    """Raise SourceRefused unless a file is as large as it was announced."""
    if found != announced:
        changed = "smaller" if found < announced else "larger"
        raise SourceRefused(SourceFault.CHANGED, f"it is {changed} than announced")


class Reader(Protocol):
    """An open file, read from its beginning to its end."""

    async def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end only, and none after it. Raises SourceRefused."""


class Source(Protocol):
    """Where files are read from."""

    def open(self, path: str) -> contextlib.AbstractAsyncContextManager[Reader]:
        """The file at `path`, which has no empty part and none that leads out. Raises SourceRefused."""

    async def whole(self, path: str, size: int) -> tuple[bytes, str]:
        """All of the file at `path`, which has `size` bytes, and its SHA-256 in hexadecimal. Raises SourceRefused."""


@contextlib.asynccontextmanager
async def open_source(url: str) -> AsyncIterator[Source]:
    """The source at `url`, file:///FOLDER or https://HOST/PATH; what it holds open is closed with the block."""
    parts = urlsplit(url)
    async with AsyncExitStack() as stack:
        if parts.scheme == "file":
            threads = ThreadPoolExecutor(THREADS, "source")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            yield FolderSource(parts.path, threads)
            return
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls_context(), limit=0),
            timeout=timeout,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        )
        await stack.enter_async_context(session)
        yield HttpsSource(url, session)


class FolderSource:
    """Files of one folder. Each part of a path is opened by itself and no link is followed, so that none leads out."""

    def __init__(self, folder: str, threads: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._threads = threads

    @contextlib.asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[Reader]:
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(self._threads, _opened, self._folder, path)
        try:
            yield _FolderReader(file, self._threads)
        finally:
            # A read may still be under way in a thread: the file is closed after it.
            await asyncio.shield(loop.run_in_executor(self._threads, os.close, file))

    async def whole(self, path: str, size: int) -> tuple[bytes, str]:
        """In one go, since each way to a thread and back costs more than it is to read a small file."""
        return await _in_thread(self._threads, _whole, self._folder, path, size)


class _FolderReader:
    def __init__(self, file: int, threads: ThreadPoolExecutor) -> None:
        self._file = file
        self._threads = threads
        self._at = 0

    async def read(self, count: int) -> bytes:
        data = await _in_thread(self._threads, _read, self._file, count, self._at)
        self._at += len(data)
        return data


async def _in_thread(threads: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
    """What `work` returns. Awaited to its end although the caller is cancelled: a file could be closed under it, or the
    room given back for what it reads. Raises SourceRefused for an OSError."""
    working = asyncio.get_running_loop().run_in_executor(threads, work, *arguments)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working})
        raise
    except OSError as error:
        raise _unavailable(error) from None


def _opened(folder: str, path: str) -> int:
    """A descriptor of the regular file at `path` under `folder`."""
    *folders, name = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in (*folders, name)):
        raise SourceRefused(SourceFault.NOT_FOUND, "the path leads out of the source")
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        # It is the source itself that is not there, and not the file.
        raise _unavailable(error) from None
    try:
        for part in folders:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        # A pipe, which is refused below, would block whoever opens it.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except FileNotFoundError:
        raise SourceRefused(SourceFault.NOT_FOUND, "there is no such file") from None
    except OSError as error:
        if isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP:
            raise SourceRefused(
                SourceFault.NOT_FOUND, "the path has a link or a file where a folder is meant"
            ) from None
        raise _unavailable(error) from None
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise SourceRefused(SourceFault.NOT_FOUND, "it is no regular file")
    return file


def _read(file: int, count: int, at: int) -> bytes:
    """Up to `count` bytes from `at` on; fewer at the end of the file only."""
    pieces = []
    while count > 0 and (piece := os.pread(file, count, at)):
        pieces.append(piece)
        at += len(piece)
        count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _whole(folder: str, path: str, size: int) -> tuple[bytes, str]:
    """See Source.whole."""
    file = _opened(folder, path)
    try:
        body = _read(file, size + 1, 0)
    finally:
        os.close(file)
    require_size(len(body), size)
    return body, hashlib.sha256(body).hexdigest()


class HttpsSource:
    """Files under one address. No redirect is followed, and what is packed on the way is refused."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self._base = f"https://{host}{parts.path.rstrip('/')}/"
        self._auth = aiohttp.BasicAuth(parts.username or "", parts.password or "") if parts.username else None
        self._session = session

    @contextlib.asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[Reader]:
        reader = _HttpsReader(self._session, self._base + quote(path), self._auth)
        try:
            await reader.ask()
            yield reader
        finally:
            reader.close()

    async def whole(self, path: str, size: int) -> tuple[bytes, str]:
        async with self.open(path) as reader:
            body = await reader.read(size + 1)
        require_size(len(body), size)
        return body, (await digest("sha256", body)).hex()


class _HttpsReader:
    """Asks for the rest where a connection was cut, as long as the server says that it is still the same file."""

    def __init__(self, session: aiohttp.ClientSession, url: str, auth: aiohttp.BasicAuth | None) -> None:
        self._session = session
        self._url = url
        self._auth = auth
        self._at = 0
        self._size: int | None = None
        self._etag = ""
        self._answer: aiohttp.ClientResponse | None = None
        self._failures = 0

    def close(self) -> None:
        """What has not come yet is not waited for."""
        if self._answer:
            self._answer.close()
            self._answer = None

    async def ask(self) -> None:
        """Ask for the file from here on. Raises SourceRefused."""
        headers = {"Range": f"bytes={self._at}-", "If-Range": self._etag} if self._at else {}
        try:
            answer = await self._session.get(self._url, headers=headers, auth=self._auth, allow_redirects=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unavailable(error) from None
        self._answer = answer
        if answer.status in (404, 410):
            raise SourceRefused(SourceFault.NOT_FOUND, f"it answers {answer.status}")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise SourceRefused(SourceFault.UNAVAILABLE, "it sends the file packed, although it was not asked to")
        if self._at == 0:
            self._begin(answer)
        else:
            self._go_on(answer)

    def _begin(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status != 200:
            raise SourceRefused(SourceFault.UNAVAILABLE, f"it answers {answer.status}")
        self._size = answer.content_length
        etag = answer.headers.get("ETag", "")
        # By a weak one two files may be alike that differ in their bytes.
        self._etag = etag if etag.startswith('"') else ""

    def _go_on(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == 200:
            raise SourceRefused(SourceFault.CHANGED, "it sends another file than before the connection was cut")
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status != 206 or not found:
            raise SourceRefused(SourceFault.UNAVAILABLE, f"it answers {answer.status} to a Range")
        if int(found[1]) != self._at or (self._size is not None and int(found[3]) != self._size):
            raise SourceRefused(SourceFault.CHANGED, "it sends another range than was asked for")

    async def read(self, count: int) -> bytes:
        pieces: list[bytes] = []
        while count > 0:
            piece = await self._next(count)
            if not piece:
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    async def _next(self, count: int) -> bytes:
        """Some of the next bytes; none at the end."""
        while True:
            try:
                if self._answer is None:
                    await self.ask()
                assert self._answer
                piece = await self._answer.content.read(count)
                if not piece and self._size is not None and self._at < self._size:
                    raise aiohttp.ClientPayloadError("the answer was cut")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._failures += 1
                self.close()
                if not self._etag or self._failures > _RESUMES:
                    raise _unavailable(error) from None
                continue
            if piece:
                self._at += len(piece)
                self._failures = 0
            return piece


def _unavailable(error: BaseException) -> SourceRefused:
    return SourceRefused(SourceFault.UNAVAILABLE, type(error).__name__)
