"""Hostile endpoints, names, accounts, regions and stores: nothing is called but what was named, nothing is learnt."""

from collections import Counter
from collections.abc import Iterator

import pytest

from app.domain.errors import InvalidParameters
from app.domain.faults import Fault
from tests.faults.island import CANARY, CLOSED, PUBLIC, SEARCH, STORE, Attempt, Island, Outcome, island
from tests.faults.verifying import BODIES, SHORT, SLACK, WITHIN, failed, spec_of, unreached
from tests.servers.dns import Answers
from tests.servers.odd import STORED
from tests.types.every import STORAGES

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


# Answers that are strange, and small.
ODDITIES: dict[str, bytes] = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "every byte there is": reply(403, bytes(range(256))),
    "every byte there is, accepted": reply(200, bytes(range(256)), ETag='"e"'),
    "a charset that is none": reply(403, b"<Error/>", Content_Type="text/plain; charset=zlib"),
    "a charset for names": reply(403, b"a-a", Content_Type="text/plain; charset=punycode"),
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
ACCEPTED = {"every byte there is, accepted"} | {
    name for name in ODDITIES if name.startswith("a version") or name.startswith("a checksum")
}


def answer(outcome: Outcome, *typed: str) -> str:
    """The whole answer to a customer, but for what was `typed` and for durations."""
    said = outcome.report.model_copy(update={"duration_ms": 0})
    steps = tuple(each.model_copy(update={"ms": None}) for each in said.steps)
    text = said.model_copy(update={"steps": steps}).model_dump_json()
    for each in typed:
        text = text.replace(each, "TYPED")
    return text


def requests(kind: str) -> int:
    """How many requests a verification of `kind` makes at most, each on a connection of its own or on one before."""
    return 3 if STORAGES[kind].asks_first else 2


@pytest.fixture(scope="module")
def here() -> Iterator[Island]:
    with island() as running:
        yield running


def test_whether_somebody_listens_at_an_address_is_not_learnt(here: Island) -> None:
    """Not by the answer, and not by the time that it takes: nothing is connected to, so that nobody can be slow."""
    attempts = [Attempt(place=f"http://{address}:{port}") for address in ADDRESSES for port in (CANARY, CLOSED)]
    said = set()
    for attempt, outcome in zip(attempts, here.met(attempts, {}), strict=True):
        assert failed(outcome.report) == [("connect", Fault.ENDPOINT_NOT_ALLOWED)], attempt
        assert outcome.report.code == Fault.ENDPOINT_NOT_ALLOWED
        assert (outcome.connected, outcome.asked) == ([], []), attempt
        port = attempt.place.rpartition(":")[2]
        said.add(answer(outcome, outcome.report.host).replace(port, "PORT"))
    assert len(said) == 1, "one answer for all"


@pytest.mark.parametrize("place", SPELLINGS)
def test_what_is_no_plain_host_is_refused_before_anything_is_called(place: str) -> None:
    with pytest.raises(InvalidParameters) as refused:
        spec_of("s3compatible", s3_endpoint=place)
    (fault,) = refused.value.faults
    assert (fault.parameter, fault.code) == ("s3_endpoint", "invalid_parameter")
    assert place not in fault.message


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, each in STORAGES.items() for name in each.hostile])
def test_what_becomes_a_part_of_a_name_or_path_is_refused_before_anything_is_called(kind: str, name: str) -> None:
    for value in STORAGES[kind].hostile[name]:
        with pytest.raises(InvalidParameters) as refused:
            spec_of(kind, "http://127.0.0.1", **{name: value})
        (fault,) = refused.value.faults
        assert fault.parameter == name, value
        assert fault.code in ("invalid_parameter", "unsupported_bucket_type")
        assert len(value) < 5 or value not in fault.message


