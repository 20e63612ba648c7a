"""The schemas of bodies and answers, made of the models that read and write them."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from app.domain.account import LIMITS
from app.domain.audit import Action, AuthorKind
from app.domain.deletes import DeletePolicy
from app.domain.delivery import DeliveryState, SourceFault
from app.domain.destination import NAME_LIMIT, Named
from app.domain.faults import Fault
from app.domain.leftover import LeftoverState
from app.domain.notification import EventType, NotificationState
from app.domain.result_set import CONTENT_TYPE, LARGEST_FILE, MOST_FILES
from app.domain.types import SPECS
from app.domain.types.base import Spec
from app.domain.verification import Report
from app.monitor.job import JobState
from app.web.openapi import examples
from app.web.openapi.operations import (
    COLLECTION_ID,
    DELIVERY_ID,
    ID,
    KEY_ID,
    NOTIFICATION_ID,
    REFUSAL,
    RESULT_SET_ID,
    Schema,
    closed,
    ref,
)

_TEXT = {"type": "string", "minLength": 1}
_TIME = {"type": "string", "format": "date-time"}
_NULL = {"type": "null"}
_OPERATORS = frozenset({"account_name"})
_BY_DEFAULT = "Null where it is as the settings say."


def schemas() -> Schema:
    """All of them, by name."""
    report = Report.model_json_schema(schema_generator=_Absent, ref_template=ref("{model}")["$ref"])
    fault = closed({"parameter": _TEXT, "code": _TEXT, "message": _TEXT})
    error = {
        "code": {**_TEXT, "description": "Its meaning never changes."},
        "parameter": {**_TEXT, "description": "The parameter to look at."},
        "parameters": {"type": "array", "items": fault, "description": "Everything that is wrong with the request."},
        "verification": {**ref("Report"), "description": "What the verification that failed did."},
        "job": {**_TEXT, "description": "The id of the verification that came to no verdict."},
        "object": {
            **_TEXT,
            "description": "The key of its test file, which may have been left behind: see GET /leftovers.",
        },
    }
    text = {"type": ["string", "null"]}
    number = {"type": ["integer", "null"]}
    job = {
        "id": _TEXT,
        "account": {"type": "integer"},
        "account_name": {**text, "description": "For the operator."},
        "destination": {**text, "description": "Null where there is none, or none yet."},
        "type": {"enum": [*SPECS]},
        "host": text,
        "state": {"enum": [*JobState]},
        "fault": {"enum": [*Fault, None]},
        "attempt": number,
        "worker": text,
        "submitted_at": _TIME,
        "changed_at": _TIME,
    }
    leftover = {
        "id": {**_TEXT, "description": "The job that left it."},
        "account": {"type": "integer"},
        "account_name": {**text, "description": "For the operator."},
        "destination": {**text, "description": "What the job was about, which need not exist; null for none."},
        "type": {"enum": [*SPECS]},
        "parameters": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Where it is: those parameters of the type that are no secrets.",
        },
        "object": {**_TEXT, "description": "The file's key."},
        "state": {"enum": [*LeftoverState]},
        "reason": {**text, "description": "Why it was not removed, once that was tried."},
        "message": text,
        "tries": {"type": "integer", "minimum": 0},
        "created_at": _TIME,
        "next_try_at": {**_TIME, "type": ["string", "null"], "description": "Null where there will be none."},
    }
    notification = {
        "id": {**NOTIFICATION_ID, "description": "The webhook-id that it is sent with."},
        "type": {"enum": [*EventType]},
        "state": {"enum": [*NotificationState], "description": "A kept one was given up."},
        "attempts": {"type": "integer", "minimum": 0},
        "reason": {**text, "description": "Why it was not taken, once it was sent."},
        "created_at": {**_TIME, "description": "Since when it is tried."},
        "next_attempt_at": {**_TIME, "type": ["string", "null"], "description": "Null where there will be none."},
        "event": {"type": "object", "description": "What is sent: see the webhooks."},
    }
    moment = closed({"state": {"enum": [*JobState]}, "at": _TIME, "attempt": number, "worker": text})
    named = {
        "Create": _by_type("Create"),
        "Update": {"anyOf": [ref(f"{_name(spec)}Update") for spec in SPECS.values()]},
        "Destination": _by_type("Destination"),
        "Nothing": closed({}),
        "Job": closed(job, optional=_OPERATORS),
        "JobRecord": closed(
            {
                **job,
                "bucket": {**text, "description": "The bucket or container."},
                "timeline": {"type": "array", "items": moment},
                "report": {"anyOf": [ref("Report"), _NULL]},
            },
            optional=_OPERATORS,
        ),
        "Leftover": closed(leftover, optional=_OPERATORS),
        "Notification": closed(notification),
        **_of_deliveries(),
        **_of_accounts(),
        "Refused": closed(
            {"request_info": closed({"success": {"const": False}, "message": _TEXT}), "error": ref("Error")}
        ),
        "Error": closed(error, optional=frozenset(error) - {"code"}),
        **report.pop("$defs"),
        "Report": report,
    }
    for name in ("Report", "StepReport"):
        named[name]["additionalProperties"] = False
    for spec in SPECS.values():
        named |= _of(spec)
    return named


def _of_accounts() -> Schema:
    """What accounts, their keys and the audit log take and look like."""
    text, name = {"type": ["string", "null"]}, {**_TEXT, "maxLength": NAME_LIMIT, "examples": ["acme"]}
    limits = {n: {"minimum": least, "maximum": most, "examples": [40]} for n, (least, most) in LIMITS.items()}
    policy = {"enum": [*DeletePolicy, None], "description": "Null where it is as DROPOFF_DELETE says."}
    shown = {n: {"type": ["integer", "null"], **bounds, "description": _BY_DEFAULT} for n, bounds in limits.items()}
    given = {n: {**each, "type": ["integer", "string", "null"], "pattern": "^[0-9]*$"} for n, each in shown.items()} | {
        "delete_policy": {**policy, "enum": [*DeletePolicy, "", None]}
    }
    key = {"id": KEY_ID, "name": {**text, "description": "What you call it."}, "created_at": _TIME}
    entry = {
        "id": {"type": "integer"},
        "at": _TIME,
        "action": {"enum": [*Action]},
        "account": {"type": "integer"},
        "account_name": {**_TEXT, "description": "As it was called then."},
        "object": {
            **text,
            "description": "The id of the destination, collection, key, leftover or notification; null for the account "
            "itself, and for all of its notifications.",
        },
        "author": {"enum": [*AuthorKind], "description": "`command` is `dropoff` on the database itself."},
        "author_key": {**text, "description": "The id of the account's key that was used."},
        "request": {**text, "description": "The X-Request-Id of the call."},
        "details": {
            "type": "object",
            "description": "What was given or asked for; of a destination's parameters their names; never a secret.",
        },
    }
    number = {"type": "integer", "description": "As in the jobs and leftovers."}
    count = {"type": "integer", "minimum": 0, "description": "How many it has."}
    account = {"account": number, "name": name, "destinations": count, **shown, "delete_policy": policy}
    return {
        "Account": closed({**account, "created_at": _TIME}),
        "AccountCreate": closed({"name": name, **given}, optional=frozenset(given)),
        "AccountChange": closed(given, optional=frozenset(given)),
        "Key": closed(key),
        "NewKey": closed(
            {**key, "key": {**_TEXT, "description": "Not there where it was imported."}}, optional=frozenset({"key"})
        ),
        "KeyCreate": closed(
            {
                "name": {**text, "maxLength": NAME_LIMIT, "description": "What you call it.", "examples": ["importer"]},
                "key": {
                    **text,
                    "description": "One that the customer has, from somewhere else; made where it is left out.",
                },
            },
            optional=frozenset({"name", "key"}),
        ),
        "AuditEntry": closed(entry),
    }


def _of_deliveries() -> Schema:
    """What collections, result sets and deliveries take and look like."""
    name = {**_TEXT, "maxLength": NAME_LIMIT, "description": "What people call it.", "examples": ["Daily prices"]}
    ids = {"type": "array", "items": ID, "description": "The destinations that its result sets go to."}
    times = {"created_at": _TIME, "updated_at": _TIME}
    file = closed(
        {
            "name": {**_TEXT, "description": "The last part of its key."},
            "source": {**_TEXT, "description": "Its path under the operator's source."},
            "bytes": {"type": "integer", "minimum": 0, "maximum": LARGEST_FILE},
            "sha256": {"type": "string", "pattern": "^[0-9A-Fa-f]{64}$"},
            "content_type": {"type": "string", "description": f"{CONTENT_TYPE} where it is left out."},
        },
        optional=frozenset({"content_type"}),
    )
    announced: Schema = {"id": RESULT_SET_ID, "started_at": _TIME, "ended_at": _TIME}
    line = closed({"date_time": _TIME, "text": {"type": "string"}})
    status = closed({"status": {"enum": [*DeliveryState]}, "log": {"type": "array", "items": line}})
    shown = {
        **announced,
        "collection_id": COLLECTION_ID,
        "created_at": _TIME,
        "file_count": {"type": "integer", "minimum": 1},
        "destination_status": {
            "type": "object",
            "additionalProperties": status,
            "description": "By the id of each destination, what became of it there.",
        },
    }
    wanted = {"only_failed": {"enum": [True, False, "true", "false", "1", "0"]}}
    spans = {"from": _TIME, "to": _TIME}
    return {
        "Collection": closed({"id": COLLECTION_ID, "name": name, "destination_ids": ids, **times}),
        "CollectionPut": closed({"name": name, "destination_ids": {"anyOf": [ids, {"type": "string"}]}}),
        "Announcement": closed({**announced, "files": {"type": "array", "items": file, "maxItems": MOST_FILES}}),
        "ResultSet": closed(shown),
        "ResultSetRecord": closed({**shown, "files": {"type": "array", "items": ref("Receipt")}}),
        "ResultSetRedelivery": closed(
            {"destination_ids": ids, **wanted}, optional=frozenset({"destination_ids", *wanted})
        ),
        "DestinationRedelivery": closed({**spans, **wanted}, optional=frozenset({*spans, *wanted})),
        "Receipt": closed(_receipt()),
        "Delivery": closed(
            {
                **_receipt(),
                "account": {"type": "integer"},
                "account_name": {"type": ["string", "null"], "description": "For the operator."},
                "worker": {"type": ["string", "null"], "description": "For the operator."},
            },
            optional=frozenset({"account_name", "worker"}),
        ),
    }


def _receipt() -> Schema:
    """What is told of one file at one destination."""
    text, time = {"type": ["string", "null"]}, {**_TIME, "type": ["string", "null"]}
    count = {"type": "integer", "minimum": 0}
    return {
        "id": DELIVERY_ID,
        "collection_id": COLLECTION_ID,
        "result_set_id": RESULT_SET_ID,
        "destination": ID,
        "name": _TEXT,
        "bytes": count,
        "sha256": {"type": "string"},
        "status": {"enum": [*DeliveryState]},
        "sent": {**count, "description": "How many bytes the store has confirmed."},
        "attempts": count,
        "fault": {"enum": [*Fault, *SourceFault, None]},
        "message": text,
        "refusal": REFUSAL,
        "key": {**text, "description": "Null until the first attempt."},
        "etag": text,
        "version_id": text,
        "request_id": {**text, "description": "The provider's, of the copy that arrived last."},
        **dict.fromkeys(("created_at", "changed_at"), _TIME),
        **dict.fromkeys(("due_at", "began_at", "ended_at"), time),
        "delivered_at": {
            **time,
            "description": "When the last copy arrived, which etag, version_id and request_id are of.",
        },
    }


def _by_type(what: str) -> Schema:
    """One of the schemas of all types; `type` says which."""
    mapping = {kind: ref(f"{_name(spec)}{what}")["$ref"] for kind, spec in SPECS.items()}
    return {
        "oneOf": [{"$ref": each} for each in mapping.values()],
        "discriminator": {"propertyName": "type", "mapping": mapping},
    }


def _name(spec: type[Spec]) -> str:
    return spec.__name__.removesuffix("Spec")


def _of(spec: type[Spec]) -> Schema:
    """What one type's create and update take, and what its destinations look like."""
    named = Named.model_json_schema(schema_generator=_Absent)["properties"]
    given = spec.model_json_schema(schema_generator=_Nullable)
    create = {
        **given,
        "title": spec.display_name,
        "properties": {"type": given["properties"]["type"], **named, **given["properties"]},
        "required": [*named, *given["required"]],
        "examples": [examples.body(spec)],
    }
    properties = create["properties"]
    public = spec.model_json_schema(schema_generator=_Absent)["properties"]
    public = {name: schema for name, schema in public.items() if "writeOnly" not in schema}
    destination = closed(
        {
            "account": {"type": "integer", "description": "For the operator."},
            "account_name": {"type": ["string", "null"], "description": "For the operator."},
            "id": ID,
            "name": named["name"],
            "enabled": {"type": "boolean"},
            "used_by": {"type": "integer", "minimum": 0, "description": "How many collections use it."},
            **public,
            "created_at": _TIME,
            "updated_at": _TIME,
            "verified_at": {**_TIME, "type": ["string", "null"], "description": "Null where it never was."},
            "failing_since": {
                **_TIME,
                "type": ["string", "null"],
                "description": "Since when deliveries fail in a way that you must mend.",
            },
            "failing": {
                "anyOf": [closed({"code": {"enum": [*Fault]}, "message": _TEXT}), {"type": "null"}],
                "description": "Why, of the delivery or the check that began it; null where it does not fail.",
            },
            "verification": {"anyOf": [ref("Report"), {"type": "null"}], "description": "The last report."},
        },
        optional=frozenset({"account", *_OPERATORS, *public}) - {*given["required"]},
    )
    return {
        f"{_name(spec)}Create": create,
        f"{_name(spec)}Update": {**closed(properties, optional=frozenset(properties)), "title": spec.display_name},
        f"{_name(spec)}Destination": {
            **destination,
            "title": spec.display_name,
            "examples": [examples.destination(spec)],
        },
    }


class _Absent(GenerateJsonSchema):
    """Leaves None out of the values, and titles and defaults out of the schema."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        return self.generate_inner(schema["schema"])

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        return self.generate_inner(schema["schema"])


class _Nullable(_Absent):
    """Describes what may be None as what may be null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        inner = super().nullable_schema(schema)
        kinds = inner["type"] if isinstance(inner["type"], list) else [inner["type"]]
        return {**inner, "type": [*kinds, "null"]}
