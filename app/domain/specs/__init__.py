"""The closed union of types, and the one way in which a customer's parameters become a spec."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import ErrorDetails

from app.domain.errors import ADVICE, Fault, InvalidParameters, ParameterFault, Role
from app.domain.specs.azure import AzureSpec
from app.domain.specs.base import Spec
from app.domain.specs.gcs import GcsSpec
from app.domain.specs.oss import OssSpec
from app.domain.specs.s3 import S3Spec
from app.domain.specs.s3compatible import S3CompatibleSpec

SPECS: dict[str, type[Spec]] = {
    "s3": S3Spec,
    "s3compatible": S3CompatibleSpec,
    "gcs": GcsSpec,
    "azure": AzureSpec,
    "oss": OssSpec,
}
TYPES = tuple(SPECS)

_KNOWN = frozenset().union(*(spec.parameters() for spec in SPECS.values()))


def _place(spec: type[Spec]) -> type[BaseModel]:
    public: dict[str, Any] = {
        name: (spec.model_fields[name].rebuild_annotation(), ... if name == spec.roles[Role.BUCKET] else None)
        for name in spec.parameters() - spec.credentials()
    }
    return create_model("Place", __config__=spec.model_config, **public)


# By type, its parameters without the credentials, by the same rules; only the bucket must be there.
_PLACES = {kind: _place(spec) for kind, spec in SPECS.items()}


def parse(parameters: Mapping[str, Any], *, allow_http: bool) -> Spec:
    """The spec that `parameters` (with their `type`) describe.

    Raises InvalidParameters with every fault at once; no message repeats a value.
    """
    kind = _kind(parameters)
    spec = SPECS[kind]
    # null is how a JSON client says "not given"; an empty optional field is how a form says it.
    given = {n: v for n, v in parameters.items() if v is not None and (v != "" or _required(spec, n))}
    try:
        return spec.model_validate(given, context={"allow_http": allow_http})
    except ValidationError as error:
        raise InvalidParameters([explain(kind, details) for details in error.errors(include_url=False)]) from None


def place(parameters: Mapping[str, Any], *, allow_http: bool) -> dict[str, str]:
    """Where `parameters` (with their `type`, without credentials) say that files go; only the bucket must be named.

    Raises InvalidParameters as `parse` does; a credential among them is refused by its name.
    """
    kind = _kind(parameters)
    model = _PLACES[kind]
    taken = sorted(model.model_fields)
    rule = f"does not belong here: with type={kind} there are {', '.join(taken)}, and no credentials"
    others = [printable(name) for name in parameters if name not in (*taken, "type")]
    faults = [ParameterFault(name, "unknown_parameter", f"{name} {rule}.") for name in others]
    given = {name: parameters[name] for name in taken if parameters.get(name)}
    try:
        found = model.model_validate(given, context={"allow_http": allow_http})
    except ValidationError as error:
        faults += [explain(kind, details) for details in error.errors(include_url=False)]
    if faults:
        raise InvalidParameters(faults)
    return {"type": kind, **found.model_dump(exclude_none=True)}


def merged(current: Mapping[str, str], sent: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that an update asks for: those of `current`, replaced by those that are `sent`.

    With another type, what that type knows too is kept; a parameter that is sent displaces those which cannot stand
    beside it.
    """
    kind = sent.get("type", current["type"])
    spec = SPECS.get(kind) if isinstance(kind, str) else None
    kept = {name: value for name, value in current.items() if name != "type"}
    if spec:
        displaced = {name for each, value in sent.items() if value for name in spec.displaces.get(each, ())}
        known = spec.parameters() if kind != current["type"] else kept.keys()
        kept = {name: value for name, value in kept.items() if name in known and name not in displaced}
    return {"type": kind, **kept, **{name: value for name, value in sent.items() if name != "type"}}


def _required(spec: type[Spec], name: str) -> bool:
    return name not in spec.model_fields or spec.model_fields[name].is_required()


def _kind(parameters: Mapping[str, Any]) -> str:
    kind = parameters.get("type")
    if isinstance(kind, str) and kind in SPECS:
        return kind
    if kind in (None, ""):
        fault = ParameterFault("type", "missing_parameter", f"type is required: one of {', '.join(TYPES)}.")
    else:
        fault = ParameterFault("type", Fault.INVALID_PARAMETER, f"type must be one of {', '.join(TYPES)}.")
    raise InvalidParameters([fault])


def explain(kind: str, details: ErrorDetails) -> ParameterFault:
    """One validation error in the customer's words: which parameter, which rule."""
    name = str(details["loc"][0]) if details["loc"] else ""
    match details["type"]:
        case "missing":
            return ParameterFault(name, "missing_parameter", f"{name} is required when type={kind}.")
        case "extra_forbidden" if name in _KNOWN:
            message = f"{name} does not belong to type={kind}: leave it out, or correct type."
            return ParameterFault(name, "unknown_parameter", message)
        case "extra_forbidden":
            message = f"{printable(name)} is not a parameter of a destination: check its spelling."
            return ParameterFault(printable(name), "unknown_parameter", message)
        case "string_type":
            return ParameterFault(name, Fault.INVALID_PARAMETER, f"{name} must be a string.")
    if not name:  # a rule about several parameters: its own sentence names them
        rule = str(details["ctx"]["rule"])
        return ParameterFault(rule.split()[0], details["type"], f"{rule}.")
    advice = next((ADVICE[fault] for fault in Fault if fault == details["type"]), ADVICE[Fault.INVALID_PARAMETER])
    return ParameterFault(name, details["type"], advice.of(kind).format(parameter=name, detail=details["msg"]))


def printable(name: str) -> str:
    """A parameter's name as it may be shown: printable ASCII, 1 to 64 characters."""
    return "".join(c if " " <= c <= "~" else "?" for c in name)[:64] or "(no name)"