def test_a_name_of_a_private_address_is_answered_as_one_that_nobody_has(here: Island) -> None:
    """And costs as many look-ups and as few connections, so that it takes no other time."""
    rows = [NOBODYS, *NAMES, *SPELLED]
    outcomes = here.met([Attempt(place=f"http://{name}:{CANARY}") for name in rows], {**NAMES, **OTHERS})
    by_name = dict(zip(rows, outcomes, strict=True))
    said = {answer(outcome, outcome.report.host) for outcome in outcomes}
    assert len(said) == 1, "one answer for all"
    assert failed(by_name[NOBODYS].report) == [("resolve", Fault.HOST_NOT_FOUND)]
    for name, outcome in by_name.items():
        assert outcome.connected == [], name
        own = Counter(outcome.asked).values()
        assert list(own) == list(Counter(by_name[NOBODYS].asked).values()) or name in SPELLED, (name, outcome.asked)


def test_a_name_is_looked_up_as_it_is_and_not_in_the_domain_of_this_machine(here: Island) -> None:
    (outcome,) = here.met([Attempt(place=f"http://vault:{CANARY}")], OTHERS)
    assert set(outcome.asked) == {"vault"}
    assert (outcome.connected, failed(outcome.report)) == ([], [("resolve", Fault.HOST_NOT_FOUND)])


@pytest.mark.parametrize("kind", BODIES)
def test_each_kind_of_store_gives_the_same_answers(here: Island, kind: str) -> None:
    """The endpoint is the operator's own here: what a customer cannot say is refused no less."""
    places = [f"http://{METADATA}:{CANARY}", f"http://{METADATA}:{CLOSED}"]
    places += [f"http://private.test:{CANARY}", f"http://{NOBODYS}:{CANARY}"]
    outcomes = here.met([Attempt(kind, place) for place in places], NAMES)
    said = [answer(outcome, place.removeprefix("http://")) for place, outcome in zip(places, outcomes, strict=True)]
    assert len(set(said[:2])) == len(set(said[2:])) == 1
    not_found = unreached(kind, Fault.HOST_NOT_FOUND)
    assert [outcome.report.code for outcome in outcomes] == [Fault.ENDPOINT_NOT_ALLOWED] * 2 + [not_found] * 2
    assert [outcome.connected for outcome in outcomes] == [[]] * 4


CLOSING = STORED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
AT_STORE = f"{PUBLIC}:{STORE}"


@pytest.mark.parametrize("kind", ["s3compatible", "oss"])
@pytest.mark.parametrize("name", ["rebinding", "changing", "mixed"])
def test_a_name_that_changes_between_two_look_ups_is_not_followed_inside(here: Island, kind: str, name: str) -> None:
    table = {**NAMES, **OTHERS}
    table.update({f"my-bucket.{each}": answers for each, answers in table.items()})
    (outcome,) = here.met([Attempt(kind, f"http://{name}.test:{STORE}", {"": CLOSING})], table)
    said = outcome.report
    match name:
        case "rebinding":
            assert outcome.connected == [AT_STORE], "only for the upload"
            assert failed(said) == [("delete", Fault.HOST_NOT_FOUND)]
            assert said.left_behind
        case "changing":
            assert outcome.connected == []
            assert failed(said) == [("resolve", Fault.HOST_NOT_FOUND)]
        case "mixed":
            # A host of the customer's choice is also asked which bucket it takes the request for.
            calls = 3 if STORAGES[kind].endpoint else 2
            assert outcome.connected == [AT_STORE] * calls, "for the upload and for the delete"
            assert said.ok


@pytest.mark.parametrize("kind", ["s3compatible", "oss"])
def test_a_name_of_many_addresses_is_called_at_one(here: Island, kind: str) -> None:
    table = {"my-bucket.many.test": OTHERS["many.test"], **OTHERS}
    attempts = [
        Attempt(kind, f"https://many.test:{STORE}", left="connect"), Attempt(kind, f"http://many.test:{CLOSED}")
    ]  # fmt: skip
    silent, closed = here.met(attempts, table)
    assert len(silent.connected) == len(closed.connected) == 1
    assert failed(silent.report) == [("connect", unreached(kind, Fault.TIMEOUT))]
    assert failed(closed.report) == [("connect", unreached(kind, Fault.CONNECTION_REFUSED))]


