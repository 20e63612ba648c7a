"""What a linter of imports does not see: that each part has its counterpart, and is documented."""

import re
from pathlib import Path

import pytest

from app.domain.faults import ADVICE, Fault
from app.domain.types import SPECS
from app.domain.verification import Step
from app.settings import Settings
from tests.faults.verifying import providers
from tests.types.every import STORAGES

ROOT = Path(__file__).parents[1]
PLACEHOLDERS = {"parameter", "provider", "host", "bucket", "noun", "prefix", "object", "seconds", "detail"}

# What all providers share.
SHARED = {"__init__", "multipart", "port", "refusals", "registry"}


@pytest.mark.parametrize("name", STORAGES)
async def test_each_way_to_store_is_served_by_the_provider_of_its_type(name: str) -> None:
    """Or by that of a dialect that several types speak."""
    assert (ROOT / "app/domain/types" / f"{STORAGES[name].type}.py").is_file()
    async with providers() as provider_for:
        module = type(await provider_for(STORAGES[name].spec())).__module__
    assert module.split(".")[:3] == ["workers", "storage", STORAGES[name].served_by]


def test_each_file_of_specs_and_providers_serves_a_type() -> None:
    specs = {path.stem for path in (ROOT / "app/domain/types").glob("*.py")} - {"__init__", "base"}
    files = {path.relative_to(ROOT / "workers/storage").parts[0] for path in (ROOT / "workers/storage").rglob("*.py")}
    assert specs == set(SPECS)
    assert {name.removesuffix(".py") for name in files} - SHARED == {each.served_by for each in STORAGES.values()}


@pytest.mark.parametrize("kind", SPECS)
def test_each_role_is_played_by_a_parameter_of_the_type(kind: str) -> None:
    assert set(SPECS[kind].roles.values()) <= SPECS[kind].parameters()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_documented(name: str) -> None:
    assert f"| `DROPOFF_{name.upper()}` |" in (ROOT / "docs/operating.md").read_text()


def test_each_event_that_warns_has_its_alert_and_each_alert_its_event() -> None:
    sources = [path.read_text() for folder in ("app", "workers") for path in (ROOT / folder).rglob("*.py")]
    table = (ROOT / "docs/operating.md").read_text().partition("## Alerts")[2].partition("\n## ")[0]
    alerts = set(re.findall(r"^\| `([^`]+)`", table, re.M))
    warned = {
        event for text in sources for event in re.findall(r'log\.(?:warning|error|exception)\(\s*"([^"]+)"', text)
    }
    assert warned - alerts == set()
    assert [event for event in alerts if not any(f'"{event}"' in text for text in sources)] == []


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_has_advice_and_a_line_in_the_documentation(fault: Fault) -> None:
    for text in (ADVICE[fault].text, *(spec.advice_text(fault) for spec in SPECS.values())):
        assert set(re.findall(r"\{(\w*)\}", text)) <= PLACEHOLDERS
    assert f"| `{fault}` |" in (ROOT / "docs/providers.md").read_text()


def test_each_module_opens_with_a_sentence() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for folder in ("app", "workers", "tests", "demo", "migrations")
        for path in (ROOT / folder).rglob("*.py")
        if "node_modules" not in path.parts
        and not path.read_text().lstrip().startswith(('"""', "#"))
        and path.read_text().strip()
    ]
    assert silent == []


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/decisions/README.md").read_text()
    for page in (ROOT / "docs/decisions").glob("[0-9]*.md"):
        assert f"({page.name})" in listed


def test_the_steps_are_those_that_are_documented() -> None:
    assert ", ".join(Step) in (ROOT / "docs/decisions/0007-the-steps-of-a-report.md").read_text()
