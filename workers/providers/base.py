"""The port that every provider has, and what they share in telling a customer why storage refused."""

import base64
import hashlib
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import structlog

from app.domain.errors import Fault
from app.domain.specs.base import Spec
from app.domain.verification import Found, Step
from workers.egress import AnswerTooLarge, EgressRefused, RedirectRefused

log = structlog.get_logger()

CONTENT_TYPE = "text/plain"

# What an SDK raises when it stumbles over an answer that no store gives.
STUMBLES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._]{0,63}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9+/=_.:-]{1,128}")


def content_md5(body: bytes) -> str:
    """The header that buckets with object lock demand, and that every store checks."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


@dataclass(frozen=True)
class Uploaded:
    """An object that a store says it took. `version` is its version id where the bucket keeps versions."""

    key: str
    etag: str
    version: str | None = None


@dataclass(frozen=True)
class Reply:
    """A store's refusal, as far as every provider's is alike; `finer` is the code that some send beside a coarse one.

    `message` and `finer` serve to classify and are never shown; `code` and `request_id` may be shown, by `Refused`.
    """

    status: int
    code: str = ""
    message: str = ""
    request_id: str = ""
    finer: str = ""


class Refused(Exception):
    """Storage cannot be used, and why. Carries nothing that a customer may not see.

    `detail` fills {detail} of the fault's advice. `unknown_outcome` says that the request may have been carried
    out all the same; `absent` that it is the object, and not the bucket, that is not there.
    """

    def __init__(
        self,
        fault: Fault,
        reply: Reply | None = None,
        *,
        detail: str = "",
        unknown_outcome: bool = False,
        absent: bool = False,
    ) -> None:
        super().__init__(str(fault))
        self.fault = fault
        self.detail = detail
        self.unknown_outcome = unknown_outcome
        self.absent = absent
        self.status = reply.status if reply else None
        self.provider_code = reply.code if reply and _CODE.fullmatch(reply.code) else None
        self.request_id = reply.request_id if reply and _REQUEST_ID.fullmatch(reply.request_id) else None


class Bucket(Protocol):
    """One customer's bucket, ready to be used. Every method raises Refused, and nothing else that is expected."""

    host: str
    """The host that requests go to, as a report shows it."""

    found: Found
    """What had to be found out to reach it, for the next time."""

    async def upload(self, key: str, body: bytes) -> Uploaded:
        """Write `body` as `key`; returns only when the store has confirmed it with an ETag."""

    async def delete(self, uploaded: Uploaded) -> None:
        """Remove exactly the object that was uploaded: its version, where it has one."""


class Provider(Protocol):
    """A kind of storage. One serves all credentials of this process and lives as long as it."""

    def host(self, spec: Spec) -> str:
        """The host that is called first, for a report on a bucket that could not even be opened."""

    async def open(self, spec: Spec, found: Found) -> Bucket:
        """The bucket that `spec` means, of which `found` is known from before. Raises Refused where it had to be
        looked for and was not found."""

    def needs_locating(self, spec: Spec, found: Found) -> bool:
        """Whether `open` goes to the network for this one."""


@dataclass(frozen=True)
class FaultTable:
    """How one provider's answers translate. `finer` by the finer of two codes; `codes` by its error code; `messages`
    in order, for the codes in `vague` (those that say no more than "no"); all win over the status. `absent` is found
    in the code and message that say that there is no such object."""

    codes: Mapping[str, Fault]
    vague: frozenset[str] = frozenset()
    messages: tuple[tuple[re.Pattern[str], Fault], ...] = ()
    finer: Mapping[str, Fault] = field(default_factory=dict)
    absent: re.Pattern[str] | None = None

    def fault(self, reply: Reply, step: Step) -> Fault:
        """The fault that `reply` stands for at `step`; the unknown is PROVIDER_ERROR."""
        said = self.finer.get(reply.finer) or self._by_message(reply) or self.codes.get(reply.code)
        fault = said or _by_status(reply.status)
        return _AT_STEP.get((step, fault), fault)

    def refused(self, reply: Reply, step: Step) -> Refused:
        """`reply` as the exception that leaves the provider's file."""
        return Refused(
            self.fault(reply, step),
            reply,
            # What a server does not implement (501) it has not done.
            unknown_outcome=reply.status >= 500 and reply.status != 501,
            absent=bool(self.absent and self.absent.match(f"{reply.code} {reply.message}")),
        )

    def _by_message(self, reply: Reply) -> Fault | None:
        if reply.code not in self.vague:
            return None
        return next((fault for pattern, fault in self.messages if pattern.search(reply.message)), None)


