"""What the tests need to know of a type: `Storage`, and what it is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any

from app.domain.faults import Fault
from app.domain.types import parse
from app.domain.types.base import Spec
from app.domain.verification import Step
from tests.servers.odd import STORED
from workers.storage.refusals import FaultTable, Reply

Body = Mapping[str, Any]
Verdict = tuple[str, str]
"""A fault's code, and the step that failed."""
Fixtures = Callable[[str], Any]
"""The fixture of that name, as `request.getfixturevalue` has it."""

VERDICTS: dict[str, Verdict] = {
    "wrong_secret": ("secret_mismatch", "upload"),
    "unknown_key": ("access_key_unknown", "upload"),
    "missing_bucket": ("bucket_not_found", "upload"),
    "write_refused": ("write_denied", "upload"),
    "delete_refused": ("delete_denied", "delete"),
    "dead": ("connection_refused", "connect"),
    "silent": ("timeout", "upload"),
    "html": ("not_a_storage_endpoint", "upload"),
}

REQUEST_ID = "4442587FB7D0A2F9"
DELETED = b"HTTP/1.1 204 No Content\r\n\r\n"
"""What most stores say when they have deleted the test file."""


@dataclass(frozen=True)
class Backend:
    """A real server of a type. `right` is accepted; each of `changes`, by the contract's case, makes it another case.

    `blames` is the parameter that a case's refusal points at, `verdicts` what differs from VERDICTS, `endpoint` the
    parameter that has the host's address where a type has one, `secrets` what no answer may contain, `objects`
    everything that there is in its buckets, `content` what the object with a key has in the right one, and `unfinished`
    how many uploads were begun there and not ended, as far as that can be asked.
    """

    right: Body
    changes: Mapping[str, Body]
    blames: Mapping[str, str]
    objects: Callable[[], list[str]]
    content: Callable[[str], bytes]
    unfinished: Callable[[], int]
    secrets: tuple[str, ...]
    endpoint: str | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    def body(self, case: str) -> dict[str, Any]:
        return {**self.right, **self.changes[case]}

    def at(self, url: str) -> dict[str, Any]:
        """The right body for a host at `url`, where the body says it; elsewhere the service's settings do."""
        return {**self.right, **({self.endpoint: url} if self.endpoint else {})}

    def verdict(self, case: str) -> Verdict:
        return self.verdicts.get(case, VERDICTS[case])


Form = tuple[str, dict[str, str], str]
"""A body's type, the headers that come with it, the body."""


