"""Create, list, get and delete as a client sees them; nothing here needs a store that works."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from app.domain.types import KEYS
from app.web.body import DEEPEST
from tests.servers.odd import Odd, html
from tests.stack import Answer, Api, Process, up_process
from tests.types.every import GOOD, settings_at
from tests.types.gcs import SERVICE_ACCOUNT

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def called() -> Iterator[Odd]:
    """A host in the place of every provider: it counts the connections that reach it."""
    with html() as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, called: Odd) -> Iterator[tuple[Api, Process]]:
    folder = tmp_path_factory.mktemp("web")
    with up_process(folder, egress_allow="127.0.0.0/8", destination_limit="30", **settings_at(called.url)) as started:
        yield started


@pytest.fixture
def api(running: tuple[Api, Process]) -> Iterator[Api]:
    """The API, its account emptied afterwards."""
    client, _ = running
    yield client
    while listed := client.list().json["destinations"]:
        for destination in listed:
            assert client.call("DELETE", f"/destinations/{destination['id']}").status == 200


def disabled(**changes: Any) -> dict[str, Any]:
    return {"name": "results", "enabled": False, "type": "s3", **GOOD["s3"], **changes}


def post(api: Api, body: bytes | str, headers: dict[str, str] = JSON) -> Answer:
    return api.call("POST", "/destinations", body.encode() if isinstance(body, str) else body, headers)


@pytest.mark.parametrize("path", ["/destinations", "/destination"])
@pytest.mark.parametrize("kind", GOOD)
def test_a_disabled_destination_is_stored_without_a_call(api: Api, called: Odd, kind: str, path: str) -> None:
    before = called.connections
    body = {"name": "results", "enabled": False, "type": kind, **GOOD[kind]}
    answer = api.call("POST", path, json.dumps(body).encode(), JSON)
    assert answer.status == 200
    destination = answer.json["destination"]
    assert re.fullmatch(r"[0-9A-F]{12}", destination["id"])
    assert (destination["name"], destination["type"], destination["enabled"]) == ("results", kind, False)
    assert (destination["used_by"], destination["verified_at"], destination["verification"]) == (0, None, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", destination["created_at"])
    secret = [name for name in GOOD[kind] if re.search("key|secret", name)]
    assert not set(secret) & set(destination)
    assert {n: destination[n] for n in GOOD[kind] if n not in secret} == {
        n: v for n, v in GOOD[kind].items() if n not in secret
    }
    assert called.connections == before
    assert api.call("GET", f"/destinations/{destination['id']}").json["destination"] == destination


@pytest.mark.parametrize("value", ["false", "0", "False", "FALSE"])
def test_a_form_means_the_same_as_json(api: Api, value: str) -> None:
    body = urlencode({**disabled(s3_path_prefix="%DATE%/ä b"), "enabled": value})
    answer = post(api, body, FORM)
    assert answer.status == 200
    assert answer.json["destination"]["s3_path_prefix"] == "%DATE%/ä b"
    assert answer.json["destination"]["enabled"] is False


def test_the_key_is_taken_from_the_query_string_or_the_header(api: Api) -> None:
    assert api.call("GET", "/destinations", headers={"Authorization": ""}, api_key="demo").status == 200
    assert api.call("GET", "/destinations", headers={"Authorization": "bearer demo"}).status == 200


@pytest.mark.parametrize(
    ("headers", "query", "said"),
    [
        ({"Authorization": ""}, {}, "No API key was found"),
        ({"Authorization": ""}, {"api_key": ""}, "No API key was found"),
        ({"Authorization": "demo"}, {}, "No API key was found"),
        ({"Authorization": "Bearer"}, {}, "No API key was found"),
        ({"Authorization": "Basic demo"}, {}, "No API key was found"),
        ({"Authorization": ""}, {"api_key": "Demo"}, "No account has this API key"),
        ({"Authorization": "Bearer nope"}, {}, "No account has this API key"),
        ({"Authorization": "Bearer nope"}, {"api_key": "demo"}, "No account has this API key"),
        ({"Authorization": "Bearer \xff\xfe"}, {}, "No account has this API key"),
        ({"Authorization": ""}, {"api_key": "\x00\ud7ff"}, "No account has this API key"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/destinations"), ("GET", "/destinations/000000000000")])
def test_no_key_and_a_wrong_key_are_401_and_told_apart(
    api: Api, headers: dict[str, str], query: dict[str, str], said: str, method: str, path: str
) -> None:
    answer = api.call(method, path, headers=headers, **query)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.error == {"code": "unauthorized"}
    message = answer.json["request_info"]["message"]
    assert message.startswith(said) and "Authorization: Bearer KEY" in message and "api_key" in message


def test_a_destination_that_is_not_there_is_a_404_for_get_and_delete(api: Api) -> None:
    for method in ("GET", "DELETE"):
        for name in ("000000000000", "x", "%00", "..%2f..", "a" * 500, "é"):
            answer = api.call(method, f"/destinations/{name.encode().decode('latin-1') if name != 'é' else '%C3%A9'}")
            assert answer.status == 404
            assert answer.error["code"] == "destination_not_found"


def test_a_deleted_destination_is_gone_and_its_neighbour_stays(api: Api) -> None:
    first, second = (post(api, json.dumps(disabled(name=n))).json["destination"]["id"] for n in "ab")
    answer = api.call("DELETE", f"/destinations/{first}")
    assert answer.json == {"request_info": {"success": True, "message": "1 Destination deleted"}}
    assert api.call("GET", f"/destinations/{first}").status == 404
    assert api.call("DELETE", f"/destinations/{first}").status == 404
    assert [d["id"] for d in api.list().json["destinations"]] == [second]


def test_the_list_pages_sorts_and_searches(api: Api) -> None:
    for number in range(12):
        assert post(api, json.dumps(disabled(name=f"Name {number % 3}"))).status == 200
    first, second, third = (api.list(page=str(page)).json for page in (1, 2, 3))
    assert first["usage"] == {"used": 12, "limit": 30, "available": 18}
    assert [page["count_this_page"] for page in (first, second, third)] == [10, 2, 0]
    assert {(p["total_count"], p["total_pages"]) for p in (first, second, third)} == {(12, 2)}
    assert third["destinations"] == []
    assert third["current_page"] == 3
    created = [d["created_at"] for page in (first, second) for d in page["destinations"]]
    assert created == sorted(created)
    found = api.list(search_term="nAME 1", sort_by="name", sort_direction="descending").json
    assert [d["name"] for d in found["destinations"]] == ["Name 1"] * 4
    assert found["total_count"] == 4
    names = [d["name"] for d in api.list(sort_by="name", sort_direction="descending").json["destinations"]]
    assert names == sorted(names, reverse=True)


@pytest.mark.parametrize(
    "query",
    [
        {"page": "0"}, {"page": "-1"}, {"page": "x"}, {"page": " "}, {"page": "1.0"}, {"page": "٣"},
        {"page": "99999999999999999999"}, {"sort_by": "id"}, {"sort_by": "created_at"}, {"offset": ""},
        {"sort_direction": "up"}, {"offset": "3"}, {"sort_by": "name; DROP TABLE destinations"},
    ],
)  # fmt: skip
def test_anything_else_in_a_listing_is_refused_by_name(api: Api, query: dict[str, str]) -> None:
    answer = api.list(**query)
    assert answer.status == 400
    assert answer.error["parameter"] == next(iter(query))


def test_a_search_for_odd_text_finds_nothing_and_breaks_nothing(api: Api) -> None:
    for term in ("%", "_", "'", '"', "\\", "\ufffe", "𝒳", "a" * 3000):
        answer = api.list(search_term=term)
        assert (answer.status, answer.json["destinations"]) == (200, [])


def test_every_fault_of_a_body_is_told_at_once(api: Api) -> None:
    answer = post(api, json.dumps({"type": "s3", "enabled": "maybe", "s3_bucket_name": "B!", "gcs_access_key": "x"}))
    assert answer.status == 400
    told = {fault["parameter"]: fault["code"] for fault in answer.error["parameters"]}
    assert told == {
        "name": "missing_parameter",
        "enabled": "invalid_parameter",
        "s3_bucket_name": "invalid_parameter",
        "gcs_access_key": "unknown_parameter",
        "s3_access_key_id": "missing_parameter",
        "s3_secret_access_key": "missing_parameter",
    }
    assert answer.error["parameter"] in told
    for fault in answer.error["parameters"]:
        assert fault["message"] in answer.json["request_info"]["message"]


def test_a_parameter_on_the_query_string_is_not_lost_in_silence(api: Api) -> None:
    answer = api.call("POST", "/destinations", json.dumps(disabled()).encode(), JSON, name="x")
    assert (answer.status, answer.error["parameter"]) == (400, "name")
    answer = api.call("GET", "/destinations?page=1&page=2")
    assert answer.status == 400


@pytest.mark.parametrize("name", ["", "\x00", "é" * 100], ids=["none", "control", "long"])
def test_a_parameter_with_an_odd_name_is_refused_by_a_name_that_can_be_shown(api: Api, name: str) -> None:
    for answer in (
        post(api, json.dumps(disabled(**{name: "x"}))),
        post(api, urlencode(disabled(enabled="0", **{name: "x"})), FORM),
        api.call("POST", "/destinations", json.dumps(disabled()).encode(), JSON, **{name: "x"}),
        api.list(**{name: "x"}),
    ):
        assert (answer.status, answer.error["code"]) == (400, "unknown_parameter")
        assert re.fullmatch(r"[ -~]{1,64}", answer.error["parameter"])
        assert answer.error["parameter"] in answer.json["request_info"]["message"]


BAD_BODIES: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("1 MB of JSON", b'{"name":"' + b"x" * 1_000_000 + b'"}', JSON, 413, "64 KiB"),
    ("1 MB of form", b"name=" + b"x" * 1_000_000, FORM, 413, "64 KiB"),
    ("invalid JSON", b'{"name": }', JSON, 400, "column"),
    ("half a JSON", b'{"name": "a"', JSON, 400, "line 1"),
    ("no object", b"[1]", JSON, 400, "object"),
    ("null", b"null", JSON, 400, "object"),
    ("a string", b'"name=a"', JSON, 400, "object"),
    ("not UTF-8", b'{"name": "\xff"}', JSON, 400, "UTF-8"),
    ("half a surrogate pair", b'{"\\ud800": "\\ud800"}', JSON, 400, "surrogate"),
    ("NaN", b'{"name": NaN}', JSON, 400, "NaN"),
    ("one level too many", b'{"name":' + b"[" * DEEPEST + b"]" * DEEPEST + b"}", JSON, 400, "nested"),
    ("as deep as may be", b'{"nam":' + b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1) + b"}", JSON, 400, "nam"),
    ("deep nesting", b'{"name":' + b"[" * 30_000 + b"]" * 30_000 + b"}", JSON, 400, "nested"),
    ("a huge number", b'{"name": ' + b"9" * 5_000 + b"}", JSON, 400, "huge number"),
    ("a name twice in JSON", b'{"name": "a", "name": "b"}', JSON, 400, "name stands twice"),
    ("a name twice in a form", b"name=a&name=b", FORM, 400, "name stands twice"),
    ("%ZZ", b"name=%ZZ", FORM, 400, "%25"),
    ("an unescaped token in a name", b"name=%DATE%", FORM, 400, "%25"),
    ("an unescaped token before digits", b"s3_path_prefix=%DATE%2Fx", FORM, 400, "%25"),
    ("an unescaped word", b"s3_path_prefix=%DATUM%", FORM, 400, "%25"),
    ("JSON as a form", b' {"name": "%DATE%"}', FORM, 400, "send it with Content-Type: application/json."),
    ("a list as a form", b"[1]", FORM, 400, "send it with Content-Type: application/json."),
    ("a form as JSON", b"name=a&enabled=0", JSON, 400, "send it with Content-Type: application/x-www-form-urlencoded."),
    ("form that is not UTF-8", b"name=%FF%FE", FORM, 400, "%25"),
    ("XML", b"<a/>", {"Content-Type": "application/xml"}, 415, "application/json"),
    ("no content type", b"{}", {"Content-Type": ""}, 415, "application/json"),
    ("multipart", b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "--data-urlencode"),
    ("another charset", b"{}", {"Content-Type": "application/json; charset=utf-16"}, 415, "UTF-8"),
    ("a compressed body", b"\x1f\x8b", {**JSON, "Content-Encoding": "gzip"}, 415, "application/json"),
    ("an empty body", b"", JSON, 400, "required"),
    ("an empty object", b"{}", JSON, 400, "required"),
    ("an empty form", b"", FORM, 400, "required"),
]


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"), [b[1:] for b in BAD_BODIES], ids=[b[0] for b in BAD_BODIES]
)
def test_a_body_that_cannot_be_read_is_refused_with_a_sentence_that_helps(
    running: tuple[Api, Process], called: Odd, body: bytes, headers: dict[str, str], status: int, word: str
) -> None:
    api, _ = running
    before = called.connections
    answer = post(api, body, headers)
    assert answer.status == status
    assert word in answer.json["request_info"]["message"]
    assert answer.json["request_info"]["success"] is False
    assert "Traceback" not in answer.text
    assert called.connections == before
    assert api.list().json["usage"]["used"] == 0


SECRETS = [(kind, name) for kind in GOOD for name in GOOD[kind] if name in KEYS]


def form_with(kind: str, name: str, value: str) -> str:
    """A disabled destination as a form, in which `name` is written as `value` says."""
    fields = {**GOOD[kind], "name": "results", "enabled": "0", "type": kind}
    return urlencode({each: text for each, text in fields.items() if each != name}) + f"&{name}={value}"


@pytest.mark.parametrize(("kind", "name"), SECRETS)
@pytest.mark.parametrize(
    ("ends", "word"),
    [(("", "+"), "%2B"), (("a+", ""), "%2B"), (("", "%20"), "white space"), (("%0A", ""), "white space")],
)
def test_a_forms_key_that_may_be_another_than_was_meant_is_refused_by_name(
    api: Api, kind: str, name: str, ends: tuple[str, str], word: str
) -> None:
    """An unescaped + is read as a space, and one at an end would be trimmed in silence."""
    secret = str(GOOD[kind][name])
    answer = post(api, form_with(kind, name, ends[0] + quote(secret, safe="") + ends[1]), FORM)
    assert (answer.status, answer.error["code"], answer.error["parameter"]) == (400, "invalid_parameter", name)
    assert word in answer.json["request_info"]["message"]
    assert secret not in answer.text


def test_every_key_of_a_form_that_is_not_escaped_is_named(api: Api) -> None:
    body = "s3_access_key_id=+a&s3_secret_access_key=a+b&name=a+b"
    answer = post(api, body, FORM)
    assert [fault["parameter"] for fault in answer.error["parameters"]] == ["s3_access_key_id", "s3_secret_access_key"]


def test_a_secret_with_an_escaped_plus_is_the_same_as_in_json(api: Api) -> None:
    created = post(api, form_with("s3", "s3_secret_access_key", "a%2Fb%2B"), FORM).json["destination"]
    for secret, same in (("a/b+", True), ("a/b", False)):
        body = json.dumps({"s3_secret_access_key": secret, "name": "results"}).encode()
        answer = api.call("PUT", f"/destinations/{created['id']}", body, JSON)
        # Another secret is verified, at a host that is no store.
        assert (answer.status == 200) == same, answer.text


def test_a_service_accounts_key_may_have_spaces_in_a_form(api: Api) -> None:
    """It is a document, whose spaces a form writes as +."""
    body = {"type": "gcs", "name": "a", "enabled": "0", "gcs_bucket_name": "my-bucket"}
    key = json.dumps(SERVICE_ACCOUNT, indent=1)
    assert "+" in urlencode({"key": key})
    assert post(api, urlencode({**body, "gcs_service_account_key": key}), FORM).status == 200


HOSTILE = ["a\x00b", "a\r\nX-Evil: 1", "a\nb", "\u2028", "../x", "a" * 60_000, "%ZZ", "{0}", "${jndi:x}"]


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("value", HOSTILE, ids=[repr(value)[:12] for value in HOSTILE])
def test_hostile_values_in_any_field_are_refused_before_any_call(
    running: tuple[Api, Process], called: Odd, kind: str, value: str
) -> None:
    """Each field of each type in turn, in an enabled destination."""
    api, _ = running
    before = called.connections
    # A secret may hold what these are made of; that they change nothing is the providers' matter.
    harmless = value in ("%ZZ", "{0}", "${jndi:x}", "../x")
    for name in GOOD[kind]:
        if harmless and ("secret" in name or name == "s3_access_key_id"):
            continue
        answer = post(api, json.dumps({"name": "n", "enabled": True, "type": kind, **GOOD[kind], name: value}))
        assert (answer.status, answer.error["parameter"]) == (400, name), answer.text
        assert value not in answer.json["request_info"]["message"]
    answer = post(api, json.dumps({"name": "n", "enabled": True, "type": kind, **GOOD[kind], f"{value}x": "1"}))
    assert (answer.status, answer.error["code"]) == (400, "unknown_parameter")
    assert called.connections == before
    assert api.list().json["usage"]["used"] == 0


@pytest.mark.parametrize(
    ("kind", "parameter", "value", "word"),
    [
        ("s3", "s3_bucket_name", "arn:aws:s3:eu-west-1:123456789012:accesspoint/ap", "ARNs"),
        ("s3", "s3_path_prefix", "../secrets", ".."),
        (
            "azure",
            "azure_account_key",
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=SENTINEL==",
            "connection",
        ),
        ("gcs", "gcs_service_account_key", {"type": "external_account", "token_url": "http://169.254.169.254"}, "type"),
        ("s3compatible", "s3_endpoint", "http://169.254.169.254", "https"),
        ("s3compatible", "s3_endpoint", "https://user:SENTINEL@example.com", "password"),
    ],
)
def test_what_is_often_pasted_wrong_is_recognised(
    running: tuple[Api, Process], called: Odd, kind: str, parameter: str, value: Any, word: str
) -> None:
    api, process = running
    before = called.connections
    answer = post(api, json.dumps({"name": "n", "enabled": True, "type": kind, **GOOD[kind], parameter: value}))
    assert (answer.status, answer.error["parameter"]) == (400, parameter)
    assert word in answer.json["request_info"]["message"]
    assert "SENTINEL" not in answer.text + process.log
    assert called.connections == before


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/destinations", {"GET", "HEAD", "POST"}),
        ("DELETE", "/destinations", {"GET", "HEAD", "POST"}),
        ("POST", "/destinations/000000000000", {"GET", "HEAD", "PUT", "DELETE"}),
        ("GET", "/destination", {"POST"}),
        ("GET", "/destinations/verify", {"POST"}),
        ("DELETE", "/destinations/verify", {"POST"}),
        ("GET", "/destinations/000000000000/verify", {"POST"}),
        ("POST", "/destinations/policy", {"GET", "HEAD"}),
        ("PUT", "/destinations/policy", {"GET", "HEAD"}),
    ],
)
def test_a_verb_that_a_path_does_not_take_is_a_405_that_names_those_it_takes(
    api: Api, method: str, path: str, allowed: set[str]
) -> None:
    answer = api.call(method, path)
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(",")) == allowed
    assert answer.error["code"] == "method_not_allowed"


def test_a_policy_is_filled_in_with_bucket_and_prefix(api: Api, called: Odd) -> None:
    before = called.connections
    asked = {"type": "s3", "s3_bucket_name": "my-results", "s3_path_prefix": "dropoff/%DATE%"}
    answer = api.call("GET", "/destinations/policy", **asked)
    assert answer.status == 200
    assert list(answer.json) == ["request_info", "policy", "steps"]
    deliver, remove = answer.json["policy"]["Statement"]
    assert deliver["Resource"] == "arn:aws:s3:::my-results/dropoff/*"
    assert remove["Resource"] == "arn:aws:s3:::my-results/dropoff/*dropoff-verify-*"
    assert answer.json["steps"][0].startswith("Create a policy")
    assert called.connections == before
    azure = api.call("GET", "/destinations/policy", type="azure", azure_container_name="box")
    assert azure.json["policy"] is None
    assert "Create the container box in it." in azure.json["steps"]


def test_a_policy_needs_a_key_and_takes_no_secret(running: tuple[Api, Process]) -> None:
    api, process = running
    asked = {"type": "s3", "s3_bucket_name": "my-results"}
    assert api.call("GET", "/destinations/policy", headers={"Authorization": ""}, **asked).status == 401
    answer = api.call("GET", "/destinations/policy", **asked, s3_secret_access_key="SENTINEL-in-policy", bogus="x")
    assert answer.status == 400
    assert {fault["parameter"] for fault in answer.error["parameters"]} == {"s3_secret_access_key", "bogus"}
    assert "SENTINEL-in-policy" not in answer.text + process.log


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/destinations/", 200),
        ("GET", "/destinations/000000000000/", 404),
        ("POST", "/destinations/verify/", 400),
        ("GET", "/destinations/verify/", 405),
        ("POST", "/destinations/000000000000/verify/", 404),
        ("POST", "/destinations/policy/", 405),
    ],
)
def test_a_slash_at_the_end_of_a_path_changes_nothing(api: Api, method: str, path: str, status: int) -> None:
    assert api.call(method, path).status == status


@pytest.mark.parametrize("path", ["/destinations/", "/destination/"])
def test_a_destination_is_created_at_a_path_with_a_slash(api: Api, path: str) -> None:
    assert api.call("POST", path, json.dumps(disabled()).encode(), JSON).status == 200
    assert api.call("GET", "/destinations/").json["usage"]["used"] == 1


@pytest.mark.parametrize("enabled", ["True", "tRUE", "TRUE", "1", "False", "0", True, 1, False, 0])
def test_a_boolean_is_read_however_clients_write_it(api: Api, enabled: Any) -> None:
    """An enabled one is verified, at a host that is no store."""
    on = str(enabled).lower() in ("true", "1")
    answers = [post(api, json.dumps(disabled(enabled=enabled)))]
    if isinstance(enabled, str):
        answers.append(post(api, urlencode(disabled(enabled=enabled)), FORM))
    for answer in answers:
        assert answer.status == (400 if on else 200), answer.text
        assert not on or answer.error["code"] == "not_a_storage_endpoint"


@pytest.mark.parametrize("enabled", ["yes", "on", "2", "truth", " ", 2, -1, 0.5, [], {}, [True], "ｔrue"])
def test_nothing_else_is_a_boolean(api: Api, enabled: Any) -> None:
    answer = post(api, json.dumps(disabled(enabled=enabled)))
    assert (answer.status, answer.error["parameter"]) == (400, "enabled"), answer.text
    assert "true or false" in answer.json["request_info"]["message"]


@pytest.mark.parametrize("kind", GOOD)
def test_what_other_types_have_may_be_there_and_empty(api: Api, kind: str) -> None:
    """A page's form sends each of its fields."""
    others = {name: "" for other in GOOD for name in GOOD[other] if name not in GOOD[kind]}
    body = {"name": "results", "enabled": False, "type": kind, **GOOD[kind]}
    for answer in (post(api, json.dumps({**others, **body})), post(api, json.dumps({**dict.fromkeys(others), **body}))):
        assert answer.status == 200, answer.text
        assert not set(others) & set(answer.json["destination"])
    created = answer.json["destination"]["id"]
    for content in (others, dict.fromkeys(others)):
        update = json.dumps({**content, "name": "another"}).encode()
        assert api.call("PUT", f"/destinations/{created}", update, JSON).status == 200
    if all(isinstance(value, str) for value in body.values() if not isinstance(value, bool)):
        assert post(api, urlencode({**others, **body, "enabled": "False"}), FORM).status == 200
    # A value that is there is one too many, and so is a name that no type has.
    for name, value in ((next(iter(others)), "x"), ("bogus", "")):
        answer = post(api, json.dumps({**body, name: value}))
        assert (answer.status, answer.error["code"], answer.error["parameter"]) == (400, "unknown_parameter", name)


