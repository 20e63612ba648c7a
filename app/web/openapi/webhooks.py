"""What the platform is told, in the OpenAPI document: the requests that the service makes, by the event's type."""

from app.domain.delivery import DeliveryState, SourceFault
from app.domain.faults import Fault
from app.domain.notification import EventType
from app.domain.types import SPECS
from app.web.body import JSON
from app.web.openapi.operations import COLLECTION_ID, DELIVERY_ID, ID, REFUSAL, RESULT_SET_ID, Schema, closed, ref

_TIME = {"type": "string", "format": "date-time"}
_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_GONE = {"type": ["string", "null"], "description": "Null where the destination was deleted meanwhile."}
_NULLABLE = {"type": ["string", "null"]}
_MEANINGS = {
    EventType.RESULT_SET_DELIVERED: "Every file of a result set has arrived at every destination that was not skipped.",
    EventType.DELIVERY_FAILED: "A file was given up at a destination.",
    EventType.DESTINATION_FAILING: "A destination began to fail in a way that its customer must mend.",
    EventType.DESTINATION_RECOVERED: "A destination that failed has passed a verification.",
}
_HEADERS = {
    "webhook-id": "The event's id, the same in every attempt.",
    "webhook-timestamp": "When this attempt was made, in seconds since 1970.",
    "webhook-signature": "One or more of `v1,` and an HMAC-SHA256 in base64, with spaces between.",
}


def webhooks() -> Schema:
    """A request for each type of event."""
    return {event: {"post": _request(event)} for event in EventType}


def schemas() -> Schema:
    """The bodies of these requests, by name."""
    return {_name(event): _payload(event, data) for event, data in _data().items()}


def _request(event: EventType) -> Schema:
    return {
        "operationId": _name(event)[0].lower() + _name(event)[1:],
        "summary": _MEANINGS[event],
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": meaning, "schema": _TEXT}
            for name, meaning in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {JSON: {"schema": ref(_name(event))}}},
        "responses": {
            "2XX": {"description": "It was taken. Anything else has it sent again, for three days."},
            "410": {"description": "Nothing is sent for an hour."},
        },
    }


def _name(event: EventType) -> str:
    return "".join(word.capitalize() for part in event.split(".") for word in part.split("_")) + "Event"


def _payload(event: EventType, data: Schema) -> Schema:
    return closed({"type": {"const": event}, "timestamp": _TIME, "data": closed(data)})


def _data() -> dict[EventType, Schema]:
    account: Schema = {"account": {"type": "integer"}, "account_name": _TEXT}
    of_set: Schema = {"collection_id": COLLECTION_ID, "collection_name": _TEXT, "result_set_id": RESULT_SET_ID}
    destination: Schema = {**account, "destination": ID, "destination_name": _TEXT, "type": {"enum": [*SPECS]}}
    well = {"enum": [DeliveryState.OK, DeliveryState.SKIPPED]}
    reached = closed({"id": ID, "name": _GONE, "status": well})
    sizes: Schema = {"name": _TEXT, "bytes": _COUNT, "key": _NULLABLE, "attempts": _COUNT}
    return {
        EventType.RESULT_SET_DELIVERED: {
            **account, **of_set, "started_at": _TIME, "ended_at": _TIME, "file_count": _COUNT,
            "destinations": {"type": "array", "items": reached},
        },
        EventType.DELIVERY_FAILED: {
            "id": DELIVERY_ID, **account, "destination": ID, "destination_name": _GONE, **of_set, **sizes,
            "fault": {"enum": [*Fault, *SourceFault]}, "message": _TEXT, "refusal": REFUSAL,
        },
        EventType.DESTINATION_FAILING: {
            **destination, "failing_since": _TIME, "fault": {"enum": [*Fault]}, "message": _TEXT,
        },
        EventType.DESTINATION_RECOVERED: {**destination, "failing_since": _TIME, "redelivered": _COUNT},
    }  # fmt: skip
