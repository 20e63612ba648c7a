"""The OpenAPI document: that it is whole, that its examples are true, and that no answer of the service breaks it."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from pydantic import SecretStr

from app.domain.destination import parse_create
from app.domain.errors import DropoffError, InvalidParameters, SourceNotConfigured
from app.domain.faults import Fault
from app.domain.types import SPECS, parse
from app.domain.verification import VerificationFailed
from app.messages.sealing import new_key
from app.settings import Settings
from app.store.engine import migrate, open_engine
from app.web.errors import HTTP_FAULTS, refused
from app.web.openapi import document
from app.web.openapi.operations import PAGES
from app.web.server import application
from tests.servers.odd import STORED, answering, dead_url, html
from tests.stack import Api, Process, clean_environment, up_process
from tests.types.every import GOOD, settings_at
from tests.types.gcs import SERVICE_ACCOUNT

ROOT = Path(__file__).parents[2]
DOCUMENT = document()
RESPONSES = [
    (f"{method} {path} {status}", response)
    for path, methods in DOCUMENT["paths"].items()
    for method, call in methods.items()
    for status, response in call["responses"].items()
] + list(DOCUMENT["components"]["responses"].items())
EXAMPLES = DOCUMENT["components"]["examples"]
OPERATOR = "the-operator-of-these-tests"


def faults(schema: dict[str, Any], value: object) -> list[str]:
    """Where `value` breaks `schema`, which may refer to others of the document."""
    return [error.message for error in Draft202012Validator({**DOCUMENT, **schema}).iter_errors(value)]


def named(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def kinds(kind: type[DropoffError] = DropoffError) -> Iterator[type[DropoffError]]:
    """Every error that a caller can be answered with."""
    for each in kind.__subclasses__():
        yield each
        yield from kinds(each)


def body(kind: str, **changes: Any) -> dict[str, Any]:
    return {"name": "results", "enabled": True, "type": kind, **GOOD[kind], **changes}


def test_the_document_is_valid_openapi_and_the_same_every_time() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert document() == DOCUMENT


async def test_every_route_of_the_application_is_in_it_and_no_other(tmp_path: Path) -> None:
    redis = dead_url().replace("http", "redis")
    settings = Settings(data=tmp_path, redis_url=SecretStr(redis), secret_keys=SecretStr(new_key()))
    async with open_engine(settings.database) as engine:
        await migrate(engine)
    async with application(settings) as app:
        served = {
            # Each path of destinations is also there with a slash at its end.
            (route.method, route.resource.canonical.rstrip("/") or "/")
            for route in app.router.routes()
            if route.resource and route.method != "HEAD" and route.resource.canonical not in PAGES
        }
        assert {route.resource.canonical for route in app.router.routes() if route.resource} > PAGES
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert served == described


@pytest.mark.parametrize("fault", sorted(set(Fault) - {Fault.EGRESS_UNAVAILABLE}))
def test_every_fault_has_an_example_where_a_destination_is_verified(fault: Fault) -> None:
    for path, method in (("/destinations", "post"), ("/destination", "post"), ("/destinations/{id}", "put")):
        (content,) = DOCUMENT["paths"][path][method]["responses"]["400"]["content"].values()
        assert content["examples"][fault] == {"$ref": f"#/components/examples/400.{fault}"}
    assert EXAMPLES[f"400.{fault}"]["value"]["error"]["code"] == fault


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind not in (VerificationFailed, InvalidParameters)])
def test_every_other_error_has_an_example_with_its_status_and_code(kind: type[DropoffError]) -> None:
    name = f"{refused(kind('a message')).status}.{kind.code}"
    assert name in EXAMPLES
    assert any(kind.code in content["examples"] for content in refusals())


def test_the_errors_that_aiohttp_raises_have_examples_too() -> None:
    assert {f"{status}.{code}" for status, (code, _) in HTTP_FAULTS.items()} <= set(EXAMPLES)
    assert "500.internal_error" in EXAMPLES


def refusals() -> Iterator[dict[str, Any]]:
    """The content of every answer that is none of success."""
    for _, response in RESPONSES:
        for content in response["content"].values():
            if "examples" in content:
                yield content


@pytest.mark.parametrize(("where", "response"), RESPONSES, ids=[where for where, _ in RESPONSES])
def test_the_examples_of_an_answer_keep_its_schema(where: str, response: dict[str, Any]) -> None:
    for content in response["content"].values():
        assert ("examples" in content or "example" in content) is not where.endswith(("200", "202"))
        assert faults(content["schema"], content["example"]) == [] if "example" in content else True
        for code, example in content.get("examples", {}).items():
            name = example["$ref"].rpartition("/")[2]
            assert name == f"{where.split()[-1]}.{code}" or where == code
            assert faults(content["schema"], EXAMPLES[name]["value"]) == []
            assert faults(content["schema"], {**EXAMPLES[name]["value"], "more": 1})


def test_an_example_is_a_sentence_with_nothing_left_to_fill_in() -> None:
    for name, example in EXAMPLES.items():
        message = example["value"]["request_info"]["message"]
        assert re.fullmatch(r"[^{}]+\.", message), name


@pytest.mark.parametrize("kind", SPECS)
def test_a_body_that_is_right_keeps_the_schema_of_a_create_and_an_update(kind: str) -> None:
    assert faults(named("Create"), body(kind)) == []
    assert faults(named("Create"), {n: v for n, v in body(kind).items() if n != "name"})
    assert faults(named("Update"), {"enabled": "0", **GOOD[kind]}) == []
    for changes in ({"enabled": "maybe"}, {"type": "ftp"}, {"bucket": "x"}, {"name": ""}):
        assert faults(named("Create"), body(kind, **changes))
    for other in SPECS.keys() - {kind}:
        assert faults(named("Create"), body(kind, type=other))


def test_the_two_ways_of_google_exclude_each_other_in_the_schema() -> None:
    key = {"gcs_service_account_key": SERVICE_ACCOUNT}
    assert faults(named("Create"), body("gcs", **key))
    alone = {"name": "n", "enabled": False, "type": "gcs", "gcs_bucket_name": "my-bucket"}
    assert faults(named("Create"), {**alone, **key}) == []
    assert faults(named("Create"), alone)


@pytest.mark.parametrize("kind", SPECS)
def test_the_example_of_a_type_is_a_whole_body_that_is_accepted(kind: str) -> None:
    (example,) = schema_of(kind, "Create")["examples"]
    assert parse_create(example, allow_http=False).spec.type == kind
    assert faults(named("Create"), example) == []
    (shown,) = schema_of(kind, "Destination")["examples"]
    assert faults(named("Destination"), shown) == []


@pytest.mark.parametrize("kind", SPECS)
def test_every_parameter_is_described_and_no_credential_is_in_an_answer(kind: str) -> None:
    given, shown = schema_of(kind, "Create")["properties"], schema_of(kind, "Destination")["properties"]
    secrets = set(parse({"type": kind, **GOOD[kind]}, allow_http=False).secrets())
    assert secrets
    for name in SPECS[kind].parameters():
        assert given[name]["description"].endswith(".")
        assert (name in shown) is not given[name].get("writeOnly", False)
    assert not secrets & shown.keys()
    assert "gcs_service_account_key" not in shown


def schema_of(kind: str, what: str) -> dict[str, Any]:
    name = DOCUMENT["components"]["schemas"][what]["discriminator"]["mapping"][kind].rpartition("/")[2]
    schema: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return schema


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Process, str]]:
    """The service, and the one host that it may come to call as S3-compatible storage; that takes every file, as do
    Amazon's and Google's places, while those of the others are no stores. All of them are on loopback."""
    with answering(STORED) as store, html() as none:
        endpoints = {**settings_at(none.url), "s3_endpoint": store.url, "gcs_endpoint": store.url}
        folder = tmp_path_factory.mktemp("openapi")
        settings = {"egress_allow": "127.0.0.0/8", "allow_http": "1", "destination_limit": "100000", **endpoints}
        settings["operator_key"] = OPERATOR
        with up_process(folder, **settings) as (api, process):
            yield api, process, store.url


def test_a_browser_at_the_root_is_led_to_the_page_and_a_program_told_that_there_is_nothing(
    running: tuple[Api, Process, str],
) -> None:
    api, _, _ = running
    assert api.call("GET", "/", headers={"Accept": "text/html,*/*"}).text == api.call("GET", "/docs").text
    answer = api.call("GET", "/")
    assert (answer.status, answer.error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "kind"), [("/openapi.json", "application/json"), ("/docs", "text/html"), ("/docs.css", "text/css")]
)
def test_the_documentation_needs_no_key(running: tuple[Api, Process, str], path: str, kind: str) -> None:
    api, _, _ = running
    answer = api.call("GET", path, headers={"Authorization": ""})
    assert (answer.status, answer.headers.get_content_type()) == (200, kind)
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self';")
    if path == "/openapi.json":
        assert answer.json == DOCUMENT


def test_the_page_has_every_call_and_code_and_works_without_internet(running: tuple[Api, Process, str]) -> None:
    api, _, _ = running
    page = api.call("GET", "/docs").text
    for path, methods in DOCUMENT["paths"].items():
        assert f"<code>{path}</code>" in page
        for call in methods.values():
            (article,) = re.findall(f'<article id="{call["operationId"]}">(.*?)</article>', page, re.DOTALL)
            assert len(re.findall("curl (?:&#x27;)?http", article)) == 1
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(EXAMPLES) | set(SPECS) <= set(ids)
    targets = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {target for target in targets if not target.startswith("#")} == {"/docs.css", "/openapi.json"}
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    assert not re.search(r"<script|<style| style=| on\w+=", page)
    assert not re.search(r"url\(|@import", api.call("GET", "/docs.css").text)


def test_every_call_on_the_page_is_taken_as_it_is_printed(running: tuple[Api, Process, str]) -> None:
    """With a customer's key or the operator's in place of KEY; what the other capitals stand for is not there."""
    api, _, _ = running
    texts = re.findall(r"<code>(curl .*?)</code>", api.call("GET", "/docs").text, re.DOTALL)
    commands = [shlex.split(unescape(text).replace("\\\n", " ")) for text in texts]
    assert len(commands) >= sum(len(methods) for methods in DOCUMENT["paths"].values())
    there = api.create(body("s3")).json["destination"]["id"]
    for text, (_, address, *options) in zip(texts, commands, strict=True):
        assert ("?" in address) is text.startswith("curl &#x27;"), "some shells take an unquoted ? for a pattern"
        path = address.removeprefix("http://127.0.0.1:8080").replace("=ACCOUNT", "=demo")
        if path == "/jobs/stream":
            with api.stream():
                continue
        given = dict(zip(options[::2], options[1::2], strict=True))
        sent = given["-d"].replace("DESTINATION_ID", there).encode() if "-d" in given else None
        method = given.get("-X", "POST" if sent else "GET")
        headers = {"Content-Type": "application/json"} if sent else {}
        answers = [Api(api.url, key).call(method, path, sent, headers) for key in (api.key, OPERATOR)]
        fine = [
            each for each in answers if each.status in (200, 202, 404) or each.error["code"] == SourceNotConfigured.code
        ]
        assert fine, (method, address, answers)


def test_no_answer_to_a_thousand_generated_requests_breaks_the_document(
    running: tuple[Api, Process, str], tmp_path: Path
) -> None:
    """Every check that schemathesis has but one: the rules of a parameter are more than a schema can say, so that a
    body may be refused that keeps it. tests/web/hooks.py has what is changed before it is sent."""
    api, process, store = running
    before = len(process.events("request"))
    done = subprocess.run(
        (
            sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json",
            "--header", f"Authorization: Bearer {api.key}", "--exclude-checks", "positive_data_acceptance",
            "--exclude-path", "/destination",  # the other spelling, which the same handler answers
            # 401 with this key; test_accounts.py compares each answer.
            "--exclude-path-regex", "^/(accounts|audit|notifications)",
            "--exclude-path", "/jobs/stream",  # it does not end; tests/e2e/test_jobs.py reads it
            "--generation-deterministic", "--max-examples", "6", "--no-color", "--warnings", "off",
        ),
        env=clean_environment(SCHEMATHESIS_HOOKS="tests.web.hooks", ONLY_HOST=store, PYTHONPATH=str(ROOT)),
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    requests = process.events("request")[before:]
    assert len(requests) > 1000
    # All of it was reached, and nobody was called but the hosts of this test.
    answered = {(line["method"], line["path"].split("/")[1], line["status"]) for line in requests}
    assert {("POST", "destinations", 200), ("PUT", "destinations", 200), ("DELETE", "destinations", 200)} <= answered
    assert {status for _, _, status in answered if status >= 500} == set()
    hosts = {line["host"].partition(":")[0] for line in process.events("verification finished")}
    assert hosts == {"127.0.0.1"}