# The same answer means another thing to the customer where another request was refused.
_AT_STEP = {
    (Step.DELETE, Fault.WRITE_DENIED): Fault.DELETE_DENIED,
    (Step.UPLOAD, Fault.DELETE_BLOCKED_BY_RETENTION): Fault.REQUEST_CONDITION_DENIED,
}


def _by_status(status: int) -> Fault:
    if status == 401:
        return Fault.ACCESS_KEY_UNKNOWN
    if status == 403:
        return Fault.WRITE_DENIED
    if status in (405, 501):
        return Fault.NOT_A_STORAGE_ENDPOINT
    if status == 404:
        return Fault.BUCKET_NOT_FOUND
    if status in (429, 503):
        return Fault.THROTTLED
    if status >= 500:
        return Fault.PROVIDER_UNAVAILABLE
    # A web server's success is no store's: the caller found no ETag in it.
    return Fault.NOT_A_STORAGE_ENDPOINT if status < 300 else Fault.PROVIDER_ERROR


def transport_refusal(error: BaseException) -> Refused | None:
    """The refusal behind an SDK's exception if no answer came, or none that could be read; None if one did.

    SDKs wrap what went wrong, each in its own way, so the whole chain of causes is looked at: first for the
    guard's own refusals, then for the operating system's.
    """

    def caused_by(*kinds: type[BaseException]) -> Any:
        return cause(error, *kinds)

    if caused_by(EgressRefused):
        return Refused(Fault.ENDPOINT_NOT_ALLOWED)
    if redirect := caused_by(RedirectRefused):
        return Refused(Fault.REDIRECT_REFUSED, Reply(redirect.status))
    if caused_by(AnswerTooLarge):
        return Refused(Fault.NOT_A_STORAGE_ENDPOINT, unknown_outcome=True)
    if caused_by(socket.gaierror, aiohttp.ClientConnectorDNSError):
        return Refused(Fault.HOST_NOT_FOUND)
    if tls := caused_by(ssl.SSLError, ssl.CertificateError):
        return Refused(Fault.TLS_FAILURE, detail=_tls_detail(tls))
    if caused_by(ConnectionRefusedError):
        return Refused(Fault.CONNECTION_REFUSED)
    if caused_by(TimeoutError):
        return Refused(Fault.TIMEOUT, unknown_outcome=True)
    if caused_by(aiohttp.InvalidURL):
        return Refused(Fault.HOST_NOT_FOUND)
    if caused_by(OSError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.http.HttpProcessingError):
        return Refused(Fault.CONNECTION_FAILED, unknown_outcome=True)
    return None


def unanswered(error: BaseException) -> Refused:
    """The refusal where an SDK raised and no answer that a store gives was read."""
    return transport_refusal(error) or Refused(Fault.NOT_A_STORAGE_ENDPOINT, unknown_outcome=True)


def stumbled(error: Exception) -> Refused:
    """The refusal when an SDK raised one of STUMBLES. The log has its kind alone: its text may be the whole answer."""
    log.warning("the answer could not be read", error=type(error).__name__)
    return Refused(Fault.NOT_A_STORAGE_ENDPOINT, unknown_outcome=True)


def cause(error: BaseException, *kinds: type[BaseException]) -> Any:
    """The nearest of `error` and its causes that is of one of `kinds`, or None."""
    return next((each for each in _causes(error) if isinstance(each, kinds)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and everything that is attached to it as a cause, nearest first."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        named = ("inner_exception", "os_error", "exception", "reason", "certificate_error")
        waiting += [each.__cause__, each.__context__, *each.args, *(getattr(each, n, None) for n in named)]
        waiting += list(getattr(each, "kwargs", {}).values())


def _tls_detail(error: BaseException) -> str:
    text = str(error).lower()
    for sign, detail in (
        ("expired", "the certificate has expired"),
        ("self-signed", "the certificate is self-signed"),
        ("self signed", "the certificate is self-signed"),
        ("mismatch", "the certificate is for another name"),
        ("doesn't match", "the certificate is for another name"),
        ("unable to get", "the certificate's issuer is not publicly trusted"),
        ("wrong version", "the port does not speak TLS"),
        ("record layer", "the port does not speak TLS"),
    ):
        if sign in text:
            return detail
    return "the handshake failed"
