"""A platform that is told of what happens: takes what Standard Webhooks' own library says is ours, and keeps it."""

import base64
import contextlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

from tests.servers.threaded import serving


@dataclass
class Told:
    """Where it listens, what it knows senders by, and what came, in order: `attempts` with those that were refused
    since it was `away`, each as its id and its content, and `taken` without."""

    url: str
    secret: str
    away: threading.Event = field(default_factory=threading.Event)
    attempts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    taken: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def hear(self, headers: dict[str, str], body: bytes) -> int:
        event = headers["webhook-id"], Webhook(self.secret).verify(body, headers)
        self.attempts.append(event)
        if self.away.is_set():
            return 500
        self.taken.append(event)
        return 204

    def types(self, **data: Any) -> list[str]:
        """What was taken of which this is said, each once."""
        once = {identity: content for identity, content in self.taken if data.items() <= content["data"].items()}
        return [content["type"] for content in once.values()]


@contextlib.contextmanager
def platform() -> Iterator[Told]:
    """One on loopback, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(told.hear({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    told = Told(f"http://127.0.0.1:{server.server_address[1]}/told", secret)
    with serving(server):
        yield told