@dataclass(frozen=True)
class Row:
    """One refusal of one provider: `fault` is what it is to be told as. `finer` and `region` are what some send beside
    the code.

    `told` is the detail that the customer reads. `by_status` says that the status alone would be the same fault, and
    `at` which of two hosts answers, where Google's issuer of tokens may be meant. `form` writes the refusal as its
    provider does, and `table` is the one that has this signal.
    """

    fault: Fault
    status: int
    code: str
    message: str = ""
    step: Step = Step.UPLOAD
    finer: str = ""
    region: str = ""
    told: str = ""
    by_status: bool = False
    at: str = ""
    on: str = field(kw_only=True)
    form: Callable[["Row"], Form] = field(kw_only=True, repr=False)
    table: FaultTable = field(kw_only=True, repr=False)

    def __str__(self) -> str:
        return f"{self.on}-{self.step}-{self.status}-{self.code}-{self.fault}"

    @property
    def reply(self) -> Reply:
        """What the provider's file is to make of it."""
        return Reply(self.status, self.code, self.message, finer=self.finer)

    @property
    def answer(self) -> bytes:
        """The whole HTTP answer."""
        kind, headers, body = self.form(self)
        lines = [f"HTTP/1.1 {self.status} Refused", f"Content-Type: {kind}", f"Content-Length: {len(body.encode())}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def error_xml(**elements: str) -> str:
    """The body of a refusal in XML; empty elements are left out."""
    inner = "".join(f"<{name}>{escape(text, quote=False)}</{name}>" for name, text in elements.items() if text)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'


@dataclass(frozen=True)
class Traffic:
    """What the dashboard's hour has of a type: its hosts, its share of all jobs, and how long a job usually takes."""

    hosts: tuple[str, ...]
    weight: int
    usual_ms: int


@dataclass(frozen=True, kw_only=True)
class Storage:
    """One way to store: a type, with one of its kinds of credentials."""

    name: str
    """The type's name, and what tells it from the type's other ways."""
    good: Body
    """A body that is well formed and complete, but for `name` and `enabled`."""
    malformed: tuple[tuple[str, str, str], ...] = ()
    """Values that the type's rules refuse: the parameter, the value, the code."""
    hostile: Mapping[str, list[str]] = field(default_factory=dict)
    """By parameter that becomes part of a host's name or of a path, what may not stand there."""
    planted: Body
    """A body with SENTINEL in whatever must never be seen."""
    needles: tuple[bytes, ...] = ()
    """What must never be seen either: where another spelling hides the sentinel."""
    brands: frozenset[str]
    """The names that a message for this type may call the provider by, and for others may not."""
    traffic: Traffic | None = None
    """For the first way of each type."""

    provider: str = ""
    """The module or package under workers/storage that serves it; called as the type unless this says otherwise."""
    backends: Mapping[str, Callable[[Fixtures], Backend]]
    """Its real servers, by their name in the contract."""
    particulars: tuple[str, ...] = ()
    """The cases beyond the contract's that its servers can be brought to: `versioned`, `no_versions`, `retained`."""
    support: tuple[str, str, int] | None = None
    """One of its cases, and the provider's own code and the status in the report of that."""
    settings: Callable[[Fixtures], dict[str, str]] = lambda _: {}
    """The service's settings, by which the servers are in the provider's place."""
    settings_at: Callable[[str], dict[str, str]] = lambda _: {}
    """The settings by which the host at a URL is in the provider's place."""
    endpoint: str | None = None
    """The parameter that has the host's address, where the type has one."""

    row: "partial[Row]"
    """Makes a refusal of this provider."""
    rows: tuple[Row, ...]
    """All that are recorded."""
    stored: bytes = STORED
    """How it says that it has taken the test file."""
    deleted: bytes = DELETED
    """How it says that it has deleted it."""
    absent: tuple[int, str, str] = (404, "NoSuchKey", "")
    """How it says that there is no such file: status, code, message."""
    delete_denied: tuple[str, str] = ("AccessDenied", "Access Denied")
    """How it says, with 403, that the key may not delete: code and message."""
    retained: tuple[str, str] = ("AccessDenied", "Access Denied because object protected by object lock.")
    """How it says, with 403, that retention keeps a file: code and message."""
    version: str | None = "versionId=v1"
    """How a DELETE of one version is told from one of the file; None where no bucket keeps versions."""
    deletes: tuple[bool, ...] = (True,)
    """The DELETE requests for a file in a bucket that keeps versions: whether each is of the version."""
    locates: bool = False
    """Whether it asks where the bucket is, before it uploads."""
    asks_first: bool = False
    """Whether its first request is not the upload."""
    unreachable: frozenset[Fault] = frozenset()
    """Of the faults that every customer meets, those that this provider has no reply for."""
    repeats_nothing: bool = False
    """Whether the host is the customer's choice, so that no word of it is repeated but a well-formed code."""

    @property
    def type(self) -> str:
        return str(self.good["type"])

    @property
    def served_by(self) -> str:
        """The module or package under workers/storage."""
        return self.provider or self.type

    @property
    def contacts(self) -> Step:
        """The step in which the host is connected to."""
        return Step.LOCATE if self.locates else Step.CONNECT

    def spec(self, url: str = "", **changes: Any) -> Spec:
        """That of the good body with `changes`, at `url` where the body says the place."""
        place = {self.endpoint: url} if self.endpoint and url else {}
        return parse({**self.good, **changes, **place}, allow_http=True)
