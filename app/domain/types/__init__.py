"""All types, and the one way in which a customer's parameters become a spec."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import ErrorDetails

from app.domain import prefix
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import ADVICE, Fault, Role
from app.domain.types.azure import AzureSpec
from app.domain.types.base import KeyGuide, Spec
from app.domain.types.gcs import GcsSpec
from app.domain.types.oss import OssSpec
from app.domain.types.s3 import S3Spec
from app.domain.types.s3compatible import S3CompatibleSpec

_ALL: tuple[type[Spec], ...] = (S3Spec, S3CompatibleSpec, GcsSpec, AzureSpec, OssSpec)

SPECS = {spec.type_name(): spec for spec in _ALL}
TYPES = tuple(SPECS)

_KNOWN = frozenset().union(*(spec.parameters() for spec in SPECS.values()))
PREFIXES = frozenset(spec.roles[Role.PREFIX] for spec in SPECS.values())
"""The path prefixes of all types."""
KEYS = frozenset().union(*(spec.credentials() - spec.documents for spec in SPECS.values()))
"""The credentials of all types that are one word: no key and no secret has white space."""


def _without_credentials(spec: type[Spec]) -> type[BaseModel]:
    """A model of the public parameters of `spec`, with the same rules; only the bucket is required."""
    public: dict[str, Any] = {
        name: (spec.model_fields[name].rebuild_annotation(), ... if name == spec.roles[Role.BUCKET] else None)
        for name in spec.parameters() - spec.credentials()
    }
    return create_model("PublicParameters", __config__=spec.model_config, **public)


_PUBLIC = {kind: _without_credentials(spec) for kind, spec in SPECS.items()}


def parse(parameters: Mapping[str, Any], *, allow_http: bool) -> Spec:
    """The spec that `parameters` (with their `type`) describe.

    Raises InvalidParameters with every fault at once; no message repeats a value.
    """
    spec = _spec_for(parameters)
    # A JSON client says "not given" by null, and a form by an empty field, also for the parameters of other types.
    given = {n: v for n, v in parameters.items() if v is not None and (v != "" or _required(spec, n))}
    try:
        return spec.model_validate(given, context={"allow_http": allow_http})
    except ValidationError as error:
        raise InvalidParameters([explain(details, spec) for details in error.errors(include_url=False)]) from None


def restore(parameters: Any) -> Spec:
    """The spec whose `with_credentials()` `parameters` are.

    Only their shape is checked: `parse` has checked the rules, which may be stricter by now. Raises ValueError or
    TypeError.
    """
    given: dict[str, str] = dict(parameters)
    spec = SPECS.get(given.pop("type", ""))
    if spec is None or not all(isinstance(value, str) for value in given.values()):
        raise ValueError("these are not the parameters of a destination")
    required = {name for name in spec.parameters() if spec.model_fields[name].is_required()}
    if not required <= given.keys() <= spec.parameters():
        raise ValueError("these are not the parameters of this type")
    return spec.trusted(given)


def parse_public(parameters: Mapping[str, Any], *, allow_http: bool) -> dict[str, str]:
    """`parameters` (with their `type`, without credentials) in their one spelling; only the bucket is required.

    Raises InvalidParameters as `parse` does; a credential among them is refused by its name.
    """
    spec = _spec_for(parameters)
    model = _PUBLIC[spec.type_name()]
    names = sorted(model.model_fields)
    rule = f"does not belong here: with type={spec.type_name()} there are {', '.join(names)}, and no credentials"
    unfilled = {name for name in _KNOWN if parameters.get(name) == ""}
    others = [printable(name) for name in parameters if name not in (*names, "type", *unfilled)]
    faults = [ParameterFault(name, "unknown_parameter", f"{name} {rule}.") for name in others]
    given = {name: parameters[name] for name in names if parameters.get(name)}
    try:
        parsed = model.model_validate(given, context={"allow_http": allow_http})
    except ValidationError as error:
        faults += [explain(details, spec) for details in error.errors(include_url=False)]
    if faults:
        raise InvalidParameters(faults)
    return {"type": spec.type_name(), **parsed.model_dump(exclude_none=True)}


def key_guide(parameters: Mapping[str, str]) -> KeyGuide:
    """How to make a key for the bucket and prefix among `parameters`, which are as `parse_public` returns them."""
    spec = SPECS[parameters["type"]]
    path_prefix = parameters.get(spec.roles[Role.PREFIX], "")
    return spec.key_guide(parameters[spec.roles[Role.BUCKET]], prefix.fixed(path_prefix), parameters)


def merged(current: Mapping[str, str], sent: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that an update asks for: those of `current`, replaced by those that are `sent`.

    If the type changes, parameters that the new type has too are kept. A parameter that is sent removes those that
    cannot be given beside it.
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
    """Whether an empty text as `name` is not the same as none; what no type knows is refused by its name."""
    return spec.model_fields[name].is_required() if name in spec.model_fields else name not in _KNOWN


def _spec_for(parameters: Mapping[str, Any]) -> type[Spec]:
    """The class for the `type` among `parameters`. Raises InvalidParameters."""
    kind = parameters.get("type")
    if isinstance(kind, str) and kind in SPECS:
        return SPECS[kind]
    if kind in (None, ""):
        fault = ParameterFault("type", "missing_parameter", f"type is required: one of {', '.join(TYPES)}.")
    else:
        fault = ParameterFault("type", Fault.INVALID_PARAMETER, f"type must be one of {', '.join(TYPES)}.")
    raise InvalidParameters([fault])


def explain(details: ErrorDetails, spec: type[Spec] | None = None) -> ParameterFault:
    """One error of pydantic's in the customer's words: which parameter, and which rule it breaks.

    `spec` is the type whose parameter it is; None for a parameter that all types share.
    """
    name = str(details["loc"][0]) if details["loc"] else ""
    match details["type"]:
        case "missing":
            condition = f" when type={spec.type_name()}" if spec else ""
            return ParameterFault(name, "missing_parameter", f"{name} is required{condition}.")
        case "extra_forbidden" if spec and name in _KNOWN:
            message = f"{name} does not belong to type={spec.type_name()}: leave it out, or correct type."
            return ParameterFault(name, "unknown_parameter", message)
        case "extra_forbidden":
            message = f"{printable(name)} is not a parameter of a destination: check its spelling."
            return ParameterFault(printable(name), "unknown_parameter", message)
        case "string_type":
            return ParameterFault(name, Fault.INVALID_PARAMETER, f"{name} must be a string.")
    if not name:
        # A rule about several parameters, whose sentence begins with the name of one.
        rule = str(details["ctx"]["rule"])
        return ParameterFault(rule.split()[0], details["type"], f"{rule}.")
    fault = next((fault for fault in Fault if fault == details["type"]), Fault.INVALID_PARAMETER)
    text = spec.advice_text(fault) if spec else ADVICE[fault].text
    return ParameterFault(name, details["type"], text.format(parameter=name, detail=details["msg"]))


def printable(name: str) -> str:
    """A parameter's name as it may be shown: printable ASCII, 1 to 64 characters."""
    return "".join(c if " " <= c <= "~" else "?" for c in name)[:64] or "(no name)"
