"""All ways to store, from the modules of all types, and the tables that many tests ask for."""

from importlib import import_module
from typing import Any

from app.domain.types import SPECS
from tests.types.base import Storage

STORAGES: dict[str, Storage] = {
    storage.name: storage for kind in SPECS for storage in import_module(f"tests.types.{kind}").STORAGES
}
"""By name. A type has a module of its name, whose STORAGES are its ways to store; the first is called as the type."""

GOOD: dict[str, dict[str, Any]] = {
    kind: {name: value for name, value in STORAGES[kind].good.items() if name != "type"} for kind in SPECS
}
"""By type, the parameters of a body that is well formed and complete."""


def settings_at(url: str) -> dict[str, str]:
    """The settings by which the host at `url` is in every provider's place."""
    return {name: value for storage in STORAGES.values() for name, value in storage.settings_at(url).items()}


def with_case(case: str) -> list[str]:
    """The names in the contract of the servers that can be brought to the `case` among their particulars."""
    return [name for storage in STORAGES.values() if case in storage.particulars for name in storage.backends]
