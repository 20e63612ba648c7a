"""A collection: which destinations the result sets of one collection of the platform's go to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.destination import NAME_LIMIT, is_destination_id, is_name
from app.domain.errors import CollectionNotFound, InvalidParameters, ParameterFault
from app.domain.faults import Fault
from app.domain.listing import parse_page, unknown_parameters
from app.domain.types import printable

PAGE_SIZE = 10
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_DESTINATIONS = 1000


@dataclass(frozen=True)
class Collection:
    """One collection of an account; `id` is the platform's own."""

    account: int
    id: str
    name: str
    destinations: tuple[str, ...]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class CollectionDraft:
    """What a PUT says a collection is to be; `destinations` are well-formed ids, each once, in their own order."""

    name: str
    destinations: tuple[str, ...]


@dataclass(frozen=True)
class CollectionQuery:
    """Which page of an account's collections is asked for, the oldest first; `destination` is one that they use."""

    search_term: str = ""
    destination: str | None = None
    page: int = 1


@dataclass(frozen=True)
class CollectionPage:
    """One page of a listing; `matching` counts all collections that match."""

    collections: tuple[Collection, ...]
    matching: int


def require_collection_id(text: str) -> str:
    """`text`, if it can be a collection's id. Raises CollectionNotFound, since there is none by any other."""
    if not is_collection_id(text):
        raise CollectionNotFound("A collection's id has 1 to 64 letters, digits, hyphens and underscores: check it.")
    return text


def is_collection_id(text: str) -> bool:
    """Whether `text` has the form of a collection's id."""
    return bool(_ID.fullmatch(text))


def parse_collection(body: Mapping[str, Any]) -> CollectionDraft:
    """What `body` asks for. Raises InvalidParameters with every fault at once."""
    faults = unknown_parameters(body, ("name", "destination_ids"), "a collection")
    name = body.get("name")
    if isinstance(name, str):
        name = name.strip()
    if name in (None, ""):
        faults.append(ParameterFault("name", "missing_parameter", "name is required."))
    elif not isinstance(name, str) or not is_name(name):
        rule = f"name must be 1 to {NAME_LIMIT} characters without line breaks or control characters."
        faults.append(ParameterFault("name", Fault.INVALID_PARAMETER, rule))
    destinations: tuple[str, ...] = ()
    if "destination_ids" not in body:
        faults.append(ParameterFault("destination_ids", "missing_parameter", "destination_ids is required."))
    else:
        destinations = parse_destination_ids(body["destination_ids"], faults)
    if faults:
        raise InvalidParameters(faults)
    return CollectionDraft(str(name), destinations)


def parse_destination_ids(value: object, faults: list[ParameterFault]) -> tuple[str, ...]:
    """The ids in `value`, a list or, as a form has it, text with commas between them; each once. What is no id is added
    to `faults`."""
    given = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or len(given) > _MOST_DESTINATIONS:
        rule = f"destination_ids must be a list of at most {_MOST_DESTINATIONS} ids of destinations."
        faults.append(ParameterFault("destination_ids", Fault.INVALID_PARAMETER, rule))
        return ()
    wrong = [each for each in given if not is_destination_id(each)]
    if wrong:
        shown = printable(wrong[0]) if isinstance(wrong[0], str) else "something that is no text"
        rule = f"destination_ids has {shown}, which is no id of a destination: they have 12 digits, 0 to 9 and A to F."
        faults.append(ParameterFault("destination_ids", Fault.INVALID_PARAMETER, rule))
        return ()
    return tuple(dict.fromkeys(given))


def parse_collection_listing(parameters: Mapping[str, str]) -> CollectionQuery:
    """The page that a query string asks for. Raises InvalidParameters for anything else."""
    faults = unknown_parameters(parameters, ("search_term", "destination_id", "page"), "the list of collections")
    destination = parameters.get("destination_id") or None
    if destination and not is_destination_id(destination):
        rule = "destination_id must be the id of a destination."
        faults.append(ParameterFault("destination_id", Fault.INVALID_PARAMETER, rule))
    page = parse_page(parameters.get("page") or "1", faults)
    if faults:
        raise InvalidParameters(faults)
    return CollectionQuery(parameters.get("search_term", ""), destination, page)
