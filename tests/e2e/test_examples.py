"""The documents' examples, executed as they stand there: what they print, and what becomes of the destination."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.documents import ROOT, Block, blocks
from tests.servers.azure import NODE
from tests.stack import Api, clean_environment, up

CALLS = ("Create", "List", "Update", "Delete")
WAYS = ("Examples with forms", "Examples with JSON")
LANGUAGES = ("sh", "python", "js", "php")
EXECUTED = {"sh": ("bash", "-eu"), "python": (sys.executable,), "js": (str(NODE),)}
SUFFIX = {"sh": ".sh", "python": ".py", "js": ".mjs"}

API = {(block.headings[-2], block.headings[-1], block.language): block for block in blocks("docs/api.md")}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, seaweedfs: SeaweedFS) -> Iterator[Api]:
    """A service for which Amazon S3 is the store on this machine."""
    folder = tmp_path_factory.mktemp("examples")
    with up(folder, allow_http="1", egress_allow="127.0.0.0/8", s3_endpoint=seaweedfs.url) as running:
        yield running


@pytest.fixture
def environment(api: Api, seaweedfs: SeaweedFS, tmp_path: Path) -> dict[str, str]:
    """The variables that the documents tell a reader to set, and a curl also where the machine has none."""
    key, secret = seaweedfs.customer
    curl = tmp_path / "bin/curl"
    curl.parent.mkdir()
    curl.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/servers/curl.py" "$@"\n')
    curl.chmod(0o755)
    return clean_environment(
        PATH=f"{os.environ['PATH']}:{curl.parent}",
        DROPOFF_URL=api.url, DROPOFF_KEY=api.key, S3_BUCKET_NAME="results",
        S3_ACCESS_KEY_ID=key, S3_SECRET_ACCESS_KEY=secret,
    )  # fmt: skip


def executed(block: Block, environment: Mapping[str, str], folder: Path) -> list[dict[str, Any]]:
    """Every answer that the block printed, one a line; each is a success."""
    program = folder / f"example{SUFFIX[block.language]}"
    program.write_text(block.text)
    done = subprocess.run(
        (*EXECUTED[block.language], program), env=dict(environment), cwd=folder,
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # One after another and, from curl, without a line's end.
    text, answers = re.sub(r"^200 ", "", done.stdout), []
    while text.strip():
        answer, end = json.JSONDecoder().raw_decode(text.strip())
        text = text.strip()[end:]
        answers.append(answer)
    assert answers
    assert all(answer["request_info"]["success"] for answer in answers), done.stdout
    return answers


def test_each_call_is_shown_in_each_language_as_a_form_and_as_json() -> None:
    assert {key for key in API if key[0] in WAYS} == set(product(WAYS, CALLS, LANGUAGES))
    assert len([block for block in blocks("docs/api.md") if block.language in LANGUAGES]) == 32


def test_each_example_says_what_the_others_say() -> None:
    """PHP, which is not executed here, sends the parameters that the executed ones send."""
    for way, call in product(WAYS, CALLS):
        names = [set(re.findall(r"\b(?:s3_\w+|name|type|enabled)\b", API[way, call, each].text)) for each in LANGUAGES]
        assert len(set(map(frozenset, names))) == 1, (way, call)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("language", EXECUTED)
def test_the_examples_create_list_disable_and_delete(
    way: str, language: str, api: Api, environment: dict[str, str], seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    def example(call: str, **more: str) -> dict[str, Any]:
        (answer,) = executed(API[way, call, language], {**environment, **more}, tmp_path)
        return answer

    before = seaweedfs.objects("results")
    created = example("Create")["destination"]
    assert (created["name"], created["type"], created["enabled"]) == ("results", "s3", True)
    assert created["s3_path_prefix"] == "dropoff/%DATE%"
    assert created["verification"]["ok"]
    assert seaweedfs.objects("results") == before
    assert created in example("List")["destinations"]
    disabled = example("Update", DROPOFF_ID=created["id"])["destination"]
    assert {**created, "enabled": False, "updated_at": disabled["updated_at"]} == disabled
    path = f"/destinations/{created['id']}"
    assert api.call("GET", path).json["destination"] == disabled
    assert example("Delete", DROPOFF_ID=created["id"])["request_info"]["message"] == "1 Destination deleted"
    assert api.call("GET", path).status == 404


@pytest.mark.parametrize("language", EXECUTED)
def test_the_readmes_examples_run(
    language: str, api: Api, environment: dict[str, str], seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    before = seaweedfs.objects("results")
    create, *others = [block for block in blocks("README.md") if block.language == language]
    created = executed(create, environment, tmp_path)[0]["destination"]
    assert created["verification"]["ok"]
    assert seaweedfs.objects("results") == before
    assert [block.language for block in others] == (["sh"] if language == "sh" else [])
    for block in others:
        listed, changed, deleted = executed(block, {**environment, "DROPOFF_ID": created["id"]}, tmp_path)
        assert created in listed["destinations"]
        assert changed["destination"]["enabled"] is False
        assert deleted["request_info"]["message"] == "1 Destination deleted"
        assert api.call("GET", f"/destinations/{created['id']}").status == 404


def test_the_readme_shows_every_language() -> None:
    shown = [block.language for block in blocks("README.md") if block.language in LANGUAGES]
    assert sorted(set(shown)) == sorted(LANGUAGES)


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_an_address_with_a_query_is_quoted_in_a_command(document: str) -> None:
    """Some shells take an unquoted ? for a pattern, and each takes an & for the end of the command."""
    commands = [line for line in (ROOT / document).read_text().replace("\\\n", " ").splitlines() if "curl " in line]
    unquoted = [line for line in commands if re.search(r"""(?<!["'])(?:https?://|\$DROPOFF_URL)[^\s"']*\?""", line)]
    assert unquoted == []
