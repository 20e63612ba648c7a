"""What the parameters of all types have in common: how credentials, names and prefixes are checked and kept apart."""

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NoReturn, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError

from app.domain import endpoint
from app.domain import prefix as prefixes
from app.domain.faults import ADVICE, Fault, Role

CREDENTIAL_LIMIT = 1024
# A shorter credential may be in what a host says by chance.
_TELLING = 4
_SCHEME = re.compile(r"(?:s3[an]?|gs|oss|cos|obs|az|wasbs?|abfss?|https?)://", re.I)
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")


def refuse(rule: str, code: str = Fault.INVALID_PARAMETER) -> NoReturn:
    """Fail the validation of a parameter, with `code`.

    For INVALID_PARAMETER, `rule` continues a sentence that begins with the parameter's name; for another fault it is
    the {detail} of that fault's advice.
    """
    # Passed as a value, because pydantic would read braces in a template as placeholders.
    raise PydanticCustomError(code, "{rule}", {"rule": rule})


def _plain(name: str) -> str:
    if scheme := _SCHEME.match(name):
        refuse(f"must be the name alone: without {scheme[0]}, and without a folder, which goes into the path prefix")
    return name


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
    """A validator that refuses a credential with `rule` unless all of it matches `pattern`."""

    def check(value: SecretStr) -> SecretStr:
        if not re.fullmatch(pattern, value.get_secret_value()):
            refuse(rule)
        return value

    return check


def _prefix(value: str) -> str:
    if scheme := _SCHEME.match(value):
        refuse(f"must be a folder inside the bucket: without {scheme[0]}, and without the bucket's name")
    if rule := prefixes.why_refused(value):
        refuse(rule)
    return value


def endpoint_like(example: str) -> AfterValidator:
    """The validator of an endpoint, which is kept in its one spelling; `example` is shown to who gets it wrong."""

    def check(value: str, info: ValidationInfo) -> str:
        allow_http = bool(info.context and info.context.get("allow_http"))
        try:
            return endpoint.parse(value, example=example, allow_http=allow_http)
        except endpoint.NotAnEndpoint as error:
            refuse(str(error))

    return AfterValidator(check)


Credential = Annotated[SecretStr, BeforeValidator(_trimmed), AfterValidator(_credential)]
PathPrefix = Annotated[
    str,
    BeforeValidator(_trimmed),
    AfterValidator(_prefix),
    Field(
        description=f"The folder that files go to; may contain {', '.join(f'%{token}%' for token in prefixes.TOKENS)}.",
        examples=["dropoff/%DATE%/"],
    ),
]
Name = Annotated[str, BeforeValidator(_trimmed)]
PlainName = Annotated[Name, AfterValidator(_plain)]


@dataclass(frozen=True)
class KeyGuide:
    """How to make a key for Dropoff that can do no more than it must.

    `policy` is the document to paste at the provider, None where a provider has nothing that narrows a key; `steps`
    are the instructions, in order.
    """

    policy: dict[str, Any] | None
    steps: tuple[str, ...]


class HostTyped(StrEnum):
    """How much of a host's name that decides where it leads a customer types, and can have mistyped: what else keeps us
    from it is our own network's fault."""

    WHOLE = "whole"
    PART = "part"
    """An account or a region, under a name that is the provider's: a host that exists was not mistyped."""
    NOTHING = "nothing"


