"""Hostile endpoints, names, accounts, regions and stores: nothing is called, nothing is learnt, nothing is used up."""

import gzip
import random
from functools import partial
from statistics import median

import pytest

from app.domain.errors import Fault
from app.domain.verification import Report
from tests.faults.island import CANARY, CLOSED, PUBLIC, SEARCH, Attempt, Host, Outcome, met
from tests.faults.verifying import BODIES, WITHIN, failed
from tests.servers.dns import Answers
from tests.servers.odd import STORED, answering, endless, everywhere, huge, redirecting, silent

PRIVATE = "10.0.0.1"
METADATA = "169.254.169.254"

# Each reaches what no customer may reach, if it is let: this machine, its networks, a cloud's metadata service
# (Amazon, Google, Azure, Oracle, Alibaba, Tencent and the container services beside them), reserved space.
ADDRESSES = [
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1",
    "169.254.169.254", "169.254.169.253", "169.254.170.2", "169.254.170.23", "169.254.0.23", "100.100.100.200",
    "192.0.0.192", "168.63.129.16", "192.88.99.1", "198.18.0.1", "192.0.2.1", "203.0.113.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255",
    "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]",
    "[::FFFF:169.254.169.254]", "[0:0:0:0:0:ffff:7f00:1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::169.254.169.254]",
    "[64:ff9b::7f00:1]", "[64:ff9b:1::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[2002:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[2001::1]", "[fd00:ec2::254]", "[fd20:ce::254]", "[fe80::1]",
    "[fec0::1]", "[fc00::1]", "[ff02::1]", "[100::1]", "[2001:db8::1]", "[3fff::1]", "[5f00::1]",
    "１２７.０.０.１", "127。0。0。1", "①②⑦.⓪.⓪.①", "169.254.169.254.",
]  # fmt: skip

# What is no plain address of a host, or is one in disguise, is refused before anything is called.
SPELLINGS = [
    "http://127.1", "http://127.0.1", "http://0", "http://2130706433", "http://0x7f000001", "http://0x7f.0.0.1",
    "http://0177.0.0.1", "http://017700000001", "http://127.0.0.01", "http://127.0.0.1.5", "http://4294967297",
    "http://127.0.0.1..", "http://127%2e0%2e0%2e1", "http://[fe80::1%25lo]", "http://[fe80::1%lo]", "http://[::1",
    "http://[v1.a:b]", "http://[127.0.0.1]", f"http://{PUBLIC}@127.0.0.1:9000", f"http://{PUBLIC}:80@127.0.0.1",
    f"http://{PUBLIC}#@127.0.0.1:9000", f"http://{PUBLIC}?@127.0.0.1:9000", f"http://{PUBLIC}\\@127.0.0.1:9000",
    f"http://{PUBLIC}/@127.0.0.1", f"http://{PUBLIC}\r\nHost: 127.0.0.1", f"http://{PUBLIC}\x00.127.0.0.1",
    "http://127.0.0.1 .example.com", "http://evil.c℀.example", "http://a\u202eb.example/",
    "http://xn--\u2603.example", "http://a..b", "http://-a.example", f"http://{'a' * 64}.example",
    f"http://{'a.' * 127}example", "http:127.0.0.1:9000", "http:///127.0.0.1:9000", "//127.0.0.1:9000",
    "127.0.0.1:9000", "file:///etc/passwd", "gopher://127.0.0.1:9000", "ftp://127.0.0.1", "unix:///run/x.sock",
    "dict://127.0.0.1:9000", f"http://{PUBLIC}:22", f"http://{PUBLIC}:0", f"http://{PUBLIC}:65536",
    f"http://{PUBLIC}:-1", f"http://{PUBLIC}:0x50", f"http://{PUBLIC}:９０００", f"http://{PUBLIC}:9000:9000",
]  # fmt: skip