def test_a_resolver_that_does_not_answer_is_left_at_the_bound(here: Island) -> None:
    table = {"my-bucket.mute.test": [], **OTHERS}
    attempts = [Attempt(kind, f"http://mute.test:{STORE}", turn="mute", left="resolve") for kind in BODIES]
    for attempt, outcome in zip(attempts, here.met(attempts, table), strict=True):
        at = "locate" if STORAGES[attempt.kind].locates else "resolve"
        assert failed(outcome.report) == [(at, unreached(attempt.kind, Fault.TIMEOUT))], attempt
        assert not outcome.connected


def redirect(status: int, location: str) -> bytes:
    return reply(status, Location=location, Connection="close")


@pytest.mark.parametrize("kind", BODIES)
def test_a_redirect_is_not_followed_and_tells_nothing_of_where_it_leads(here: Island, kind: str) -> None:
    # A status is decided upon before anybody looks where it leads: each place with one status, each status with one.
    places = LOCATIONS if STORAGES[kind].repeats_nothing else LOCATIONS[:1]
    rows = [(307, location) for location in places] + [(status, LOCATIONS[0]) for status in STATUSES]
    # What a report tells of connections and regions that are known is the same for all after the first.
    here.met([Attempt(kind, replies={"": redirect(307, "")})], NAMES)
    outcomes = here.met([Attempt(kind, replies={"": redirect(*row)}) for row in rows], NAMES)
    said: dict[int, set[str]] = {}
    for (status, location), outcome in zip(rows, outcomes, strict=True):
        assert outcome.report.code == Fault.REDIRECT_REFUSED, (status, location)
        # S3 is asked for the bucket's region again, which a redirect may name.
        assert len(outcome.requests) == (2 if STORAGES[kind].locates else 1), (status, location)
        assert set(outcome.connected) <= {AT_STORE}, (status, location)
        assert outcome.asked == [], (status, location)
        said.setdefault(status, set()).add(answer(outcome, outcome.report.host))
    assert {len(each) for each in said.values()} == {1}, "one answer for each status"


@pytest.mark.parametrize("kind", [kind for kind, storage in STORAGES.items() if storage.stored == STORED])
def test_a_delete_is_not_redirected_either(here: Island, kind: str) -> None:
    replies = {"": STORED, "DELETE": redirect(307, LOCATIONS[0])}
    (outcome,) = here.met([Attempt(kind, replies=replies)], {})
    assert failed(outcome.report) == [("delete", Fault.REDIRECT_REFUSED)]
    assert outcome.report.left_behind
    assert set(outcome.connected) <= {AT_STORE}


@pytest.mark.parametrize("kind", BODIES)
def test_no_strange_answer_is_an_error_of_ours_or_leads_elsewhere(here: Island, kind: str) -> None:
    # Whose end is not told may be waited for.
    within = {"a length below zero": SHORT}
    attempts = [
        Attempt(kind, replies={"": each}, within=within.get(name, WITHIN)) for name, each in ODDITIES.items()
    ]  # fmt: skip
    outcomes = here.met(attempts, {})
    for name, outcome in zip(ODDITIES, outcomes, strict=True):
        assert set(outcome.connected) <= {AT_STORE}, name
        assert outcome.asked == [], name
        assert outcome.seconds < WITHIN + SLACK, name
        assert max(len(outcome.connected), len(outcome.requests)) <= requests(kind), name
        assert outcome.report.ok <= (name in ACCEPTED), (name, outcome.report)
        assert outcome.report.code != Fault.INTERNAL_ERROR, name
        assert "evil.com" not in answer(outcome)