class Spec(BaseModel):
    """Where files go and with which credentials, for one type; field names are the parameters' own.

    A type is a subclass in a module of its own, which has all that is known of the type without its SDK. Every
    `SecretStr` field is a credential: sealed at rest, and never in an answer. The API's documentation is made of the
    class's docstring and of each field's description and example; the examples together are a complete body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    display_name: ClassVar[str]
    host_typed: ClassVar["HostTyped"]
    """How much of the name of the host that is called is the customer's."""
    noun: ClassVar[str] = "bucket"
    """What the provider calls a bucket."""
    roles: ClassVar[dict[Role, str]]
    """The parameter that plays each role."""
    documents: ClassVar[frozenset[str]] = frozenset()
    """The credentials that are documents, in which white space may stand."""
    displaces: ClassVar[dict[str, tuple[str, ...]]] = {}
    """By parameter, those that an update removes when it sends this one, because both cannot be given."""
    advice: ClassVar[dict[Fault, str]] = {}
    """The texts of this type that replace the general ones of ADVICE."""
    type: str

    @classmethod
    @abstractmethod
    def key_guide(cls, bucket: str, folder: str, parameters: Mapping[str, str]) -> KeyGuide:
        """How to make a key that may write to `bucket` under `folder`, which is empty or what every key begins with.

        `parameters` are all that were given, none of them a credential.
        """

    @classmethod
    def type_name(cls) -> str:
        """The value of `type`."""
        return str(get_args(cls.model_fields["type"].annotation)[0])

    @classmethod
    @cache
    def parameters(cls) -> frozenset[str]:
        """The names of all parameters of this type, without `type` itself."""
        return frozenset(cls.model_fields) - {"type"}

    @classmethod
    @cache
    def credentials(cls) -> frozenset[str]:
        """The names of those parameters that are credentials."""
        return frozenset(name for name, field in cls.model_fields.items() if _is_secret(field.annotation))

    @classmethod
    def advice_text(cls, fault: Fault) -> str:
        """What a customer of this type is told about `fault`, with the placeholders of `Advice` still in it."""
        return cls.advice.get(fault, ADVICE[fault].text)

    def parameter(self, role: Role | None) -> str | None:
        """The parameter that plays `role`; None if there is none."""
        return self.roles.get(role) if role else None

    def has_slow_keys(self) -> bool:
        """Whether the provider may refuse a new key, or a right that was given just now, for a while."""
        return False

    def public(self) -> dict[str, str]:
        """The parameters that were given and may be shown, which are those that are no credentials."""
        return {name: value for name, value in self._given() if isinstance(value, str)}

    def secrets(self) -> dict[str, str]:
        """The credentials that were given, in the clear: whoever calls this seals them at once."""
        return {name: value.get_secret_value() for name, value in self._given() if isinstance(value, SecretStr)}

    def without_secrets(self, said: str | None) -> str | None:
        """What a host has said; None where a credential is in it: it may answer with those that it was sent."""
        shown = said is None or not any(
            secret in said if len(secret) >= _TELLING else secret == said for secret in self.secrets().values()
        )
        return said if shown else None

    def _given(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in sorted(self.parameters())]

    def with_credentials(self) -> dict[str, str]:
        """All that was given, credentials in the clear; parsing it makes this spec again."""
        return {"type": self.type, **self.public(), **self.secrets()}

    @classmethod
    def trusted(cls, given: Mapping[str, str]) -> "Spec":
        """The spec with the parameters `given`, without checking the rules, because that was done before."""
        secrets = cls.credentials()
        values: dict[str, Any] = {n: SecretStr(value) if n in secrets else value for n, value in given.items()}
        return cls.model_construct(**values, type=cls.type_name())

    @property
    def bucket(self) -> str:
        """The bucket or container."""
        return str(getattr(self, self.roles[Role.BUCKET]))

    @property
    def path_prefix(self) -> str:
        """The path prefix as it was given; empty if there is none."""
        return getattr(self, self.roles[Role.PREFIX]) or ""


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


class S3Access(BaseModel):
    """How a destination is reached by the S3 dialect.

    `endpoint` is None for the provider's own; `region` is None where it must be found out, and `guessed` says that
    nothing tells it but custom. `assumed` are those of the others that are a first guess, which the service may
    correct; `host` among them says that no bucket is part of the endpoint.
    """

    model_config = ConfigDict(frozen=True)

    access_key: SecretStr
    secret_key: SecretStr
    endpoint: str | None
    region: str | None
    guessed: bool = False
    addressing: Literal["auto", "path", "virtual"]
    assumed: frozenset[Literal["region", "addressing", "host"]] = frozenset()


def with_wildcards(text: str) -> str:
    """`text` for a resource of a policy that has no escapes: `?`, which matches one character, for each that has a
    meaning there."""
    return re.sub(r"[*?$]", "?", text)