# A name of each part of the table: none may be told from `unknown.test`, which nobody has.
NAMES: dict[str, Answers] = {
    "metadata.google.internal": [[METADATA]],
    "instance-data": [[METADATA]],
    "metadata.tencentyun.com": [["169.254.0.23"]],
    "kubernetes.default.svc": [["10.96.0.1"]],
    "private.test": [[PRIVATE]],
    "loopback.test": [["127.0.0.1"]],
    "all.test": [[PRIVATE, METADATA, "127.0.0.1", "fd00::1"]],
    "v6.test": [["fd00:ec2::254"]],
    "mapped.test": [["::ffff:169.254.169.254"]],
    "nat64.test": [["64:ff9b::a9fe:a9fe"]],
    "6to4.test": [["2002:a9fe:a9fe::1"]],
    "teredo.test": [["2001:0:4136:e378:8000:63bf:3fff:fdd2"]],
    "unspecified.test": [["0.0.0.0", "::"]],
    "changing.test": [[PRIVATE], [PUBLIC]],
    "my-bucket.private.test": [[PRIVATE]],
}
SPELLED = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "private.test.",
    "PRIVATE.test",
    "ｐｒｉｖａｔｅ.test",
    "private。test",
]
NOBODYS = "unknown.test"
OTHERS: dict[str, Answers] = {
    "rebinding.test": [[PUBLIC], [METADATA]],
    "mixed.test": [[METADATA, PUBLIC, PRIVATE]],
    "many.test": [[f"1.2.3.{last}" for last in range(4, 20)]],
    "mute.test": [],
    f"vault.{SEARCH}": [[PUBLIC]],
}

# What becomes a part of a host's name or of a path: by body and parameter, what is refused there.
PARTS: dict[tuple[str, str], list[str]] = {
    ("s3", "s3_bucket_name"): [
        "..", "a/../b", METADATA, "a.b@127.0.0.1", "a#b", "a?b=c", "a%2fb", "a\r\nb", "arn:aws:s3:::b", "evil.com/x",
        "a:9000", "bücket", "xn--b", "a..b",
    ],
    ("s3compatible", "s3_bucket_name"): [
        "..", "../..", "a/b", "a@b", "a?b", "a#b", "a\x00b", "a%2e%2e", "b\r\nHost: x", "‥bc", "a..b",
    ],
    ("s3compatible", "s3_region"): ["evil.com/#", "us-east-1.evil.com", "us east 1", "../x", "eu\r\nX: y", "UPPER"],
    ("gcs", "gcs_bucket_name"): ["..", "a/b", "127.0.0.1", "a@b", "a\nb", "goog-x", "évil"],
    ("azure", "azure_account_name"): [
        "evil.com/", "a@127.0.0.1", "a.b", "account.blob.core.windows.net", "127.0.0.1:9000/", "a#", "a?b", "{account}",
        "a\r\nb", "Ａccount",
    ],
    ("azure", "azure_container_name"): ["..", "a/../b", "a?comp=acl", "a--b", "A", "a#b", "$logs"],
    ("oss", "oss_region_id"): [
        "oss-cn-hangzhou.evil.com", "oss-cn-hangzhou@127.0.0.1", "oss-cn-hangzhou:9000", "oss-cn-hangzhou/",
        "oss-cn-hangzhou-internal", "oss-accelerate", "../oss-cn-a", "oss-cn-{x}", "127.0.0.1", "oss-cn-hangzhou#",
    ],
    ("oss", "oss_bucket_name"): ["..", "a.b", "a/b", "a@b", "127.0.0.1", "b:9000", "évil"],
}  # fmt: skip

