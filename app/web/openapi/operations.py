"""The table of calls: what each takes, what it answers and in which errors it can end."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.domain.destination import PAGE_SIZE, SortBy
from app.domain.errors import (
    CredentialsUnreadable,
    DestinationChanged,
    DestinationLimitReached,
    DestinationNotFound,
    DropoffError,
    Fault,
    JobNotFound,
    TooManyStreams,
    TooManyVerifications,
    VerificationTimedOut,
)
from app.domain.job import LIMIT, State
from app.domain.specs import SPECS
from app.domain.verification import VerificationFailed
from app.web.body import JSON

Schema = dict[str, Any]

PAGES = frozenset(
    {
        *("/openapi.json", "/docs", "/docs.css", "/dashboard", "/dashboard/overview", "/dashboard/{name}"),
        *("/dashboard/session", "/dashboard/session/end"),
    }
)
"""What is served and is no call: the documentation itself, and the dashboard with what its page asks for."""


@dataclass(frozen=True)
class Operation:
    """One call. `success` is the schema of a 200; `refusals` are the errors that it can end in beside those that every
    call with a key and every call with a body can; `body` is the name of the body's schema; `others` are the schemas of
    answers that are neither, with an example of each."""

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
    others: Mapping[int, tuple[Schema, Schema]] = field(default_factory=dict)


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
_JOBS = (
    _query("state", "Only those that are in this state.", enum=[*State]),
    _query("type", "Only those of this type.", enum=[*SPECS]),
    _query("destination", "Only those of the destination with this id.", type="string"),
    _query("fault", "Only those that failed with this code.", enum=[*Fault]),
    _query("account", "Only those of the account with this number; a customer has but its own.", type="integer"),
    _query("search", "Only those whose id, destination or host contains this, in any case.", type="string"),
    _query("from", "Only those that were submitted at this time or later.", type="string", format="date-time"),
    _query("to", "Only those that were submitted before this time.", type="string", format="date-time"),
    _query("limit", "How many at most; 50 where it is left out.", type="integer", minimum=1, maximum=LIMIT),
    _query("cursor", "The next_cursor of the page before.", type="string"),
)
_HELD = (TooManyVerifications, VerificationTimedOut)
_VERIFYING = (VerificationFailed, *_HELD)
_REPORT = succeeded({"verification": ref("Report")})
_PLACES = [
    (name, [kind for kind, spec in SPECS.items() if name in spec.parameters() - spec.credentials()])
    for name in sorted(frozenset().union(*(spec.parameters() - spec.credentials() for spec in SPECS.values())))
]
"""By name, the parameters that are no credentials, and the types that have them."""
_READINESS = closed(
    {
        "status": {"enum": ["ready", "not ready"]},
        "checks": {
            "type": "array",
            "items": closed({"check": {"type": "string"}, "ok": {"type": "boolean"}, "detail": {"type": "string"}}),
        },
    },
    optional=frozenset({"checks"}),
)
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
        "list_jobs",
        "GET",
        "/jobs",
        "What verifications do and have done, newest first; the operator sees those of all accounts.",
        succeeded(
            {
                "jobs": {"type": "array", "items": ref("Job"), "maxItems": LIMIT},
                "next_cursor": {"type": ["string", "null"], "description": "The cursor of the page after this one."},
            }
        ),
        parameters=_JOBS,
    ),
    Operation(
        "get_job",
        "GET",
        "/jobs/{id}",
        "One job, with its timeline and its report.",
        succeeded({"job": ref("JobRecord")}),
        (JobNotFound,),
        ({**_OF_ID[0], "description": "The job's id.", "schema": {"type": "string"}},),
    ),
    Operation(
        "follow_jobs",
        "GET",
        "/jobs/stream",
        "Jobs as they change, without an end, as server-sent events: `job`, and `gap` where some are kept no more.",
        {"type": "string"},
        (TooManyStreams,),
        (
            _query("last_event_id", "The id of the last event that was seen, to go on after it.", type="string"),
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The same, as browsers send it.",
                "schema": {"type": "string", "pattern": "^[0-9]{1,13}-[0-9]{1,6}$"},
            },
        ),
        content_type="text/event-stream",
    ),
    Operation(
        "health",
        "GET",
        "/healthz",
        "Whether this process is there.",
        closed({"status": {"const": "ok"}}),
        needs_key=False,
    ),
    Operation(
        "readiness",
        "GET",
        "/readyz",
        "Whether the database, Redis and a worker are there; what is wrong is told to the operator.",
        _READINESS,
        needs_key=False,
        others={503: (_READINESS, {"status": "not ready"})},
    ),
    Operation(
        "metrics",
        "GET",
        "/metrics",
        "What this process has counted, for Prometheus; with the operator's key.",
        {"type": "string"},
        content_type="text/plain",
    ),
)
