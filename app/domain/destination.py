"""A destination, what a caller may say about one, and what counts as a change that must be verified."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from app.domain.deletes import DeletePolicy
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import Fault, Role
from app.domain.listing import parse_page, unknown_parameters
from app.domain.types import explain, merged, parse
from app.domain.types.base import Name, Spec, refuse
from app.domain.verification import UNKNOWN_LOCATION, Location

T = TypeVar("T")

PAGE_SIZE = 10
NAME_LIMIT = 255
_ID = re.compile("[0-9A-F]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BOOLEANS: dict[object, bool] = {1: True, 0: False, "true": True, "1": True, "false": False, "0": False}
READ_ONLY = ("id", "used_by", "created_at", "updated_at", "verified_at", "failing_since", "failing", "verification")
"""What an answer has beside the parameters."""


def is_destination_id(text: object) -> bool:
    """Whether `text` has the form of a destination's id."""
    return isinstance(text, str) and bool(_ID.fullmatch(text))


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, as in 2026-01-31T12:00:00.123456Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Destination:
    """One registered destination as it may be shown; its credentials are not part of it.

    `parameters` holds the type's non-secret parameters under their own names; `version` counts changes; `verification`
    is the last report as it is answered.
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
    verification: Mapping[str, Any] | None = None
    used_by: int = 0
    """How many collections use it."""
    failing_since: datetime | None = None
    """When a delivery, or a check, first failed in a way that its customer must mend."""
    failing: Mapping[str, Any] | None = None
    """The `code` and the `message` of that."""

    def as_answer(self) -> dict[str, Any]:
        """The destination as a client sees it; it has no credentials."""
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "enabled": self.enabled,
            "used_by": self.used_by,
            **self.parameters,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.updated_at),
            "verified_at": timestamp(self.verified_at) if self.verified_at else None,
            "failing_since": timestamp(self.failing_since) if self.failing_since else None,
            "failing": self.failing if self.failing_since else None,
            "verification": self.verification,
        }

    def known_location(self, spec: Spec) -> Location:
        """What its last verification found out, as far as it holds for `spec`: nothing if that is another bucket."""
        if not self.verification or spec.type != self.type:
            return UNKNOWN_LOCATION
        decisive = {spec.parameter(role) for role in (Role.BUCKET, Role.ENDPOINT, Role.REGION)}
        given = spec.public()
        if any(self.parameters.get(name) != given.get(name) for name in decisive if name):
            return UNKNOWN_LOCATION
        return Location.told_by(self.verification)


@dataclass(frozen=True)
class Draft:
    """What a create asks for, parsed: nothing in it needs checking again."""

    name: str
    enabled: bool
    spec: Spec


@dataclass(frozen=True)
class Change:
    """What an update asks for, parsed.

    `spec` is None if the parameters of the type stay as they are and need no verification; `verify` says that the
    outcome must be verified before it is stored.
    """

    name: str
    enabled: bool
    spec: Spec | None
    verify: bool


@dataclass(frozen=True)
class Standing:
    """What an account has and may: how many destinations there are `used`, what it is called, and what it has of its
    own, each None where it is as the settings say: the `delete` policy, how many `destinations` it may have, and how
    many `verifications` at once."""

    used: int
    delete: DeletePolicy | None
    account_name: str
    destinations: int | None = None
    verifications: int | None = None


class SortBy(StrEnum):
    CREATED = "created_at"
    NAME = "name"
    TYPE = "type"


@dataclass(frozen=True)
class Query:
    """Which page of an account's destinations is asked for; by default the oldest come first."""

    search_term: str = ""
    page: int = 1
    sort_by: SortBy = SortBy.CREATED
    descending: bool = False
    failing: bool | None = None
    """Only those that fail, or only those that do not."""


@dataclass(frozen=True)
class Page:
    """One page of a listing; `matching` counts all destinations that match, `used` all that the account has, of which
    it may have `limit`."""

    destinations: tuple[Destination, ...]
    matching: int
    used: int
    limit: int | None = None


def boolean(value: object) -> bool:
    """What `value` says, in one of the spellings that forms and JSON have. Raises ValueError."""
    # Many clients write True and False in forms.
    key = value.lower() if isinstance(value, str) else value
    if not isinstance(key, str | int | float) or key not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[key]


