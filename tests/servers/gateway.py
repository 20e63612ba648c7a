"""A gateway before a real server: it passes everything on as it came, but for the answers that server cannot give."""

import contextlib
import http.client
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers.threaded import serving

_HOP_BY_HOP = ("transfer-encoding", "content-length", "connection", "keep-alive")


@dataclass(frozen=True)
class Canned:
    """An answer that the gateway gives itself."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Answers = Callable[[str, str, Mapping[str, str]], Canned | None]


@contextlib.contextmanager
def gateway(
    port: int,
    answers: Answers,
    certificate: tuple[Path, Path] | None = None,
    loses: Callable[[str, str, int], bool] = lambda *_: False,
) -> Iterator[str]:
    """The address of a gateway to `port` on loopback. `answers` is asked with the method, the path and the headers
    of each request, and says None for what is to be passed on; `loses` is asked with the method, the path and the
    status of each answer whether the connection breaks in its place. With a certificate (its file and that of its
    private key) the gateway speaks TLS; what is behind it need not."""

    class Handler(_Handler):
        upstream = port
        canned = staticmethod(answers)
        lost = staticmethod(loses)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = 0
    canned: Answers
    lost: Callable[[str, str, int], bool]

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.canned(self.command, self.path, self.headers) or self._passed_on(body)
        if self.lost(self.command, self.path, answer.status):
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_PUT = do_DELETE = do_GET = do_HEAD = do_POST = _serve  # noqa: N815

    def _passed_on(self, body: bytes) -> Canned:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)) as connection:
            # The headers, Host among them, go on as they came: they are signed.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            return Canned(answer.status, headers, answer.read())

    def log_message(self, *_: Any) -> None:
        """Nothing: the server behind has its own log."""