STATUSES = [301, 302, 303, 307, 308]
LOCATIONS = [
    f"http://{METADATA}:{CANARY}/latest/meta-data/", f"http://127.0.0.1:{CANARY}/", f"http://127.0.0.1:{CLOSED}/",
    f"http://1.2.3.5:{CANARY}/", f"http://1.2.3.5:{CLOSED}/", f"//{PRIVATE}:{CANARY}/", f"http://private.test:{CANARY}/",
    f"http://{NOBODYS}/", "/elsewhere", "", "ftp://127.0.0.1/", f"http://user:pw@{METADATA}:{CANARY}/#x",
]  # fmt: skip


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """One whole answer; a header is written with _ for -."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


BOMB = gzip.compress(bytes(50 * 2**20))
NOISE = random.Random(1).randbytes(60_000)
REFUSAL = b"HTTP/1.1 403 Said\r\n"
DECLARED = b'<!DOCTYPE e [<!ENTITY a "%s">%s]><Error><Code>%s</Code></Error>'
LAUGHS = DECLARED % (
    b"lol",
    b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)),
    b"&j;",
)

# Answers that use up memory, time or the patience of a parser.
BURDENS: dict[str, Host] = {
    "300 megabytes": huge,
    "one endless header": partial(endless, REFUSAL + b"X-A: ", b"x" * 4096),
    "endless headers": partial(endless, REFUSAL, b"X-A: y\r\n" * 512),
    "endless long headers": partial(endless, REFUSAL, b"X-A: " + b"y" * 8000 + b"\r\n"),
    "endless answers on the way": partial(endless, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "speaks first, without end": partial(endless, b"SSH-2.0-OpenSSH_9.6\r\n", b"x" * 4096, asked=False),
    "endless body": partial(endless, REFUSAL + b"\r\n", b"x" * 4096),
    "endless chunks of one byte": partial(
        endless, REFUSAL + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 500
    ),
    "endless chunk extension": partial(endless, REFUSAL + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 4096),
    "endless trailers": partial(endless, REFUSAL + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: y\r\n" * 500),
    "gzip bomb": partial(answering, reply(403, BOMB, Content_Encoding="gzip", Content_Type="application/xml")),
    "gzip bomb, accepted": partial(answering, reply(200, BOMB, Content_Encoding="gzip", ETag='"e"')),
    "gzip bomb as charset": partial(answering, reply(403, BOMB, Content_Type="text/plain; charset=zlib")),
    "deep XML": partial(answering, reply(403, b"<a>" * 9000 + b"</a>" * 9000, Content_Type="application/xml")),
    "deep XML, accepted": partial(answering, reply(200, b"<a>" * 9000 + b"</a>" * 9000, ETag='"e"')),
    "deep XML, unfinished": partial(answering, reply(403, b"<a>" * 21_000, Content_Type="application/xml")),
    "deep XML in an error": partial(
        answering, reply(403, b"<Error><Code>" + b"<a>" * 900 + b"</a>" * 900 + b"</Code></Error>")
    ),
    "many elements": partial(answering, reply(403, b"<Error>" + b"<a/>" * 15_000 + b"</Error>")),
    "many attributes": partial(
        answering, reply(403, b"<Error " + b" ".join(b"a%d=''" % n for n in range(5500)) + b"></Error>")
    ),
    "a billion laughs": partial(answering, reply(403, LAUGHS, Content_Type="application/xml")),
    "a billion laughs in UTF-16": partial(answering, reply(403, LAUGHS.decode().encode("utf-16"))),
    "quadratic entities": partial(answering, reply(403, DECLARED % (b"x" * 30_000, b"", b"&a;" * 9000))),
    "default attributes": partial(
        answering, reply(403, b'<!DOCTYPE e [<!ATTLIST a x "' + b"y" * 30_000 + b'">]><e>' + b"<a/>" * 8000 + b"</e>")
    ),
    "deep JSON": partial(answering, reply(200, b"[" * 60_000, Content_Type="application/json")),
    "deep JSON in an error": partial(
        answering, reply(403, b'{"error":' + b"[" * 30_000 + b"]" * 30_000 + b"}", Content_Type="application/json")
    ),
    "a number without end": partial(
        answering, reply(200, b'{"etag":' + b"1" * 60_000 + b"}", Content_Type="application/json")
    ),
    "noise": partial(answering, reply(403, NOISE)),
    "noise, accepted": partial(answering, reply(200, NOISE, ETag='"e"')),
    "a slow charset": partial(
        answering, reply(403, b"a-" + b"a" * 60_000, Content_Type="text/plain; charset=punycode")
    ),
}

# Answers that are strange, and small.
ODDITIES: dict[str, bytes] = {
    "switching protocols": b"HTTP/1.1 101 Said\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello",
    "status 000": reply(0).replace(b" 0 ", b" 000 "),
    "status 999": reply(999),
    "300 elsewhere": reply(300, Location=LOCATIONS[0]),
    "304 elsewhere": reply(304, Location=LOCATIONS[0]),
    "305 use this proxy": reply(305, Location=LOCATIONS[0]),
    "401 ask there for a token": reply(401, WWW_Authenticate=f"Bearer authorization_uri={LOCATIONS[0]}"),
    "407 who are you": reply(407, Proxy_Authenticate="Basic"),
    "503 much later": reply(503, Retry_After="100000"),
    "an external entity": reply(403, b'<!DOCTYPE e [<!ENTITY a SYSTEM "%s">]><e>&a;</e>' % LOCATIONS[0].encode()),
    "an external document type": reply(403, b'<!DOCTYPE e SYSTEM "%s"><e/>' % LOCATIONS[0].encode()),
    "a region elsewhere": reply(400, x_amz_bucket_region="evil.com/#"),
    "a region elsewhere in XML": reply(
        400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>evil.com/#</Region></Error>"
    ),
    "a length below zero": b"HTTP/1.1 200 Said\r\nContent-Length: -5\r\nConnection: close\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 Said\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "headers that are no text": reply(
        403, x_amz_request_id="\xff", x_ms_request_id="\xff", x_ms_error_code="\xff", x_oss_request_id="\xff"
    ),
    "a version that is no text": reply(
        201, ETag='"e"', x_amz_version_id="\xff", x_ms_version_id="\xff", x_oss_version_id="\xff"
    ),
    "a version that is a path": reply(
        200, ETag='"e"', x_amz_version_id="../x?y#", x_ms_version_id="../x?y#", x_oss_version_id="../x?y#"
    ),
    "a checksum that is no number": reply(200, ETag='"e"', x_oss_hash_crc64ecma="x", Content_MD5="!"),
    "JSON that is a list": reply(200, b'["etag"]', Content_Type="application/json"),
    "JSON that is null": reply(200, b"null", Content_Type="application/json"),
    "a token that is a number": reply(
        200, b'{"access_token": 7, "expires_in": 1e999}', Content_Type="application/json"
    ),
    "a token with a line break": reply(
        200, b'{"access_token": "a\\r\\nX: y", "expires_in": 9}', Content_Type="application/json"
    ),
}
ACCEPTED = {"deep XML, accepted", "gzip bomb, accepted", "noise, accepted"} | {
    name for name in ODDITIES if name.startswith("a version") or name.startswith("a checksum")
}

# Hosts that hold the line: whether over TLS, and who stands there.
STALLS: dict[str, tuple[bool, Host]] = {
    "says nothing, not even Continue": (False, silent),
    "one byte of a header a second": (False, partial(endless, REFUSAL + b"X-A: ", b"x", every=1)),
    "one byte of a body a second": (False, partial(endless, REFUSAL + b"Content-Length: 60000\r\n\r\n", b"x", every=1)),
    "Continue again and again": (False, partial(endless, b"", b"HTTP/1.1 100 Continue\r\n\r\n", every=0.5)),
    "TLS never begun": (True, silent),
    "TLS never finished": (True, partial(endless, b"\x16\x03\x03\x3f\xff\x02\x00", b"\x00", every=0.5, asked=False)),
}


def report(outcome: Outcome) -> Report:
    assert outcome.report, outcome.faults
    return outcome.report


def answer(outcome: Outcome, *typed: str) -> str:
    """The whole answer to a customer, but for what was `typed` and for durations."""
    said = report(outcome).model_copy(update={"duration_ms": 0})
    steps = tuple(each.model_copy(update={"ms": None}) for each in said.steps)
    text = said.model_copy(update={"steps": steps}).model_dump_json()
    for each in typed:
        text = text.replace(each, "TYPED")
    return text


def requests(kind: str) -> int:
    """How many requests a verification of `kind` makes at most, each on a connection of its own or on one before."""
    return 3 if kind in ("s3", "gcs by service account") else 2


@pytest.fixture(scope="module")
def addresses() -> list[tuple[str, Outcome, Outcome]]:
    """Of every address, what comes of it where somebody listens and where nobody does."""
    attempts = [Attempt(place=f"http://{address}:{port}") for address in ADDRESSES for port in (CANARY, CLOSED)]
    outcomes = met(attempts, {})
    return list(zip(ADDRESSES, outcomes[::2], outcomes[1::2], strict=True))


def test_whether_somebody_listens_at_an_address_is_not_learnt(addresses: list[tuple[str, Outcome, Outcome]]) -> None:
    said = set()
    for address, listening, closed in addresses:
        assert report(listening).code == Fault.ENDPOINT_NOT_ALLOWED, address
        assert failed(report(listening)) == [("connect", Fault.ENDPOINT_NOT_ALLOWED)], address
        for outcome, port in ((listening, CANARY), (closed, CLOSED)):
            assert outcome.canary == [], address
            assert outcome.asked == [], address
            said.add(answer(outcome, report(outcome).host).replace(str(port), "PORT"))
    assert len(said) == 1, "one answer for all"


def test_nor_by_the_time_that_the_answer_takes(addresses: list[tuple[str, Outcome, Outcome]]) -> None:
    listening, closed = (median(each[n].seconds for each in addresses) for n in (1, 2))
    assert abs(listening - closed) < 0.02, (listening, closed)
    assert max(outcome.seconds for _, *both in addresses for outcome in both) < WITHIN / 2


def test_what_is_no_plain_host_is_refused_before_anything_is_called() -> None:
    for place, outcome in zip(
        SPELLINGS, met([Attempt(changes={"s3_endpoint": each}) for each in SPELLINGS], {}), strict=True
    ):
        assert [(fault.parameter, fault.code) for fault in outcome.faults] == [("s3_endpoint", "invalid_parameter")], (
            place
        )
        assert place not in outcome.faults[0].message


def test_what_becomes_a_part_of_a_name_or_path_is_refused_before_anything_is_called() -> None:
    rows = [(kind, name, value) for (kind, name), values in PARTS.items() for value in values]
    outcomes = met([Attempt(kind, changes={name: value}) for kind, name, value in rows], {})
    for (kind, name, value), outcome in zip(rows, outcomes, strict=True):
        assert [fault.parameter for fault in outcome.faults] == [name], (kind, value)
        assert outcome.faults[0].code in ("invalid_parameter", "unsupported_bucket_type")
        assert len(value) < 5 or value not in outcome.faults[0].message


@pytest.fixture(scope="module")
def names() -> dict[str, Outcome]:
    """What comes of a name that nobody has, and of those of private addresses."""
    rows = [NOBODYS, *NAMES, *SPELLED, "vault"]
    outcomes = met([Attempt(place=f"http://{name}:{CANARY}") for name in rows], {**NAMES, **OTHERS})
    return dict(zip(rows, outcomes, strict=True))


def test_a_name_of_a_private_address_is_answered_as_one_that_nobody_has(names: dict[str, Outcome]) -> None:
    said = {answer(outcome, report(outcome).host) for outcome in names.values()}
    assert len(said) == 1, "one answer for all"
    assert failed(report(names[NOBODYS])) == [("resolve", Fault.HOST_NOT_FOUND)]
    assert not [name for name, outcome in names.items() if outcome.canary]
    nobodys, others = names[NOBODYS].seconds, median(outcome.seconds for outcome in names.values())
    assert abs(nobodys - others) < 0.05, (nobodys, others)


def test_a_name_is_looked_up_as_it_is_and_not_in_the_domain_of_this_machine(names: dict[str, Outcome]) -> None:
    assert set(names["vault"].asked) == {"vault"}
    assert not [name for outcome in names.values() for name in outcome.asked if name.endswith(SEARCH)]


@pytest.mark.parametrize("kind", BODIES)
def test_each_kind_of_store_gives_the_same_answers(kind: str) -> None:
    """The endpoint is the operator's own here: what a customer cannot say is refused no less."""
    places = [f"http://{host}:{port}" for host in (METADATA, "private.test", NOBODYS) for port in (CANARY, CLOSED)]
    outcomes = met([Attempt(kind, place) for place in places], NAMES)
    by_address, by_name = (
        {answer(outcome, place.removeprefix("http://")) for place, outcome in each}
        for each in (list(zip(places, outcomes, strict=True))[:2], list(zip(places, outcomes, strict=True))[2:])
    )
    assert len(by_address) == len(by_name) == 1
    assert [report(outcome).code for outcome in outcomes] == [Fault.ENDPOINT_NOT_ALLOWED] * 2 + [
        Fault.HOST_NOT_FOUND
    ] * 4
    assert not [outcome for outcome in outcomes if outcome.canary]