def test_an_empty_parameter_of_a_listing_is_none(api: Api) -> None:
    post(api, json.dumps(disabled()))
    asked = {"search_term": "", "page": "", "sort_by": "", "sort_direction": ""}
    assert api.list(**asked).json["destinations"] == api.list().json["destinations"] != []
    jobs = dict.fromkeys(("state", "type", "destination", "fault", "account", "search", "from", "to", "limit"), "")
    answer = api.call("GET", "/jobs", **jobs, cursor="")
    assert (answer.status, answer.json["jobs"]) == (200, api.call("GET", "/jobs").json["jobs"])
    others = {
        "/leftovers": ("account", "state", "page"),
        "/deliveries": ("account", "state"),
        "/collections": ("page",),
    }
    for path, names in others.items():
        assert api.call("GET", path, **dict.fromkeys(names, "")).status == 200
    assert api.call("GET", "/jobs", bogus="").status == 400
    policy = {"type": "s3", "s3_bucket_name": "my-bucket", "s3_path_prefix": "", "gcs_bucket_name": ""}
    assert api.call("GET", "/destinations/policy", **policy).status == 200


def test_what_a_get_answers_may_be_sent_back(api: Api, called: Odd) -> None:
    created = post(api, json.dumps(disabled())).json["destination"]
    path, before = f"/destinations/{created['id']}", called.connections
    for body in (created, {**created, "name": "another"}, {**created, "name": "results"}):
        current = api.call("GET", path).json["destination"]
        answer = api.call("PUT", path, json.dumps({**body, "updated_at": current["updated_at"]}).encode(), JSON)
        assert answer.status == 200, answer.text
        assert answer.json["destination"]["name"] == body["name"]
    # A form has all as text, and nothing where there is nothing.
    text = {n: "" if v is None else str(v) for n, v in api.call("GET", path).json["destination"].items()}
    assert api.call("PUT", path, urlencode(text).encode(), FORM).status == 200
    assert called.connections == before
    for name, value in (("id", "0" * 12), ("used_by", 1), ("created_at", "2020-01-01T00:00:00Z"), ("verification", {})):
        answer = api.call("PUT", path, json.dumps({name: value}).encode(), JSON)
        assert (answer.status, answer.error["parameter"]) == (400, name), answer.text
        assert "cannot be set" in answer.json["request_info"]["message"]
    # Nothing of it can be set by a create.
    assert post(api, json.dumps({**disabled(), "id": created["id"]})).status == 400


