"""The schemas of bodies and answers, made of the models that read and write them."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from app.domain.destination import Named
from app.domain.errors import Fault
from app.domain.job import State
from app.domain.specs import SPECS
from app.domain.specs.base import Spec
from app.domain.verification import Report
from app.web.openapi import examples
from app.web.openapi.operations import ID, Schema, closed, ref

_TEXT = {"type": "string", "minLength": 1}
_TIME = {"type": "string", "format": "date-time"}
_NULL = {"type": "null"}
_OPERATORS = frozenset({"account_name"})


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
        "object": {**_TEXT, "description": "The key of its test file, which may have been left behind."},
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
        "state": {"enum": [*State]},
        "fault": {"enum": [*Fault, None]},
        "attempt": number,
        "worker": text,
        "submitted_at": _TIME,
        "changed_at": _TIME,
    }
    moment = closed({"state": {"enum": [*State]}, "at": _TIME, "attempt": number, "worker": text})
    named = {
        "Create": _by_type("Create"),
        "Update": {"anyOf": [ref(f"{_name(spec)}Update") for spec in SPECS.values()]},
        "Destination": _by_type("Destination"),
        "Nothing": closed({}),
        "Job": closed(job, optional=_OPERATORS),
        "JobRecord": closed(
            {**job, "timeline": {"type": "array", "items": moment}, "report": {"anyOf": [ref("Report"), _NULL]}},
            optional=_OPERATORS,
        ),
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
        "title": spec.provider,
        "properties": {"type": given["properties"]["type"], **named, **given["properties"]},
        "required": [*named, *given["required"]],
        "examples": [examples.body(spec)],
    }
    properties = create["properties"]
    public = spec.model_json_schema(schema_generator=_Absent)["properties"]
    public = {name: schema for name, schema in public.items() if "writeOnly" not in schema}
    destination = closed(
        {
            "id": ID,
            "name": named["name"],
            "enabled": {"type": "boolean"},
            "used_by": {"type": "integer", "minimum": 0, "description": "How many collections use it."},
            **public,
            "created_at": _TIME,
            "updated_at": _TIME,
            "verified_at": {**_TIME, "type": ["string", "null"], "description": "Null where it never was."},
            "verification": {"anyOf": [ref("Report"), {"type": "null"}], "description": "The last report."},
        },
        optional=frozenset(public) - {*given["required"]},
    )
    return {
        f"{_name(spec)}Create": create,
        f"{_name(spec)}Update": {**closed(properties, optional=frozenset(properties)), "title": spec.provider},
        f"{_name(spec)}Destination": {**destination, "title": spec.provider, "examples": [examples.destination(spec)]},
    }


class _Absent(GenerateJsonSchema):
    """What may be None is left out; names and defaults are not told twice."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        return self.generate_inner(schema["schema"])

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        return self.generate_inner(schema["schema"])


class _Nullable(_Absent):
    """What may be None may be sent as null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        inner = super().nullable_schema(schema)
        kinds = inner["type"] if isinstance(inner["type"], list) else [inner["type"]]
        return {**inner, "type": [*kinds, "null"]}
