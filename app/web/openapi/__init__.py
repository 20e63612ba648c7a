"""The OpenAPI document: made of what validates, of what answers and of the table of calls."""

from collections.abc import Iterator
from importlib.metadata import version

from app.domain.errors import (
    InvalidParameters,
    InvalidRequest,
    KeyReused,
    ReadOnlyKey,
    StillUnderWay,
    Unauthorized,
    Unavailable,
)
from app.web.body import FORM, JSON
from app.web.idempotency import HEADER, KEY
from app.web.openapi.examples import Refusal, of_failure, of_http, of_kind
from app.web.openapi.operations import OPERATIONS, Operation, Schema, ref
from app.web.openapi.schemas import schemas
from app.web.openapi.webhooks import schemas as schemas_of_events
from app.web.openapi.webhooks import webhooks

_ABOUT = (
    "Register where result files go. When a destination is created, enabled or pointed elsewhere, a small test file "
    "is uploaded to it and deleted again, and the answer is held until that has succeeded or failed: a destination "
    "that does not work does not come to be.\n\n"
    "Send the key as `Authorization: Bearer KEY`, which keeps it out of logs, or as `api_key` on the query string. A "
    "path that is not there is answered 404, a method that a path does not take 405. A code, once answered, never "
    "changes its meaning."
)


def document() -> Schema:
    """The whole document, OpenAPI 3.1."""
    paths: Schema = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    elsewhere = [of_http(404), of_http(405)]
    refusals = [*elsewhere, *(each for operation in OPERATIONS for each in _refusals(operation))]
    return {
        "openapi": "3.1.1",
        "info": {"title": "Dropoff", "version": version("dropoff"), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"api_key": []}],
        "paths": paths,
        "webhooks": webhooks(),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "query", "name": "api_key"},
            },
            "schemas": {**schemas(), **schemas_of_events()},
            "responses": {each.code: _refused([each]) for each in elsewhere},
            "examples": {each.name: {"value": each.content} for each in refusals},
        },
    }


def _described(operation: Operation) -> Schema:
    described: Schema = {"operationId": operation.id, "summary": operation.summary}
    parameters = [*operation.parameters]
    if operation.body:
        content = {kind: {"schema": ref(operation.body)} for kind in (JSON, FORM)}
        described["requestBody"] = {"required": operation.needs_body, "content": content}
    if operation.body and operation.repeats:
        meaning = "Unique to this request: a repeat within 24 hours is answered what the first one was."
        schema = {"type": "string", "pattern": f"^{KEY.pattern}$"}
        parameters.append({"name": HEADER, "in": "header", "description": meaning, "schema": schema})
    if not operation.needs_key:
        described["security"] = []
    statuses: dict[int, list[Refusal]] = {}
    for each in _refusals(operation):
        statuses.setdefault(each.answer.status, []).append(each)
    return {
        **described,
        "parameters": parameters,
        "responses": {
            **{str(status): _answered(operation.content_type, operation.success) for status in operation.statuses},
            **{str(status): _refused(refusals) for status, refusals in sorted(statuses.items())},
            **{str(status): _answered(JSON, *other) for status, other in operation.others.items()},
        },
    }


def _answered(content_type: str, schema: Schema, example: Schema | None = None) -> Schema:
    # The head of a stream is sent before there is anything to say about the request.
    headers = {} if content_type == "text/event-stream" else {"headers": _headers()}
    shown = {"example": example} if example else {}
    return {"description": "An answer.", **headers, "content": {content_type: {"schema": schema, **shown}}}


def _refused(refusals: list[Refusal]) -> Schema:
    """The answer of one status, with an example of each of its codes."""
    codes = {each.code: each for each in refusals}
    named = [set(each.answer.headers) & {"Retry-After", "WWW-Authenticate"} for each in refusals]
    always = set.intersection(*named)
    narrowed = {"properties": {"error": {"properties": {"code": {"enum": list(codes)}}}}}
    examples = {code: {"$ref": f"#/components/examples/{each.name}"} for code, each in codes.items()}
    return {
        "description": " ".join(dict.fromkeys(each.why for each in refusals)),
        "headers": _headers(**{name: name in always for name in sorted(set.union(*named))}),
        "content": {JSON: {"schema": {"allOf": [ref("Refused"), narrowed]}, "examples": examples}},
    }


def _headers(**others: bool) -> Schema:
    """The id that every answer has, and `others` by whether they are always there."""
    return {n: {"required": r, "schema": {"type": "string"}} for n, r in {"X-Request-Id": True, **others}.items()}


def _refusals(operation: Operation) -> Iterator[Refusal]:
    """Every way in which the call can end without success."""
    kinds = [*operation.refusals]
    if operation.needs_key:
        kinds += [InvalidParameters, InvalidRequest, Unauthorized, Unavailable]
        kinds += [ReadOnlyKey] if operation.method != "GET" else []
    if operation.body:
        kinds += [KeyReused, StillUnderWay] if operation.repeats else []
        yield from (of_http(408), of_http(413), of_http(415))
    for kind in kinds:
        yield from of_kind(kind)
    yield of_failure()