def _boolean(value: object) -> object:
    try:
        return boolean(value)
    except ValueError:
        refuse("must be true or false")


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a destination or a collection."""
    return 0 < len(text) <= NAME_LIMIT and not _CONTROL.search(text)


def _name(value: str) -> str:
    if not is_name(value):
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
        WithJsonSchema(
            {
                "type": ["boolean", "string", "integer"],
                "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[01])$",
                "minimum": 0,
                "maximum": 1,
            }
        ),
        Field(description="Whether files go to it; an enabled one is verified first.", examples=[True]),
    ]


def parse_create(body: Mapping[str, Any], *, allow_http: bool) -> Draft:
    """What `body` asks to create. Raises InvalidParameters with every fault of the body at once."""
    faults: list[ParameterFault] = []
    named = _collected(lambda: _named(body), faults)
    spec = _collected(lambda: parse(_of_the_type(body), allow_http=allow_http), faults)
    if named is None or spec is None:
        raise InvalidParameters(faults)
    return Draft(name=named.name, enabled=named.enabled, spec=spec)


def parse_update(
    current: Destination, secrets: Mapping[str, str], body: Mapping[str, Any], *, allow_http: bool
) -> Change:
    """What `body` asks to change in `current`, whose credentials are `secrets`. Raises InvalidParameters.

    A parameter that is not sent stays as it is; null or an empty text removes an optional one. Sending the value that
    a parameter has already is no change, and what an answer has beside the parameters may come back as it was. A body
    that only renames or disables is accepted even if the stored parameters would no longer pass the rules, or their
    credentials cannot be read.
    """
    faults = _changed(current, body)
    body = {name: value for name, value in body.items() if name not in READ_ONLY}
    stored = {"type": current.type, **current.parameters, **secrets}
    named = _collected(lambda: _named({"name": current.name, "enabled": current.enabled, **body}), faults)
    enabling = named is not None and named.enabled and not current.enabled
    spec = None
    if _of_the_type(body) or enabling:
        spec = _collected(lambda: parse(merged(stored, _of_the_type(body)), allow_http=allow_http), faults)
    if named is None or faults:
        raise InvalidParameters(faults)
    if spec and spec.with_credentials() == stored:
        return Change(named.name, named.enabled, spec=spec if enabling else None, verify=enabling)
    return Change(named.name, named.enabled, spec=spec, verify=spec is not None)


def _changed(current: Destination, body: Mapping[str, Any]) -> list[ParameterFault]:
    """A fault for each value of `body` that only we set and that is not the one of `current`; a form has it as text."""
    answer = current.as_answer()
    return [
        ParameterFault(name, "unknown_parameter", f"{name} cannot be set: leave it out, or send it as it is.")
        for name in READ_ONLY
        if body.get(name) not in (None, "", answer[name], str(answer[name]))
    ]


def _collected(call: Callable[[], T], faults: list[ParameterFault]) -> T | None:
    """What `call` returns; None if it raises InvalidParameters, whose faults are added to `faults`."""
    try:
        return call()
    except InvalidParameters as error:
        faults += error.faults
        return None


def _of_the_type(body: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `body` that are the type's own, and `type` itself."""
    return {name: value for name, value in body.items() if name not in Named.model_fields}


def _named(body: Mapping[str, Any]) -> Named:
    try:
        return Named.model_validate({n: body[n] for n in Named.model_fields if body.get(n) not in (None, "")})
    except ValidationError as error:
        raise InvalidParameters([explain(each) for each in error.errors(include_url=False)]) from None


def parse_listing(parameters: Mapping[str, str]) -> Query:
    """The page that the `parameters` of a query string ask for. Raises InvalidParameters for anything else."""
    known = ("search_term", "page", "sort_by", "sort_direction", "failing")
    faults = unknown_parameters(parameters, known, "the list")
    # A form with a field for each sends those that nobody filled in too.
    parameters = {name: value for name, value in parameters.items() if value}
    page = parse_page(parameters.get("page", "1"), faults)
    sort_by = parameters.get("sort_by")
    if sort_by not in (None, SortBy.NAME, SortBy.TYPE):
        faults.append(ParameterFault("sort_by", Fault.INVALID_PARAMETER, "sort_by must be name or type."))
    direction = parameters.get("sort_direction", "ascending")
    if direction not in ("ascending", "descending"):
        message = "sort_direction must be ascending or descending."
        faults.append(ParameterFault("sort_direction", Fault.INVALID_PARAMETER, message))
    failing = None
    if "failing" in parameters:
        try:
            failing = boolean(parameters["failing"])
        except ValueError:
            faults.append(ParameterFault("failing", Fault.INVALID_PARAMETER, "failing must be true or false."))
    if faults:
        raise InvalidParameters(faults)
    return Query(
        failing=failing,
        search_term=parameters.get("search_term", ""),
        page=page,
        sort_by=SortBy(sort_by or SortBy.CREATED),
        descending=direction == "descending",
    )