CLOSING = STORED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def test_a_name_that_changes_between_two_look_ups_is_not_followed_inside() -> None:
    attempts = [
        Attempt(kind, place=f"http://{name}:PORT", host=partial(everywhere, CLOSING))
        for kind in ("s3compatible", "oss")
        for name in ("rebinding.test", "changing.test", "mixed.test")
    ]
    table = {**NAMES, **OTHERS}
    table.update({f"my-bucket.{name}": answers for name, answers in table.items()})
    for attempt, outcome in zip(attempts, met(attempts, table), strict=True):
        said = report(outcome)
        match attempt.place.partition(".")[0].removeprefix("http://"):
            case "rebinding":
                assert outcome.called == [PUBLIC], "only for the upload"
                assert failed(said) == [("delete", Fault.HOST_NOT_FOUND)]
                assert said.left_behind
            case "changing":
                assert outcome.called == []
                assert failed(said) == [("resolve", Fault.HOST_NOT_FOUND)]
            case "mixed":
                assert outcome.called == [PUBLIC, PUBLIC], "for the upload and for the delete"
                assert said.ok


@pytest.mark.parametrize("kind", ["s3compatible", "oss"])
def test_a_name_of_many_addresses_is_called_at_one(kind: str) -> None:
    table = {"my-bucket.many.test": OTHERS["many.test"], **OTHERS}
    silent_everywhere = partial(everywhere, b"")
    attempts = [
        Attempt(kind, "http://many.test:PORT", host=silent_everywhere, tls=True),
        Attempt(kind, "http://many.test:9001"),
    ]
    broken, closed = met(attempts, table)
    assert len(broken.called) == 1
    assert failed(report(broken)) == [("connect", Fault.TIMEOUT)]
    assert failed(report(closed)) == [("connect", Fault.CONNECTION_REFUSED)]


