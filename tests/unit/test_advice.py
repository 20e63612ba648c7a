"""What is told for each fault, type by type: the next step, the type's own parameter, nobody else's name."""

import re

import pytest

from app.domain.errors import ADVICE, Fault
from app.domain.specs import SPECS, parse
from app.domain.specs.base import Spec
from app.domain.verification import advice
from tests.unit.test_specs import GOOD

NAMES = {
    "s3": {"Amazon", "AWS"},
    "s3compatible": set[str](),
    "gcs": {"Google", "GCS"},
    "azure": {"Azure", "Microsoft"},
    "oss": {"Alibaba", "Aliyun", "OSS"},
}
KEY = "in/dropoff-verify-0.txt"
LEFT = {Fault.DELETE_DENIED, Fault.DELETE_BLOCKED_BY_RETENTION}
EVERY = pytest.mark.parametrize("kind", SPECS)


def spec_of(kind: str) -> Spec:
    return parse({"type": kind, **GOOD[kind]}, allow_http=False)


def told(kind: str, fault: Fault) -> str:
    # A detail that is part of a sentence has no space or brackets of its own.
    inside = re.search(r"\({detail}|^{parameter} {detail}", ADVICE[fault].of(kind))
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
    named = set(re.findall(r"\b(?:s3|gcs|azure|oss)_\w+", text))
    assert named <= spec.parameters()
    if ADVICE[fault].role:
        assert spec.parameter(ADVICE[fault].role) in named, text
    else:
        # Nothing that the customer gave is at fault: the next step is to try again, or to ask somebody.
        assert re.search("again|look up", text) or fault is Fault.INVALID_PARAMETER, text


@EVERY
@pytest.mark.parametrize("fault", Fault)
def test_a_message_names_no_other_provider(kind: str, fault: Fault) -> None:
    others = set().union(*NAMES.values()) - NAMES[kind]
    text = told(kind, fault)
    assert not [name for name in others if re.search(rf"\b{name}\b", text)], text
    if "{provider}" in ADVICE[fault].of(kind):
        assert spec_of(kind).provider in text


@pytest.mark.parametrize("fault", sorted(set(Fault) - {Fault.UNSUPPORTED_BUCKET_TYPE}))
def test_azure_calls_it_a_container(fault: Fault) -> None:
    """Which has no other types of them."""
    assert "bucket" not in told("azure", fault)


@EVERY
@pytest.mark.parametrize("fault", sorted(LEFT))
def test_what_was_left_behind_is_named(kind: str, fault: Fault) -> None:
    assert KEY in told(kind, fault)


def test_a_message_for_azure_says_which_accounts_have_no_such_name() -> None:
    assert re.search("DNS-zone.*sovereign.*private endpoint", told("azure", Fault.HOST_NOT_FOUND))
    assert "sovereign" not in told("s3compatible", Fault.HOST_NOT_FOUND)


def test_what_may_succeed_later_without_a_change_says_so() -> None:
    retryable = {fault for fault in Fault if ADVICE[fault].retryable}
    assert retryable == {
        Fault.CONNECTION_FAILED, Fault.TIMEOUT, Fault.CLOCK_SKEW, Fault.THROTTLED, Fault.PROVIDER_UNAVAILABLE,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("s3", {"s3_bucket_name": "arn:aws:s3:::my-bucket"}),
        ("s3", {"s3_access_key_id": "ASIAIOSFODNN7EXAMPLE"}),
        ("oss", {"oss_access_key": "STS.NTexample1234567890"}),
    ],
)
def test_what_is_refused_before_any_call_is_told_in_the_same_words(kind: str, changes: dict[str, str]) -> None:
    with pytest.raises(Exception, match=r"is a temporary key|must be the plain name") as caught:
        parse({"type": kind, **GOOD[kind], **changes}, allow_http=False)
    fault = Fault(caught.value.code)  # type: ignore[attr-defined]
    shape = re.escape(ADVICE[fault].of(kind)).replace(r"\{parameter\}", next(iter(changes)))
    assert re.fullmatch(shape.replace(r"\{detail\}", r"\w+\.?…"), str(caught.value))