def test_a_report_may_be_sent_back_with_its_destination(api: Api) -> None:
    created = post(api, json.dumps(disabled())).json["destination"]
    path = f"/destinations/{created['id']}"
    assert not api.verify(destination=created["id"]).report["ok"]
    current = api.call("GET", path).json["destination"]
    assert current["verification"]["steps"]
    assert api.call("PUT", path, json.dumps(current).encode(), JSON).status == 200


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("%DATE%", "%DATE%"),
        ("in/%DATE%/%COLLECTION_ID%", "in/%DATE%/%COLLECTION_ID%"),
        ("%25DATE%25/%RESULT_SET_ID%", "%DATE%/%RESULT_SET_ID%"),
        ("a%2F%COLLECTION_NAME%%2Fb", "a/%COLLECTION_NAME%/b"),
        ("%DATE%+x", "%DATE% x"),
        ("+in%2F+", "in/"),
        ("%20in%0A", "in"),
    ],
)
def test_a_prefix_is_read_as_it_was_meant(api: Api, sent: str, stored: str) -> None:
    """A token that was not escaped can mean nothing else, and nobody means the white space around a prefix."""
    answer = post(api, urlencode(disabled(enabled="0")) + f"&s3_path_prefix={sent}", FORM)
    assert answer.status == 200, answer.text
    assert answer.json["destination"]["s3_path_prefix"] == stored