def test_a_resolver_that_does_not_answer_is_left_at_the_bound() -> None:
    table = {"my-bucket.mute.test": [], **OTHERS}
    attempts = [Attempt(kind, "http://mute.test:9000", turn="mute") for kind in BODIES]
    for attempt, outcome in zip(attempts, met(attempts, table), strict=True):
        at = "locate" if attempt.kind == "s3" else "resolve"
        assert failed(report(outcome)) == [(at, Fault.TIMEOUT)], attempt
        assert outcome.seconds < WITHIN + 1
        assert not outcome.canary


def test_a_redirect_is_not_followed_and_tells_nothing_of_where_it_leads() -> None:
    rows = [
        (kind, status, location)
        for kind in BODIES
        for status in STATUSES
        for location in (LOCATIONS if kind == "s3compatible" else LOCATIONS[:1])
    ]
    attempts = [Attempt(kind, host=partial(redirecting, location, status)) for kind, status, location in rows]
    said: dict[tuple[str, int], set[str]] = {}
    for (kind, status, location), outcome in zip(rows, met(attempts, NAMES), strict=True):
        assert report(outcome).code == Fault.REDIRECT_REFUSED, (kind, status, location)
        # S3 is asked for the bucket's region first, which a redirect may name.
        assert len(outcome.requests) == (2 if kind == "s3" else 1), (kind, status, location)
        assert (outcome.canary, outcome.asked) == ([], []), (kind, status, location)
        said.setdefault((kind, status), set()).add(answer(outcome, report(outcome).host))
    assert {len(each) for each in said.values()} == {1}, "one answer for each status"


