"""What every type's parameters have in common: how credentials, names and prefixes are read and kept apart."""

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NoReturn, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.domain import prefix as prefixes
from app.domain.errors import Fault, Role

CREDENTIAL_LIMIT = 1024
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")


def refuse(rule: str, code: str = Fault.INVALID_PARAMETER) -> NoReturn:
    """Fail the field under validation: `rule` continues the sentence that begins with the parameter's name, or is
    the detail of the advice for another fault."""
    # The rule is handed over as a value, since braces in a template would be read as placeholders.
    raise PydanticCustomError(code, "{rule}", {"rule": rule})


def _trimmed(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _credential(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        refuse("must not be empty")
    if len(text) > CREDENTIAL_LIMIT:
        refuse(f"must not be longer than {CREDENTIAL_LIMIT} characters")
    if _NOT_PRINTABLE.search(text):
        refuse("must not contain spaces, line breaks or other characters that no key has: copy it again")
    return value


def matching(pattern: str, rule: str) -> Callable[[SecretStr], SecretStr]:
    """A validator for a credential that must match `pattern` whole."""

    def check(value: SecretStr) -> SecretStr:
        if not re.fullmatch(pattern, value.get_secret_value()):
            refuse(rule)
        return value

    return check


def _prefix(value: str) -> str:
    if rule := prefixes.why_refused(value):
        refuse(rule)
    return value


Credential = Annotated[SecretStr, BeforeValidator(_trimmed), AfterValidator(_credential)]
PathPrefix = Annotated[
    str,
    AfterValidator(_prefix),
    Field(
        description=f"The folder that files go to; may contain {', '.join(f'%{token}%' for token in prefixes.TOKENS)}.",
        examples=["dropoff/%DATE%/"],
    ),
]
Name = Annotated[str, BeforeValidator(_trimmed)]


class Spec(BaseModel):
    """Where files go and with which credentials, for one type; field names are the parameters' own.

    Every `SecretStr` field is a credential: sealed at rest, absent from answers. Each field's description and example,
    and the class's docstring, are what the API's documentation says of it; the examples together make a whole body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    provider: ClassVar[str]
    noun: ClassVar[str] = "bucket"
    """What the provider calls a bucket."""
    roles: ClassVar[dict[Role, str]]
    displaces: ClassVar[dict[str, tuple[str, ...]]] = {}
    """By parameter, those that an update lets go when it sends this one."""
    type: str

    @classmethod
    def parameters(cls) -> frozenset[str]:
        """The names of all parameters of this type, without `type` itself."""
        return frozenset(cls.model_fields) - {"type"}

    @classmethod
    def credentials(cls) -> frozenset[str]:
        """The names of those parameters that are credentials."""
        return frozenset(name for name, field in cls.model_fields.items() if _is_secret(field.annotation))

    def parameter(self, role: Role | None) -> str | None:
        """The parameter that plays `role` for this type."""
        return self.roles.get(role) if role else None

    def public(self) -> dict[str, str]:
        """What may be shown: every parameter that was given and is no credential."""
        return {name: value for name, value in self._given() if isinstance(value, str)}

    def secrets(self) -> dict[str, str]:
        """The credentials in the clear, to be sealed at once."""
        return {name: value.get_secret_value() for name, value in self._given() if isinstance(value, SecretStr)}

    def _given(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in sorted(self.parameters())]

    def whole(self) -> dict[str, str]:
        """Everything, credentials in the clear: the input from which this spec can be read again."""
        return {"type": self.type, **self.public(), **self.secrets()}

    @property
    def bucket(self) -> str:
        """The bucket or container."""
        return str(getattr(self, self.roles[Role.BUCKET]))

    @property
    def path_prefix(self) -> str:
        return getattr(self, self.roles[Role.PREFIX]) or ""


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


class S3Access(BaseModel):
    """How an S3 dialect is spoken with one destination; `endpoint` and `region` are None where they must be found.
    `assumed` says which of the others are a first guess, which the service may correct."""

    model_config = ConfigDict(frozen=True)

    access_key: SecretStr
    secret_key: SecretStr
    endpoint: str | None
    region: str | None
    addressing: Literal["auto", "path", "virtual"]
    assumed: frozenset[Literal["region", "addressing"]] = frozenset()
