"""The table of calls: what each takes, what it answers and in which errors it can end."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.domain.account import PAGE_SIZE as ACCOUNTS_PAGE_SIZE
from app.domain.audit import DEFAULT_LIMIT, Action
from app.domain.delivery import DeliveryState, SourceFault
from app.domain.destination import NAME_LIMIT, PAGE_SIZE, SortBy
from app.domain.errors import (
    AccountExists,
    AccountInUse,
    AccountNotFound,
    CollectionNotFound,
    CredentialsUnreadable,
    DeliveryNotFound,
    DestinationChanged,
    DestinationInUse,
    DestinationLimitReached,
    DestinationNotFound,
    DropoffError,
    EgressUnavailable,
    JobNotFound,
    KeyInUse,
    KeyNotFound,
    LeftoverNotFound,
    NotificationNotFound,
    OutcomeUnknown,
    ResultSetDiffers,
    ResultSetNotFound,
    SourceNotConfigured,
    TooManyGuesses,
    TooManyStreams,
    TooManyVerifications,
    VerificationTimedOut,
)
from app.domain.faults import Fault, Role
from app.domain.leftover import PAGE_SIZE as LEFTOVERS_PAGE_SIZE
from app.domain.leftover import LeftoverState
from app.domain.listing import LIMIT
from app.domain.notification import NotificationState
from app.domain.result_set import LARGEST_ID
from app.domain.types import SPECS
from app.domain.verification import Step, VerificationFailed
from app.monitor.job import JobState
from app.web.body import JSON

Schema = dict[str, Any]

PAGES = frozenset(
    {
        *("/", "/openapi.json", "/docs", "/docs.css", "/dashboard", "/dashboard/overview", "/dashboard/{name}"),
        *("/dashboard/destinations/{id}", "/dashboard/session", "/dashboard/session/end"),
    }
)
"""What is served and is no call: the documentation itself, and the dashboard with what its page asks for."""


@dataclass(frozen=True)
class Operation:
    """One call. `success` is the schema of a success, whose status is one of `statuses`; `refusals` are the errors that
    it can end in beside those that every call with a key and every call with a body can; `body` is the name of the
    body's schema, and `repeats` says that its Idempotency-Key is looked at; `others` are the schemas of answers that
    are neither, with an example of each."""

    id: str
    method: str
    path: str
    summary: str
    success: Schema
    refusals: tuple[type[DropoffError], ...] = ()
    parameters: tuple[Schema, ...] = ()
    body: str | None = None
    needs_body: bool = True
    repeats: bool = True
    statuses: tuple[int, ...] = (200,)
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


def succeeded(properties: Schema, optional: frozenset[str] = frozenset(), **request_info: Schema) -> Schema:
    """The envelope of a success, with these properties beside it."""
    return closed({"request_info": closed({"success": {"const": True}, **request_info}), **properties}, optional)


def _query(name: str, description: str, **schema: Any) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _filter(name: str, description: str, **schema: Any) -> Schema:
    """A parameter of a list, of which an empty one is none."""
    return {**_query(name, description), "allowEmptyValue": True, "schema": {"anyOf": [schema, {"const": ""}]}}


_ACCOUNT = _filter(
    "account", "Only those of the account of this name, or number; a customer has but its own.", type="string"
)
ID = {"type": "string", "pattern": "^[0-9A-F]{12}$"}
_OF_ID = ({"name": "id", "in": "path", "required": True, "description": "The destination's id.", "schema": ID},)
_COUNT = {"type": "integer", "minimum": 0}
_COUNTS = dict.fromkeys(("total_count", "total_pages", "current_page", "count_this_page"), _COUNT)
_ONE = succeeded({"destination": ref("Destination")})
_PAGE = succeeded(
    {
        "usage": {
            **closed({"used": _COUNT, "limit": _COUNT, "available": _COUNT}),
            "description": "Of the account; not there where the operator asks for those of all.",
        },
        **_COUNTS,
        "destinations": {"type": "array", "items": ref("Destination"), "maxItems": PAGE_SIZE},
    },
    optional=frozenset({"usage"}),
)
_LISTING = (
    _filter("search_term", "Only those whose name contains this, in any case.", type="string"),
    _filter("page", f"From 1, {PAGE_SIZE} a page; past the end there are none.", type="integer", minimum=1),
    _filter("sort_by", "Oldest first where it is left out.", enum=[SortBy.NAME, SortBy.TYPE]),
    _filter("sort_direction", "Ascending where it is left out.", enum=["ascending", "descending"]),
    _filter("failing", "Only those that fail, or only those that do not.", enum=["true", "false", "1", "0"]),
)
_JOBS = (
    _filter("state", "Only those that are in this state.", enum=[*JobState]),
    _filter("type", "Only those of this type.", enum=[*SPECS]),
    _filter("destination", "Only those of the destination with this id.", type="string"),
    _filter("fault", "Only those that failed with this code.", enum=[*Fault]),
    _ACCOUNT,
    _filter("search", "Only those whose id, destination, host or account contains this, in any case.", type="string"),
    _filter("from", "Only those that were submitted at this time or later.", type="string", format="date-time"),
    _filter("to", "Only those that were submitted before this time.", type="string", format="date-time"),
    _filter("limit", "How many at most; 50 where it is left out.", type="integer", minimum=1, maximum=LIMIT),
    _filter("cursor", "The next_cursor of the page before.", type="string"),
)
_HELD = (TooManyVerifications, VerificationTimedOut, EgressUnavailable)
_VERIFYING = (VerificationFailed, *_HELD)
_REPORT = succeeded({"verification": ref("Report")})
_PUBLIC = [
    (name, [kind for kind, spec in SPECS.items() if name in spec.parameters() - spec.credentials()])
    for name in sorted(frozenset().union(*(spec.parameters() - spec.credentials() for spec in SPECS.values())))
]
"""By name, the parameters that are no credentials, and the types that have them."""
_SHOWN = {SPECS[next(iter(SPECS))].roles[Role.BUCKET]: {"example": "my-results"}}
"""What the first type needs beside `type`, with a value for the call that is shown."""
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
    (*_VERIFYING, DestinationLimitReached, OutcomeUnknown),
    body="Create",
)

KEY_ID = {"type": "string", "pattern": "^[0-9a-f]{12}$"}
_NAME = {"type": "string", "minLength": 1, "maxLength": NAME_LIMIT}
DELIVERY_ID = {"type": "string", "pattern": "^[0-9A-F]{16}$"}
_SAID = {"type": ["string", "null"]}
REFUSAL = {
    "anyOf": [
        closed(
            {
                "step": {"enum": [*Step]},
                "provider_code": _SAID,
                "status": {"type": ["integer", "null"], "description": "The HTTP status."},
                "request_id": _SAID,
            }
        ),
        {"type": "null"},
    ],
    "description": "At which step the store refused the last attempt, and its words; null where it was not the store.",
}
COLLECTION_ID = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
RESULT_SET_ID = {"type": "integer", "minimum": 0, "maximum": LARGEST_ID}
_ACCOUNT = _query("account", "With the operator's key: the name of the account that is meant.", type="string")
_OF_COLLECTION = (
    {"name": "id", "in": "path", "required": True, "description": "The collection's id.", "schema": COLLECTION_ID},
    _ACCOUNT,
)
_OF_RESULT_SET = (
    _OF_COLLECTION[0],
    {
        "name": "result_set",
        "in": "path",
        "required": True,
        "description": "The result set's id.",
        "schema": RESULT_SET_ID,
    },
    _ACCOUNT,
)
_PAGE_NUMBER = _LISTING[1]
_REDELIVERED = succeeded(
    {"redelivered": {**_COUNT, "description": "How many deliveries are made again."}},
    message={"type": "string", "description": "That, and why others are not."},
)
_DELIVERIES = (
    _filter("state", "Only those that are in this state.", enum=[*DeliveryState]),
    _filter("destination", "Only those to the destination with this id.", **ID),
    _filter("collection", "Only those of the collection with this id.", **COLLECTION_ID),
    _filter("fault", "Only those whose last attempt failed with this code.", enum=[*Fault, *SourceFault]),
    _ACCOUNT,
    _filter("from", "Only those that were announced at this time or later.", type="string", format="date-time"),
    _filter("to", "Only those that were announced before this time.", type="string", format="date-time"),
    _filter("limit", "How many at most; 50 where it is left out.", type="integer", minimum=1, maximum=LIMIT),
    _filter("cursor", "The next_cursor of the page before.", type="string"),
)
_DELIVERING = (
    Operation(
        "list_collections",
        "GET",
        "/collections",
        "List the collections of the account, the oldest first.",
        succeeded({**_COUNTS, "collections": {"type": "array", "items": ref("Collection"), "maxItems": PAGE_SIZE}}),
        (TooManyGuesses,),
        (
            _filter("search_term", "Only those whose name contains this, in any case.", type="string"),
            _filter("destination_id", "Only those that use the destination with this id.", **ID),
            _PAGE_NUMBER,
            _ACCOUNT,
        ),
    ),
    Operation(
        "put_collection",
        "PUT",
        "/collections/{id}",
        "Create or replace a collection, under an id of your own.",
        succeeded({"collection": ref("Collection")}),
        (CollectionNotFound, OutcomeUnknown, TooManyGuesses),
        _OF_COLLECTION,
        body="CollectionPut",
    ),
    Operation(
        "get_collection",
        "GET",
        "/collections/{id}",
        "One collection.",
        succeeded({"collection": ref("Collection")}),
        (CollectionNotFound, TooManyGuesses),
        _OF_COLLECTION,
    ),
    Operation(
        "delete_collection",
        "DELETE",
        "/collections/{id}",
        "Delete a collection; what was announced for it is delivered all the same.",
        succeeded({}, message={"const": "1 Collection deleted"}),
        (CollectionNotFound, OutcomeUnknown, TooManyGuesses),
        _OF_COLLECTION,
    ),
    Operation(
        "announce_result_set",
        "POST",
        "/collections/{id}/results",
        "Say that a result set is complete, with the operator's key: its files go to each enabled destination of the "
        "collection. 200 where the same was announced before.",
        succeeded({"result_set": ref("ResultSet")}),
        (CollectionNotFound, ResultSetDiffers, SourceNotConfigured, OutcomeUnknown, TooManyGuesses),
        (_OF_COLLECTION[0], {**_ACCOUNT, "required": True}),
        body="Announcement",
        repeats=False,
        statuses=(200, 202),
    ),
    Operation(
        "list_result_sets",
        "GET",
        "/collections/{id}/results",
        "The result sets of a collection, the newest first, and what became of each at each destination.",
        succeeded({**_COUNTS, "result_sets": {"type": "array", "items": ref("ResultSet"), "maxItems": PAGE_SIZE}}),
        (CollectionNotFound, TooManyGuesses),
        (_OF_COLLECTION[0], _PAGE_NUMBER, _ACCOUNT),
    ),
    Operation(
        "get_result_set",
        "GET",
        "/collections/{id}/results/{result_set}",
        "One result set, with a receipt for each file and destination.",
        succeeded({"result_set": ref("ResultSetRecord")}),
        (CollectionNotFound, ResultSetNotFound, TooManyGuesses),
        _OF_RESULT_SET,
    ),
    Operation(
        "redeliver_result_set",
        "POST",
        "/collections/{id}/results/{result_set}/redeliver",
        "Deliver a result set again: all of it, or what failed, or to some destinations.",
        _REDELIVERED,
        (CollectionNotFound, ResultSetNotFound, OutcomeUnknown, TooManyGuesses),
        _OF_RESULT_SET,
        body="ResultSetRedelivery",
        needs_body=False,
        statuses=(202,),
    ),
    Operation(
        "redeliver_to_destination",
        "POST",
        "/destinations/{id}/redeliver",
        "Deliver again what was announced for a destination.",
        _REDELIVERED,
        (DestinationNotFound, OutcomeUnknown, TooManyGuesses),
        (*_OF_ID, _ACCOUNT),
        body="DestinationRedelivery",
        needs_body=False,
        statuses=(202,),
    ),
    Operation(
        "list_deliveries",
        "GET",
        "/deliveries",
        "What became of each file at each destination, newest first; the operator sees those of all accounts.",
        succeeded(
            {
                "deliveries": {"type": "array", "items": ref("Delivery"), "maxItems": LIMIT},
                "next_cursor": {"type": ["string", "null"], "description": "The cursor of the page after this one."},
            }
        ),
        (TooManyGuesses,),
        parameters=_DELIVERIES,
    ),
    Operation(
        "get_delivery",
        "GET",
        "/deliveries/{id}",
        "One delivery.",
        succeeded({"delivery": ref("Delivery")}),
        (DeliveryNotFound, TooManyGuesses),
        ({**_OF_ID[0], "description": "The delivery's id.", "schema": DELIVERY_ID},),
    ),
)

_NAMED = ({"name": "name", "in": "path", "required": True, "description": "The account's name.", "schema": _NAME},)
_OPERATORS = (TooManyGuesses, AccountNotFound)
_CHANGING = (OutcomeUnknown, *_OPERATORS)
_ACCOUNT_SHOWN = succeeded({"account": ref("Account")})
_ACCOUNTS = (
    Operation(
        "list_accounts",
        "GET",
        "/accounts",
        "All accounts, in the order of their names; with the operator's key, as all calls on accounts.",
        succeeded({**_COUNTS, "accounts": {"type": "array", "items": ref("Account"), "maxItems": ACCOUNTS_PAGE_SIZE}}),
        (TooManyGuesses,),
        (
            _filter("search_term", "Only those whose name contains this, in any case.", type="string"),
            _filter("page", f"From 1, {ACCOUNTS_PAGE_SIZE} a page.", type="integer", minimum=1),
        ),
    ),
    Operation(
        "create_account",
        "POST",
        "/accounts",
        "Make an account, which has no key yet.",
        _ACCOUNT_SHOWN,
        (OutcomeUnknown, TooManyGuesses, AccountExists),
        body="AccountCreate",
        repeats=False,
    ),
    Operation("get_account", "GET", "/accounts/{name}", "One account.", _ACCOUNT_SHOWN, _OPERATORS, _NAMED),
    Operation(
        "change_account",
        "PUT",
        "/accounts/{name}",
        "Give an account limits or a delete policy of its own; null takes them back.",
        _ACCOUNT_SHOWN,
        _CHANGING,
        _NAMED,
        body="AccountChange",
        repeats=False,
    ),
    Operation(
        "delete_account",
        "DELETE",
        "/accounts/{name}",
        "Delete an account that has no destinations and no collections, and its keys.",
        succeeded({}, message={"const": "1 Account deleted"}),
        (*_CHANGING, AccountInUse),
        _NAMED,
    ),
    Operation(
        "list_keys",
        "GET",
        "/accounts/{name}/keys",
        "The keys of an account by their ids, which open nothing, the oldest first.",
        succeeded({"keys": {"type": "array", "items": ref("Key")}}),
        _OPERATORS,
        _NAMED,
    ),
    Operation(
        "add_key",
        "POST",
        "/accounts/{name}/keys",
        "Make a key, which is in this answer and never again; or import one that the customer has.",
        succeeded({"key": ref("NewKey")}),
        (*_CHANGING, KeyInUse),
        _NAMED,
        body="KeyCreate",
        needs_body=False,
        repeats=False,
    ),
    Operation(
        "revoke_key",
        "DELETE",
        "/accounts/{name}/keys/{id}",
        "Let a key open nothing any more, at once.",
        succeeded({}, message={"const": "1 Key revoked"}),
        (*_CHANGING, KeyNotFound),
        (*_NAMED, {"name": "id", "in": "path", "required": True, "description": "The key's id.", "schema": KEY_ID}),
    ),
    Operation(
        "list_audit",
        "GET",
        "/audit",
        "Who changed what or had what done, and when, the newest first; with the operator's key.",
        succeeded(
            {
                "entries": {"type": "array", "items": ref("AuditEntry"), "maxItems": LIMIT},
                "next_cursor": {"type": ["integer", "null"], "description": "The cursor of the page after this one."},
                "latest": {**_COUNT, "description": "What to send as after, to be told what comes from here on."},
            }
        ),
        (TooManyGuesses,),
        (
            _filter("account", "Only those about the account with this name.", type="string"),
            _filter("action", "Only those that did this.", enum=[*Action]),
            _filter(
                "object",
                "Only those about the destination, collection, key, leftover or notification with this id.",
                type="string",
            ),
            _filter("from", "Only those of this time or later.", type="string", format="date-time"),
            _filter("to", "Only those before this time.", type="string", format="date-time"),
            _filter(
                "limit",
                f"How many at most; {DEFAULT_LIMIT} where it is left out.",
                type="integer",
                minimum=1,
                maximum=LIMIT,
            ),
            _filter("cursor", "The next_cursor of the page before.", type="integer", minimum=0),
            _filter(
                "after",
                "The latest of an answer: those that came since, the oldest first.",
                type="integer",
                minimum=0,
            ),
        ),
    ),
)

_OF_LEFTOVER = (
    {**_OF_ID[0], "description": "The leftover's id.", "schema": {"type": "string", "pattern": "^[0-9A-Za-z-]{1,36}$"}},
)
NOTIFICATION_ID = {"type": "string", "pattern": "^msg_[0-9a-f]{32}$"}
_OF_NOTIFICATION = ({**_OF_ID[0], "description": "The notification's id.", "schema": NOTIFICATION_ID},)
_RETRIED = succeeded(
    {"retried": {**_COUNT, "description": "How many events are told again."}}, message={"type": "string"}
)

OPERATIONS = (
    _CREATE,
    Operation(
        "list_destinations",
        "GET",
        "/destinations",
        "List the destinations of the account; the operator sees those of all accounts.",
        _PAGE,
        (AccountNotFound,),
        (*_LISTING, _ACCOUNT),
    ),
    Operation(
        "get_destination",
        "GET",
        "/destinations/{id}",
        "One destination; of any account for the operator.",
        _ONE,
        (DestinationNotFound,),
        _OF_ID,
    ),
    Operation(
        "update_destination",
        "PUT",
        "/destinations/{id}",
        "Change what is sent; verified first where that enables it or changes where or how files go.",
        _ONE,
        (*_VERIFYING, DestinationNotFound, DestinationChanged, OutcomeUnknown),
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
        (DestinationNotFound, DestinationInUse, OutcomeUnknown),
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
        (*_HELD, DestinationNotFound, DestinationChanged, CredentialsUnreadable, OutcomeUnknown, TooManyGuesses),
        (*_OF_ID, _ACCOUNT),
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
            *(
                {**_query(name, f"As in a create with type={', '.join(kinds)}.", type="string"), **_SHOWN.get(name, {})}
                for name, kinds in _PUBLIC
            ),
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
        (TooManyGuesses,),
        parameters=_JOBS,
    ),
    Operation(
        "get_job",
        "GET",
        "/jobs/{id}",
        "One job, with its timeline and its report.",
        succeeded({"job": ref("JobRecord")}),
        (JobNotFound, TooManyGuesses),
        ({**_OF_ID[0], "description": "The job's id.", "schema": {"type": "string"}},),
    ),
    Operation(
        "follow_jobs",
        "GET",
        "/jobs/stream",
        "Jobs as they change, without an end, as server-sent events: `job`, and `gap` where some are kept no more.",
        {"type": "string"},
        (TooManyStreams, TooManyGuesses),
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
    *_DELIVERING,
    *_ACCOUNTS,
    Operation(
        "list_leftovers",
        "GET",
        "/leftovers",
        "Test files that may have been left behind, oldest first; the operator sees those of all accounts.",
        succeeded(
            {
                **_COUNTS,
                "leftovers": {"type": "array", "items": ref("Leftover"), "maxItems": LEFTOVERS_PAGE_SIZE},
            }
        ),
        (TooManyGuesses,),
        parameters=(
            _ACCOUNT,
            _filter("page", f"From 1, {LEFTOVERS_PAGE_SIZE} a page.", type="integer", minimum=1),
            _filter("state", "Only those in this state.", enum=[*LeftoverState]),
        ),
    ),
    Operation(
        "retry_leftover",
        "POST",
        "/leftovers/{id}/retry",
        "Have the delete of a test file tried again, for 24 hours from now on; with the operator's key.",
        succeeded({}, message={"type": "string"}),
        (LeftoverNotFound, OutcomeUnknown, TooManyGuesses),
        _OF_LEFTOVER,
        body="Nothing",
        needs_body=False,
        repeats=False,
        statuses=(202,),
    ),
    Operation(
        "forget_leftover",
        "DELETE",
        "/leftovers/{id}",
        "Take a test file off the record: it is gone, or nobody wants to know of it; with the operator's key.",
        succeeded({}, message={"const": "1 Leftover forgotten"}),
        (LeftoverNotFound, OutcomeUnknown, TooManyGuesses),
        _OF_LEFTOVER,
    ),
    Operation(
        "list_notifications",
        "GET",
        "/notifications",
        "The events that the platform was not told of, the oldest first: those that wait and those that were given up; "
        "with the operator's key, as all calls on notifications.",
        succeeded(
            {
                "notifications": {"type": "array", "items": ref("Notification"), "maxItems": LIMIT},
                "next_cursor": {"type": ["integer", "null"], "description": "The cursor of the page after this one."},
            }
        ),
        (TooManyGuesses,),
        parameters=(
            _filter("state", "Only those in this state.", enum=[*NotificationState]),
            _filter("limit", "How many at most; 50 where it is left out.", type="integer", minimum=1, maximum=LIMIT),
            _filter("cursor", "The next_cursor of the page before.", type="integer", minimum=0),
        ),
    ),
    Operation(
        "retry_notifications",
        "POST",
        "/notifications/retry",
        "Have the platform told again of all events that were given up, for three days from now on.",
        _RETRIED,
        (OutcomeUnknown, TooManyGuesses),
        body="Nothing",
        needs_body=False,
        repeats=False,
        statuses=(202,),
    ),
    Operation(
        "retry_notification",
        "POST",
        "/notifications/{id}/retry",
        "Have the platform told again of one event that was given up.",
        _RETRIED,
        (NotificationNotFound, OutcomeUnknown, TooManyGuesses),
        _OF_NOTIFICATION,
        body="Nothing",
        needs_body=False,
        repeats=False,
        statuses=(202,),
    ),
    Operation(
        "forget_notification",
        "DELETE",
        "/notifications/{id}",
        "Take an event off the record, whether it waits or was given up, so that those behind it are told.",
        succeeded({}, message={"const": "1 Notification forgotten"}),
        (NotificationNotFound, OutcomeUnknown, TooManyGuesses),
        _OF_NOTIFICATION,
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
        (TooManyGuesses,),
        content_type="text/plain",
    ),
)