def test_a_delete_is_not_redirected_either() -> None:
    kinds = ["s3", "s3compatible", "gcs", "oss"]
    elsewhere = f"HTTP/1.1 307 Elsewhere\r\nLocation: {LOCATIONS[0]}\r\nContent-Length: 0\r\n\r\n".encode()
    for outcome in met([Attempt(kind, host=partial(answering, STORED, DELETE=elsewhere)) for kind in kinds], {}):
        assert failed(report(outcome)) == [("delete", Fault.REDIRECT_REFUSED)]
        assert report(outcome).left_behind
        assert not outcome.canary


@pytest.mark.parametrize("kind", BODIES)
def test_no_answer_uses_up_memory_or_time(kind: str) -> None:
    for name, outcome in zip(BURDENS, met([Attempt(kind, host=host) for host in BURDENS.values()], {}), strict=True):
        assert outcome.grown < 20_000, (name, "kilobytes more than before", outcome.grown)
        assert outcome.blocked < 1, (name, "seconds in which nobody else was served", outcome.blocked)
        assert outcome.seconds < WITHIN + 1, name
        assert len(outcome.called) <= requests(kind) >= len(outcome.requests), name
        assert report(outcome).ok <= (name in ACCEPTED), (name, report(outcome))
        assert report(outcome).code != Fault.INTERNAL_ERROR


