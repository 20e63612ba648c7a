"""What is told for each fault, type by type: the next step, the type's own parameter, nobody else's name."""

import re

import pytest

from app.domain import errors
from app.domain.errors import DropoffError
from app.domain.faults import ADVICE, Fault, Role
from app.domain.types import SPECS, parse
from app.domain.types.base import Spec
from app.domain.verification import advice
from tests.types.every import GOOD, STORAGES

BEGINNINGS = sorted({name.partition("_")[0] for spec in SPECS.values() for name in spec.parameters()})
KEY = "in/dropoff-verify-0.txt"
LEFT = {Fault.DELETE_DENIED, Fault.DELETE_BLOCKED_BY_RETENTION}
EVERY = pytest.mark.parametrize("kind", SPECS)


def spec_of(kind: str) -> Spec:
    return parse({"type": kind, **GOOD[kind]}, allow_http=False)


def told(kind: str, fault: Fault) -> str:
    # A detail that is part of a sentence has no space or brackets of its own.
    inside = re.search(r"\({detail}|^{parameter} {detail}", SPECS[kind].advice_text(fault))
    detail = "so" if inside else " (so)"
    return advice(spec_of(kind), fault, host="host.example", key=KEY, seconds=3.2, detail=detail)


@EVERY
@pytest.mark.parametrize("fault", Fault)
def test_a_message_is_whole_sentences(kind: str, fault: Fault) -> None:
    text = told(kind, fault)
    assert not re.search(r"[{}]|  |\.\.|\( ", text)
    assert "None" not in text or fault is Fault.INVALID_PARAMETER, text
    assert text.endswith(".")
    # The name that begins with an article begins a sentence.
    assert not re.search(r"[^.] The ", text), text


@EVERY
@pytest.mark.parametrize("fault", Fault)
def test_a_message_names_the_types_own_parameter(kind: str, fault: Fault) -> None:
    text, spec = told(kind, fault), spec_of(kind)
    named = set(re.findall(rf"\b(?:{'|'.join(BEGINNINGS)})_\w+", text))
    assert named <= spec.parameters()
    if ADVICE[fault].role:
        assert spec.parameter(ADVICE[fault].role) in named, text
    else:
        # Nothing that the customer gave is at fault: the next step is to try again, or to ask somebody.
        assert re.search("again|look up", text) or fault is Fault.INVALID_PARAMETER, text


@EVERY
@pytest.mark.parametrize("fault", Fault)
def test_a_message_names_no_other_provider(kind: str, fault: Fault) -> None:
    others = set().union(*(storage.brands for storage in STORAGES.values())) - STORAGES[kind].brands
    text = told(kind, fault)
    assert not [name for name in others if re.search(rf"\b{name}\b", text)], text
    if "{provider}" in SPECS[kind].advice_text(fault):
        assert spec_of(kind).display_name in text


@pytest.mark.parametrize("kind", [kind for kind, spec in SPECS.items() if spec.noun != "bucket"])
@pytest.mark.parametrize("fault", sorted(set(Fault) - {Fault.UNSUPPORTED_BUCKET_TYPE}))
def test_what_is_no_bucket_for_the_provider_is_not_called_one(kind: str, fault: Fault) -> None:
    """No such provider has other types of them."""
    assert "bucket" not in told(kind, fault)


@EVERY
@pytest.mark.parametrize("fault", sorted(LEFT))
def test_what_was_left_behind_is_named(kind: str, fault: Fault) -> None:
    assert KEY in told(kind, fault)


@EVERY
def test_who_may_not_write_looks_at_the_buckets_name_where_the_provider_tells_the_two_not_apart(kind: str) -> None:
    text, spec = told(kind, Fault.WRITE_DENIED), spec_of(kind)
    # Azure says of a container that is not there that it is not, to whoever has a key of the account.
    assert (spec.parameter(Role.BUCKET) in text) is (kind != "azure")
    assert spec.parameter(Role.PREFIX) in text


def test_a_message_for_azure_says_which_accounts_have_no_such_name() -> None:
    assert re.search("DNS-zone.*sovereign.*private endpoint", told("azure", Fault.HOST_NOT_FOUND))
    assert "sovereign" not in told("s3compatible", Fault.HOST_NOT_FOUND)


def test_what_may_succeed_later_without_a_change_says_so() -> None:
    retryable = {fault for fault in Fault if ADVICE[fault].retryable}
    assert retryable == {
        Fault.CONNECTION_FAILED, Fault.TIMEOUT, Fault.CLOCK_SKEW, Fault.THROTTLED, Fault.PROVIDER_UNAVAILABLE,
        Fault.EGRESS_UNAVAILABLE,
    }  # fmt: skip


NOT_MALFORMED = [
    (storage.type, {parameter: value})
    for storage in STORAGES.values()
    for parameter, value, code in storage.malformed
    if code != Fault.INVALID_PARAMETER
]


@pytest.mark.parametrize(("kind", "changes"), NOT_MALFORMED)
def test_what_is_refused_before_any_call_is_told_in_the_same_words(kind: str, changes: dict[str, str]) -> None:
    with pytest.raises(Exception, match=r"is a temporary key|must be the plain name") as caught:
        parse({"type": kind, **GOOD[kind], **changes}, allow_http=False)
    fault = Fault(caught.value.code)  # type: ignore[attr-defined]
    shape = re.escape(SPECS[kind].advice_text(fault)).replace(r"\{parameter\}", next(iter(changes)))
    assert re.fullmatch(shape.replace(r"\{detail\}", r"\w+\.?…"), str(caught.value))


def drawn(kind: type[DropoffError], indent: str) -> list[str]:
    """The name of every kind of `kind`, each behind what leads to it in the drawing."""
    lines = []
    for each in kind.__subclasses__():
        if "domain" in each.__module__:
            lines += [f"{indent} {each.__name__}", *drawn(each, f"│   {indent}")]
    return lines


def test_the_errors_are_drawn_as_the_tree_that_they_are() -> None:
    found = re.findall(r"^((?:│   )*)[├└]── (\w+)", errors.__doc__ or "", re.M)
    assert sorted(f"{indent} {name}" for indent, name in found) == sorted(drawn(DropoffError, ""))
