"""A store of the S3 dialect that checks signatures, fails as it is told, and knows what lies in it and what did."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web

from tests.servers.threaded import looping

Object = tuple[str, str]
"""A bucket and a key."""


class At(StrEnum):
    """Where a request can be held, and a process ambushed."""

    BEFORE_PUT = "before put"
    AFTER_PUT = "after put"
    BEFORE_DELETE = "before delete"
    AFTER_DELETE = "after delete"


class Fails(StrEnum):
    """How the store fails all requests, or all deletes."""

    NOT = "not"
    ERROR_500 = "500"
    ERROR_503 = "503"
    ERROR_500_TO_DELETES = "500 to deletes"
    RESETS = "resets"
    RESETS_AFTER = "resets after doing it"
    HALF_ANSWERS = "half answers"


@dataclass
class Ambush:
    """Calls `strike` with the port of whoever sends the next request that comes to `at`; with `drop`, that request is
    not carried out."""

    at: At
    strike: Callable[[int], None]
    drop: bool = False


class Store:
    """Serves on loopback. The bucket NAME is open to the key NAME alone, whose secret is `secret_of(NAME)`."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: set[Object] = set()
        self.uploaded: set[Object] = set()
        self.deleted: set[Object] = set()
        self.mixed: list[str] = []
        """Requests for a bucket that came with the credentials of another."""
        self.fails = Fails.NOT
        self.ambush: Ambush | None = None
        self._open = {at: asyncio.Event() for at in At}
        for gate in self._open.values():
            gate.set()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()

    def hold(self, *steps: At) -> None:
        """Let no request past these steps."""
        for at in steps:
            self._loop.call_soon_threadsafe(self._open[at].clear)

    def go_on(self) -> None:
        for gate in self._open.values():
            self._loop.call_soon_threadsafe(gate.set)

    def end(self) -> None:
        self.go_on()
        self._loop.call_soon_threadsafe(self._ended.set)

    async def serve(self, started: "Future[Store]") -> None:
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        started.set_result(self)
        await self._ended.wait()
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        bucket, _, key = request.path.lstrip("/").partition("/")
        if refusal := self._refused(request, bucket, body):
            return refusal
        if request.method == "GET":
            said = f"<Error><Code>NoSuchKey</Code><Key>{key}</Key><BucketName>{bucket}</BucketName></Error>"
            return _xml(404, said)
        if failure := self._failure(request):
            return failure
        before, after = (
            (At.BEFORE_PUT, At.AFTER_PUT) if request.method == "PUT" else (At.BEFORE_DELETE, At.AFTER_DELETE)
        )
        if await self._passed(before, request):
            self._do(request.method, (bucket, key))
        await self._passed(after, request)
        return await self._told(request, body)

    def _refused(self, request: web.BaseRequest, bucket: str, body: bytes) -> web.Response | None:
        fields = dict(part.strip().split("=", 1) for part in request.headers["Authorization"][16:].split(","))
        name = fields["Credential"].partition("/")[0]
        digest = request.headers["x-amz-content-sha256"]
        if len(digest) == 64 and digest != hashlib.sha256(body).hexdigest():
            return _error(400, "XAmzContentSHA256Mismatch")
        if not hmac.compare_digest(fields["Signature"], _signature(request, fields, secret_of(name))):
            return _error(403, "SignatureDoesNotMatch")
        if name != bucket:
            self.mixed.append(f"{request.method} {request.path} by {name}")
            return _error(403, "AccessDenied")
        return None

    def _failure(self, request: web.BaseRequest) -> web.Response | None:
        match self.fails:
            case Fails.ERROR_500:
                return _error(500, "InternalError")
            case Fails.ERROR_503:
                return _error(503, "SlowDown")
            case Fails.ERROR_500_TO_DELETES if request.method == "DELETE":
                return _error(500, "InternalError")
            case Fails.RESETS:
                _cut(request)
        return None

    async def _passed(self, at: At, request: web.BaseRequest) -> bool:
        """Wait until the request may go past `at`; whether it is to be carried out."""
        await self._open[at].wait()
        ambush = self.ambush
        if ambush is None or ambush.at is not at:
            return True
        self.ambush = None
        peer = request.transport.get_extra_info("peername")[1] if request.transport else 0
        await asyncio.to_thread(ambush.strike, peer)
        return not ambush.drop

    def _do(self, method: str, name: Object) -> None:
        if method == "PUT":
            self.objects.add(name)
            self.uploaded.add(name)
        else:
            self.objects.discard(name)
            self.deleted.add(name)

    async def _told(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        etag = {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}
        if self.fails is Fails.RESETS_AFTER:
            _cut(request)
        if self.fails is Fails.HALF_ANSWERS:
            half = web.StreamResponse(headers={"Content-Length": "100", **etag})
            await half.prepare(request)
            await half.write(b"<half")
            _cut(request)
            return half
        return web.Response(status=200 if request.method == "PUT" else 204, headers=etag)


def secret_of(name: str) -> str:
    """The secret key that belongs to the access key `name`."""
    return hashlib.sha256(name.encode()).hexdigest()


def _signature(request: web.BaseRequest, fields: dict[str, str], secret: str) -> str:
    """What AWS Signature Version 4 makes of the request."""
    path, _, query = request.raw_path.partition("?")
    signed = fields["SignedHeaders"]
    headers = "".join(f"{name}:{' '.join(request.headers[name].split())}\n" for name in signed.split(";"))
    canonical = "\n".join(
        (request.method, path, "&".join(sorted(query.split("&"))), headers, signed,
         request.headers["x-amz-content-sha256"])
    )  # fmt: skip
    _, *scope = fields["Credential"].split("/")
    text = "\n".join(
        ("AWS4-HMAC-SHA256", request.headers["x-amz-date"], "/".join(scope),
         hashlib.sha256(canonical.encode()).hexdigest())
    )  # fmt: skip
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _error(status: int, code: str) -> web.Response:
    return _xml(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")


def _xml(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="application/xml")


def _cut(request: web.BaseRequest) -> None:
    if request.transport:
        request.transport.abort()


@contextmanager
def running_store() -> Iterator[Store]:
    """A store, in a thread of its own."""

    async def serve(started: "Future[Store]") -> None:
        await Store().serve(started)

    with looping(serve) as store:
        yield store