@pytest.mark.parametrize("kind", BODIES)
def test_no_strange_answer_is_an_error_of_ours_or_leads_elsewhere(kind: str) -> None:
    attempts = [Attempt(kind, host=partial(answering, each)) for each in ODDITIES.values()]
    for name, outcome in zip(ODDITIES, met(attempts, {}), strict=True):
        assert (outcome.canary, outcome.asked) == ([], []), name
        assert outcome.seconds < WITHIN + 1, name
        assert len(outcome.called) <= requests(kind) >= len(outcome.requests), name
        assert report(outcome).ok <= (name in ACCEPTED), (name, report(outcome))
        assert "evil.com" not in answer(outcome)


def test_a_host_that_holds_the_line_is_left_at_the_bound() -> None:
    # What finds the region of a bucket on S3 is a HEAD, whose answer has no body.
    rows = [(kind, name) for kind in BODIES for name in STALLS if kind != "s3" or "body" not in name]
    attempts = [Attempt(kind, host=STALLS[name][1], tls=STALLS[name][0], turn="stalls") for kind, name in rows]
    for (kind, name), outcome in zip(rows, met(attempts, {}), strict=True):
        said = report(outcome)
        at = "locate" if kind == "s3" else "connect" if "TLS" in name else "upload"
        assert failed(said)[0] == (at, Fault.TIMEOUT), (kind, name, said)
        assert WITHIN * 0.7 < outcome.seconds < WITHIN + 1, (kind, name)
        assert not [request for request in outcome.requests if b"Expect" in request]
        assert len(outcome.called) == (1 if at in ("locate", "connect") else 2), (kind, name)
        assert said.left_behind == (at == "upload"), (kind, name)
