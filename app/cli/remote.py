"""A running service, asked over HTTP with a key of the operator's."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from app.tls import tls_context

ANSWER_SECONDS = 30.0


class Refused(Exception):
    """The service answered, and not with success; the message is its own."""


class NoAnswer(Exception):
    """There was no answer, or one that asks for another try: the same call may succeed later."""


class Service:
    """The service at `url`, which may have a path. Redirects are not followed: they would be given the key."""

    def __init__(self, url: str, key: str) -> None:
        """Raises ValueError for what is no address of http or https."""
        self._url = urlsplit(url)
        # What is no port is refused where it is looked at.
        if self._url.scheme not in ("http", "https") or not self._url.hostname or self._url.port == 0:
            raise ValueError
        self._key = key

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """What a call answers that succeeds; `path` is quoted already. Raises Refused and NoAnswer."""
        target = self._url.path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        connection = self._connection()
        try:
            connection.request(method, target, content, headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self._where} does not answer ({type(error).__name__})") from error
        finally:
            connection.close()
        return self._content(status, text)

    @property
    def _where(self) -> str:
        return f"{self._url.scheme}://{self._url.hostname}" + (f":{self._url.port}" if self._url.port else "")

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._url.hostname), self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
        return http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=tls_context())

    def _content(self, status: int, text: bytes) -> dict[str, Any]:
        if status in (429, 502, 503, 504):
            raise NoAnswer(f"{self._where} answers {status}: {_message(text) or 'try again shortly'}")
        if status in (200, 202) and isinstance(content := _json(text), dict):
            return content
        message = _message(text) or f"{self._where} answers {status}, and not as Dropoff does: look at the address."
        raise Refused(message)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _message(text: bytes) -> str:
    """The sentence of a refusal of Dropoff's; empty where it is none."""
    content = _json(text)
    told = content.get("request_info") if isinstance(content, dict) else None
    return str(told.get("message", "")) if isinstance(told, dict) else ""
