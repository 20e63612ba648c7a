"""Why storage refused: what an SDK raises becomes one exception, with a fault of the vocabulary."""

import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from app.domain.faults import Fault
from app.domain.verification import Step
from workers.egress.guard import AnswerTooLarge, EgressRefused, RedirectRefused
from workers.egress.wire import current

log = structlog.get_logger()

# What an SDK raises, by its mistakes, on an answer that no store gives.
_SDK_BUGS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_HTML = (b"<!doctype html", b"<html")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._]{0,63}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9+/=_.:-]{1,128}")


@dataclass(frozen=True)
class Reply:
    """A store's refusal, as far as every provider's is alike; `finer` is the code that some send beside a coarse one.

    `code` is that of an error document of the provider's dialect, and empty where none came: then it is a page, a text
    or another service's error, and somebody on the way said it, unless it is `signed` by what only the provider sends
    with an answer. `message` and `finer` serve to classify and are never shown; `code` and `request_id` may be shown,
    by `Refused`.
    """

    status: int
    code: str = ""
    message: str = ""
    request_id: str = ""
    finer: str = ""
    signed: bool = False


class Refused(Exception):
    """Storage cannot be used, and why. Carries nothing that a customer may not see.

    `detail` fills {detail} of the fault's advice. `unknown_outcome` says that the request may have been carried
    out all the same, and `version` which version it wrote then, if that is known; `absent` says that it is the object,
    and not the bucket, that is not there. `settled` says that the answer to a new key will be the same later;
    `unanswered` that a name was not looked up at all, since nobody answered.
    """

    def __init__(
        self,
        fault: Fault,
        reply: Reply | None = None,
        *,
        detail: str = "",
        unknown_outcome: bool = False,
        version: str | None = None,
        absent: bool = False,
        settled: bool = False,
        unanswered: bool = False,
    ) -> None:
        super().__init__(str(fault))
        self.fault = fault
        self.detail = detail
        self.unknown_outcome = unknown_outcome
        self.version = version
        self.absent = absent
        self.settled = settled
        self.unanswered = unanswered
        self.status = reply.status if reply else None
        self.provider_code = reply.code if reply and _CODE.fullmatch(reply.code) else None
        self.request_id = reply.request_id if reply and _REQUEST_ID.fullmatch(reply.request_id) else None


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
        fault = said or _by_status(reply, step)
        return _AT_STEP.get((step, fault), fault)

    def refused(self, reply: Reply, step: Step) -> Refused:
        """`reply` as the exception that leaves the provider's file."""
        return Refused(
            self.fault(reply, step),
            reply,
            # What a server does not implement (501) it has not done. Behind a success that is none of the store's, the
            # store may have done it.
            unknown_outcome=reply.status < 300 or (reply.status >= 500 and reply.status != 501),
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


def _by_status(reply: Reply, step: Step) -> Fault:
    status = reply.status
    if not (reply.code or reply.signed) and 300 <= status < 500 and status not in (405, 429):
        # A store says why it refuses. Whoever does not is a proxy, a console or a website.
        return Fault.NOT_A_STORAGE_ENDPOINT
    if status == 401:
        return Fault.ACCESS_KEY_UNKNOWN
    if status == 403:
        return Fault.WRITE_DENIED
    if status == 405 and step is Step.DELETE:
        # It has taken the upload, so that it is a store.
        return Fault.DELETE_DENIED
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
        return not_a_store()
    if lookup := caused_by(socket.gaierror, aiohttp.ClientConnectorDNSError):
        return Refused(Fault.HOST_NOT_FOUND, unanswered=getattr(lookup, "errno", None) == socket.EAI_AGAIN)
    if tls := caused_by(ssl.SSLError, ssl.CertificateError):
        # A connection that breaks later may have carried the request.
        return Refused(Fault.TLS_FAILURE, detail=_tls_detail(tls), unknown_outcome=current().connected)
    if caused_by(ConnectionRefusedError):
        return Refused(Fault.CONNECTION_REFUSED)
    if caused_by(TimeoutError):
        return Refused(Fault.TIMEOUT, unknown_outcome=True)
    if caused_by(aiohttp.InvalidURL):
        return Refused(Fault.HOST_NOT_FOUND)
    if caused_by(OSError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.http.HttpProcessingError):
        return Refused(Fault.CONNECTION_FAILED, unknown_outcome=True)
    return None


@contextlib.contextmanager
def refusals(
    step: Step, answered: Callable[[Exception, Step], Refused | None], *errors: type[Exception]
) -> Iterator[None]:
    """Raises Refused for whatever an SDK raises in this block, at `step`, about the host that it called.

    `errors` are the SDK's own exceptions, beside those of the network. `answered` makes a Refused of one that carries
    the service's answer, and returns None for any other.
    """
    expected: tuple[type[Exception], ...] = (*errors, RedirectRefused, aiohttp.ClientError, OSError)
    try:
        yield
    except expected as error:
        refused = answered(error, step) or transport_refusal(error) or not_a_store()
        if refused.fault is Fault.CONNECTION_FAILED:
            # The log has the kinds alone, of the outermost and of what was at its bottom: a text may have anything.
            *_, bottom = _causes(error)
            log.info("no answer", step=step, error=type(error).__name__, cause=type(bottom).__name__)
        raise refused from None
    except _SDK_BUGS as error:
        # The log has its kind alone: its text may be the whole answer.
        log.warning("the answer could not be read", error=type(error).__name__)
        raise not_a_store() from None


def not_a_store(reply: Reply | None = None, version: str | None = None) -> Refused:
    """The refusal of an answer that no store gives. Whoever answered so may have handed the request on to a store, so
    that its outcome is not known."""
    return Refused(Fault.NOT_A_STORAGE_ENDPOINT, reply, unknown_outcome=True, version=version)


def is_page(content_type: str, body: bytes) -> bool:
    """Whether the body of a success that is to have none, or XML, is something else: no store's word."""
    text = body.lstrip().lower()
    return bool(text) and ("html" in content_type or not text.startswith(b"<") or text.startswith(_HTML))


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
    for marker, detail in (
        ("expired", "the certificate has expired"),
        ("self-signed", "the certificate is self-signed"),
        ("self signed", "the certificate is self-signed"),
        ("mismatch", "the certificate is for another name"),
        ("doesn't match", "the certificate is for another name"),
        ("unable to get", "the certificate's issuer is not publicly trusted"),
        ("wrong version", "the port does not speak TLS"),
        ("record layer", "the port does not speak TLS"),
    ):
        if marker in text:
            return detail
    return "the handshake failed"
