"""A destination, what a caller may say about one, and what counts as a change that must be verified."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from app.domain.errors import Fault, InvalidParameters, ParameterFault, Role
from app.domain.specs import explain, merged, parse, printable
from app.domain.specs.base import Name, Spec, refuse
from app.domain.verification import NOTHING_FOUND, Found, Report

T = TypeVar("T")

PAGE_SIZE = 10
NAME_LIMIT = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BOOLEANS = {True: True, False: False, "true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Destination:
    """One registered destination as it may be shown; its credentials are not part of it.

    `parameters` holds the type's non-secret parameters under their own names; `version` counts changes.
    """

    id: str
    account: int
    name: str
    type: str
    enabled: bool
    parameters: Mapping[str, str]
    version: int
    created_at: datetime
    updated_at: datetime
    verified_at: datetime | None = None
    verification: Report | None = None

    def found_of(self, spec: Spec) -> Found:
        """What its last verification found out, if `spec` is still about the same place; else nothing."""
        where = [spec.parameter(role) for role in (Role.BUCKET, Role.ENDPOINT, Role.REGION)]
        same = all(self.parameters.get(name) == spec.public().get(name) for name in where if name)
        return self.verification.found if self.verification and spec.type == self.type and same else NOTHING_FOUND


@dataclass(frozen=True)
class Draft:
    """What a create asks for, parsed: nothing in it needs checking again."""

    name: str
    enabled: bool
    spec: Spec


@dataclass(frozen=True)
class Change:
    """What an update asks for, parsed. `spec` is None where it stays as it is; `verify` says that the outcome must be
    proven first."""

    name: str
    enabled: bool
    spec: Spec | None
    verify: bool


class SortBy(StrEnum):
    CREATED = "created_at"
    NAME = "name"
    TYPE = "type"


@dataclass(frozen=True)
class Query:
    """Which page of an account's destinations is asked for; oldest first unless said otherwise."""

    search_term: str = ""
    page: int = 1
    sort_by: SortBy = SortBy.CREATED
    descending: bool = False


@dataclass(frozen=True)
class Page:
    """One page of a listing: `matching` counts all that match, `used` all that the account has."""

    destinations: tuple[Destination, ...]
    matching: int
    used: int


def _boolean(value: object) -> object:
    # An int is hashed like the boolean it equals, so its type is looked at first.
    if not isinstance(value, bool | str) or value not in _BOOLEANS:
        refuse("must be true or false")
    return _BOOLEANS[value]


def _name(value: str) -> str:
    if not value or len(value) > NAME_LIMIT or _CONTROL.search(value):
        refuse(f"must be 1 to {NAME_LIMIT} characters without line breaks or control characters")
    return value


class Named(BaseModel):
    """The two parameters that every type shares."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    name: Annotated[
        Name,
        AfterValidator(_name),
        Field(
            description="What people call it.",
            examples=["results"],
            json_schema_extra={"minLength": 1, "maxLength": NAME_LIMIT},
        ),
    ]
    enabled: Annotated[
        bool,
        BeforeValidator(_boolean),
        WithJsonSchema({"enum": list(_BOOLEANS)}),
        Field(description="Whether files go to it; an enabled one is verified first.", examples=[True]),
    ]


def draft(body: Mapping[str, Any], *, allow_http: bool) -> Draft:
    """What `body` asks to create. Raises InvalidParameters with every fault of the whole body at once."""
    faults: list[ParameterFault] = []
    named = _collected(lambda: _named(body), faults)
    spec = _collected(lambda: parse(_of_the_type(body), allow_http=allow_http), faults)
    if named is None or spec is None:
        raise InvalidParameters(faults)
    return Draft(name=named.name, enabled=named.enabled, spec=spec)


def change(current: Destination, secrets: Mapping[str, str], body: Mapping[str, Any], *, allow_http: bool) -> Change:
    """What `body` asks to change in `current`, whose credentials are `secrets`. Raises InvalidParameters.

    A parameter that is not sent stays; null and the empty text remove an optional one. Decided by values: what is
    sent as it is already changes nothing. Renaming and disabling do not look at the other parameters, so that both
    are possible whatever has become of them.
    """
    faults: list[ParameterFault] = []
    named = _collected(lambda: _named({"name": current.name, "enabled": current.enabled, **body}), faults)
    enabling = named is not None and named.enabled and not current.enabled
    spec = None
    if _of_the_type(body) or enabling:
        whole = {"type": current.type, **current.parameters, **secrets}
        spec = _collected(lambda: parse(merged(whole, _of_the_type(body)), allow_http=allow_http), faults)
    if named is None or faults:
        raise InvalidParameters(faults)
    if spec and spec.whole() == {"type": current.type, **current.parameters, **secrets}:
        return Change(named.name, named.enabled, spec=spec if enabling else None, verify=enabling)
    return Change(named.name, named.enabled, spec=spec, verify=spec is not None)


def _collected(call: Callable[[], T], faults: list[ParameterFault]) -> T | None:
    """What `call` returns; None where it finds faults, which join `faults`."""
    try:
        return call()
    except InvalidParameters as error:
        faults += error.faults
        return None


def _of_the_type(body: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `body` that every type has its own of, and `type` itself."""
    return {name: value for name, value in body.items() if name not in Named.model_fields}


def _named(body: Mapping[str, Any]) -> Named:
    try:
        return Named.model_validate({n: body[n] for n in Named.model_fields if body.get(n) not in (None, "")})
    except ValidationError as error:
        raise InvalidParameters([_named_fault(explain("", each)) for each in error.errors(include_url=False)]) from None


def _named_fault(fault: ParameterFault) -> ParameterFault:
    if fault.code == "missing_parameter":
        return ParameterFault(fault.parameter, fault.code, f"{fault.parameter} is required.")
    return fault


def query(parameters: Mapping[str, str]) -> Query:
    """The listing that the query string `parameters` ask for. Raises InvalidParameters for anything else."""
    faults = [
        ParameterFault(printable(name), "unknown_parameter", f"{printable(name)} is not a parameter of the list.")
        for name in parameters
        if name not in ("search_term", "page", "sort_by", "sort_direction")
    ]
    page = parameters.get("page", "1")
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", page, re.ASCII):
        faults.append(ParameterFault("page", Fault.INVALID_PARAMETER, "page must be a whole number from 1."))
    sort_by = parameters.get("sort_by")
    if sort_by not in (None, SortBy.NAME, SortBy.TYPE):
        faults.append(ParameterFault("sort_by", Fault.INVALID_PARAMETER, "sort_by must be name or type."))
    direction = parameters.get("sort_direction", "ascending")
    if direction not in ("ascending", "descending"):
        message = "sort_direction must be ascending or descending."
        faults.append(ParameterFault("sort_direction", Fault.INVALID_PARAMETER, message))
    if faults:
        raise InvalidParameters(faults)
    return Query(
        search_term=parameters.get("search_term", ""),
        page=int(page),
        sort_by=SortBy(sort_by or SortBy.CREATED),
        descending=direction == "descending",
    )
