"""The table of calls: what each takes, what it answers and in which errors it can end."""

from dataclasses import dataclass, replace
from typing import Any

from app.domain.destination import PAGE_SIZE, SortBy
from app.domain.errors import (
    CredentialsUnreadable,
    DestinationChanged,
    DestinationLimitReached,
    DestinationNotFound,
    DropoffError,
    TooManyVerifications,
    VerificationTimedOut,
)
from app.domain.specs import SPECS
from app.domain.verification import VerificationFailed
from app.web.body import JSON

Schema = dict[str, Any]

PAGES = frozenset({"/openapi.json", "/docs", "/docs.css"})
"""What is served and is no call: the documentation itself."""


@dataclass(frozen=True)
class Operation:
    """One call. `success` is the schema of a 200; `refusals` are the errors that it can end in beside those that every
    call with a key and every call with a body can; `body` is the name of the body's schema."""

    id: str
    method: str
    path: str
    summary: str
    success: Schema
    refusals: tuple[type[DropoffError], ...] = ()
    parameters: tuple[Schema, ...] = ()
    body: str | None = None
    needs_body: bool = True
    needs_key: bool = True
    content_type: str = JSON


def ref(name: str) -> Schema:
    """The schema called `name` in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed(properties: Schema, optional: frozenset[str] = frozenset()) -> Schema:
    """An object with these properties and no others, all of them there but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def succeeded(properties: Schema, **told: Schema) -> Schema:
    """The envelope of a success, with these properties beside it."""
    return closed({"request_info": closed({"success": {"const": True}, **told}), **properties})


def _query(name: str, description: str, **schema: Any) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


ID = {"type": "string", "pattern": "^[0-9A-F]{12}$"}
_OF_ID = ({"name": "id", "in": "path", "required": True, "description": "The destination's id.", "schema": ID},)
_COUNT = {"type": "integer", "minimum": 0}
_ONE = succeeded({"destination": ref("Destination")})
_PAGE = succeeded(
    {
        "usage": closed({"used": _COUNT, "limit": _COUNT, "available": _COUNT}),
        **dict.fromkeys(("total_count", "total_pages", "current_page", "count_this_page"), _COUNT),
        "destinations": {"type": "array", "items": ref("Destination"), "maxItems": PAGE_SIZE},
    }
)
_LISTING = (
    _query("search_term", "Only those whose name contains this, in any case.", type="string"),
    _query("page", f"From 1, {PAGE_SIZE} a page; past the end there are none.", type="integer", minimum=1),
    _query("sort_by", "Oldest first where it is left out.", enum=[SortBy.NAME, SortBy.TYPE]),
    _query("sort_direction", "Ascending where it is left out.", enum=["ascending", "descending"]),
)
_HELD = (TooManyVerifications, VerificationTimedOut)
_VERIFYING = (VerificationFailed, *_HELD)
_REPORT = succeeded({"verification": ref("Report")})
_PLACES = [
    (name, [kind for kind, spec in SPECS.items() if name in spec.parameters() - spec.credentials()])
    for name in sorted(frozenset().union(*(spec.parameters() - spec.credentials() for spec in SPECS.values())))
]
"""By name, the parameters that are no credentials, and the types that have them."""
_CREATE = Operation(
    "create_destination",
    "POST",
    "/destinations",
    "Create a destination; an enabled one is verified first.",
    _ONE,
    (*_VERIFYING, DestinationLimitReached),
    body="Create",
)

OPERATIONS = (
    _CREATE,
    Operation(
        "list_destinations", "GET", "/destinations", "List the destinations of the account.", _PAGE, parameters=_LISTING
    ),
    Operation("get_destination", "GET", "/destinations/{id}", "One destination.", _ONE, (DestinationNotFound,), _OF_ID),
    Operation(
        "update_destination",
        "PUT",
        "/destinations/{id}",
        "Change what is sent; verified first where that enables it or changes where or how files go.",
        _ONE,
        (*_VERIFYING, DestinationNotFound, DestinationChanged),
        _OF_ID,
        body="Update",
        needs_body=False,
    ),
    Operation(
        "delete_destination",
        "DELETE",
        "/destinations/{id}",
        "Delete a destination.",
        succeeded({}, message={"const": "1 Destination deleted"}),
        (DestinationNotFound,),
        _OF_ID,
    ),
    replace(
        _CREATE,
        id="create_destination_too",
        path="/destination",
        summary="The same as POST /destinations, as some clients spell it.",
    ),
    Operation(
        "verify",
        "POST",
        "/destinations/verify",
        "Verify what a create would store, enabled or not, and create nothing; 200 also where it fails.",
        _REPORT,
        _HELD,
        body="Create",
    ),
    Operation(
        "verify_destination",
        "POST",
        "/destinations/{id}/verify",
        "Verify a destination as it is; 200 also where it fails.",
        _REPORT,
        (*_HELD, DestinationNotFound, DestinationChanged, CredentialsUnreadable),
        _OF_ID,
        body="Nothing",
        needs_body=False,
    ),
    Operation(
        "policy",
        "GET",
        "/destinations/policy",
        "The policy to attach at the provider, and how to make the keys.",
        succeeded(
            {
                "policy": {"type": ["object", "null"], "description": "Null where nothing narrows a key."},
                "steps": {"type": "array", "items": {"type": "string"}},
            }
        ),
        parameters=(
            {**_query("type", "The type of the destination.", enum=[*SPECS]), "required": True},
            *(_query(name, f"As in a create with type={', '.join(kinds)}.", type="string") for name, kinds in _PLACES),
        ),
    ),
    Operation(
        "health",
        "GET",
        "/healthz",
        "Whether this process is there.",
        closed({"status": {"const": "ok"}}),
        needs_key=False,
    ),
)
