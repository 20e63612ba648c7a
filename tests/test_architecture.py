"""What a linter of imports does not see: that each part has its counterpart, and is documented."""

import re
from pathlib import Path

import pytest

from app.domain.errors import ADVICE, Fault
from app.domain.specs import SPECS
from app.domain.verification import Step
from app.settings import Settings

ROOT = Path(__file__).parents[1]
PLACEHOLDERS = {"parameter", "provider", "host", "bucket", "noun", "prefix", "object", "seconds", "detail"}

# Three types speak one dialect, so one provider serves them.
PROVIDER_OF = {"s3": "s3", "s3compatible": "s3", "gcs": "gcs", "azure": "azure", "oss": "oss"}


@pytest.mark.parametrize("kind", SPECS)
def test_each_type_has_a_spec_and_a_provider(kind: str) -> None:
    assert (ROOT / "app/domain/specs" / f"{kind}.py").is_file()
    assert (ROOT / "workers/providers" / f"{PROVIDER_OF[kind]}.py").is_file()


def test_each_file_of_specs_and_providers_serves_a_type() -> None:
    specs = {path.stem for path in (ROOT / "app/domain/specs").glob("*.py")} - {"__init__", "base"}
    providers = {path.stem for path in (ROOT / "workers/providers").glob("*.py")} - {"__init__", "base"}
    assert specs == set(SPECS)
    assert providers == set(PROVIDER_OF.values())


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
    for text in (ADVICE[fault].text, *ADVICE[fault].by_type.values()):
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