@pytest.mark.parametrize("kind", GOOD)
def test_an_address_in_place_of_a_name_is_named_as_such(api: Api, kind: str) -> None:
    places = [name for name in GOOD[kind] if re.search("bucket|container|account_name", name)]
    assert places
    for name in [*places, f"{kind if kind in ('gcs', 'azure', 'oss') else 's3'}_path_prefix"]:
        for scheme in ("s3://", "S3A://", "gs://", "oss://", "https://"):
            body = {"name": "n", "enabled": False, "type": kind, **GOOD[kind], name: f"{scheme}my-results/in"}
            answer = post(api, json.dumps(body))
            assert (answer.status, answer.error["parameter"]) == (400, name), answer.text
            assert f"without {scheme}" in answer.json["request_info"]["message"]


@pytest.mark.parametrize("path", ["/", "/nope", "/destinations//", "/destinations/a/b", "/%00", "/destinations%2f1"])
def test_a_path_that_is_not_there_is_a_404_in_the_envelope(api: Api, path: str) -> None:
    answer = api.call("GET", path)
    assert answer.status == 404
    assert answer.json["request_info"]["success"] is False


def test_the_limit_of_an_account_is_reached_and_freed_again(api: Api, called: Odd) -> None:
    ids = [post(api, json.dumps(disabled())).json["destination"]["id"] for _ in range(30)]
    before = called.connections
    answer = post(api, json.dumps({**disabled(), "enabled": True}))
    assert (answer.status, answer.error["code"]) == (400, "destination_limit_reached")
    assert called.connections == before
    # To verify stores nothing, so the limit has no say.
    assert api.verify(disabled()).report["code"] == "not_a_storage_endpoint"
    assert api.list().json["usage"] == {"used": 30, "limit": 30, "available": 0}
    api.call("DELETE", f"/destinations/{ids[0]}")
    assert post(api, json.dumps(disabled())).status == 200


def test_every_answer_has_a_request_id_that_the_log_has_and_no_log_has_a_key(running: tuple[Api, Process]) -> None:
    api, process = running
    answer = api.call("GET", "/destinations", headers={"Authorization": ""}, api_key="SENTINEL-in-query")
    assert api.call("GET", "/SENTINEL/?api_key=SENTINEL-in-query").status == 404
    api.call("POST", "/destinations", json.dumps(disabled(s3_secret_access_key="SENTINEL-in-body")).encode(), JSON)
    api.call("GET", "/destinations", headers={"Authorization": "Bearer SENTINEL-in-header"})
    assert answer.headers["X-Request-Id"] in process.log
    for place in ("query", "body", "header"):
        assert f"SENTINEL-in-{place}" not in process.log


def test_a_service_account_key_may_be_an_object_or_a_string(api: Api) -> None:
    for key in (SERVICE_ACCOUNT, json.dumps(SERVICE_ACCOUNT)):
        body = {"name": "n", "enabled": False, "type": "gcs", "gcs_bucket_name": "my-bucket"}
        answer = post(api, json.dumps({**body, "gcs_service_account_key": key}))
        assert answer.status == 200
        assert "PRIVATE KEY" not in answer.text
