"""Eleven credentials, six that can deliver and five that cannot: what each is told, strictly and leniently."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from app.domain.faults import Fault
from app.domain.types import key_guide
from app.domain.types.base import Spec
from tests.faults.test_steps import BROKEN, Store, denied, storing
from tests.faults.verifying import BODIES, KEY, WITHIN, failed, providers, spec_of, step
from tests.servers.aws import Aws
from tests.servers.odd import PAGE
from tests.types.every import STORAGES
from tests.types.s3 import keys
from workers.storage.port import Provider
from workers.verify import verify

EVERY = pytest.mark.parametrize("name", BODIES)


@dataclass(frozen=True)
class Case:
    """A credential: which `user`'s, where, what is `wrong` with it, and what strict says. `remains` says that the file,
    or a version of it, is there afterwards."""

    user: str
    bucket: str = "results"
    prefix: str = "in"
    fault: Fault | None = None
    remains: bool = False
    wrong: str = ""


DELIVERING = {
    "all rights": Case("full"),
    "the policy of ours, under its prefix": Case("limited"),
    "no right to delete versions": Case("no-versions", "versioned", remains=True),
    "no right to delete": Case("put-only", fault=Fault.DELETE_DENIED, remains=True),
    "no right to delete, versions kept": Case("put-only", "versioned", fault=Fault.DELETE_DENIED, remains=True),
    # Moto, as SeaweedFS, does not say that it is object lock; who may read the file finds out.
    "retention": Case("admin", "kept", fault=Fault.DELETE_BLOCKED_BY_RETENTION, remains=True),
}
FAILING = {
    "a wrong secret": Case("full", fault=Fault.SECRET_MISMATCH, wrong="secret"),
    "an unknown key": Case("full", fault=Fault.ACCESS_KEY_UNKNOWN, wrong="key"),
    "the right to read alone": Case("read-only", fault=Fault.WRITE_DENIED),
    "no bucket": Case("full", "there-is-none", fault=Fault.BUCKET_NOT_FOUND),
    "the policy of ours, elsewhere": Case("limited", prefix="elsewhere", fault=Fault.WRITE_DENIED),
}
CASES = {**DELIVERING, **FAILING}


@pytest.fixture(scope="module")
def limited(aws: Aws) -> Aws:
    policy = key_guide({"type": "s3", "s3_bucket_name": "results", "s3_path_prefix": "in"}).policy
    aws.add_user("limited", policy)
    return aws


@pytest.fixture(scope="module")
async def provider_for(limited: Aws) -> AsyncIterator[Callable[[Spec], Awaitable[Provider]]]:
    async with providers(s3_endpoint=limited.url) as opened:
        yield opened


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
@pytest.mark.parametrize("name", CASES)
async def test_the_eleven(
    provider_for: Callable[[Spec], Awaitable[Provider]], limited: Aws, name: str, lenient: bool
) -> None:
    case = CASES[name]
    key_id, secret = limited.keys[case.user]
    pair = ("AKIANOBODYKNOWSTHIS0" if case.wrong == "key" else key_id, "other" if case.wrong == "secret" else secret)
    spec = spec_of("s3", s3_bucket_name=case.bucket, s3_path_prefix=case.prefix, **keys(pair))
    key = f"{case.prefix}/dropoff-verify-{name}-{lenient}.txt"
    report = await verify(await provider_for(spec), spec, key, timeout=WITHIN, job="job", lenient=lenient)
    delivers = name in DELIVERING
    assert report.ok == (delivers and (lenient or not case.fault)), report
    assert report.code == (None if report.ok else case.fault)
    # Nothing is left unnamed, and nothing named that is not left.
    there = any(key in limited.objects(bucket) for bucket in ("results", "versioned", "kept"))
    assert there == case.remains
    told = " ".join([report.message, *report.warnings])
    assert (key in told) == case.remains, told
    assert report.left_behind == bool(delivers and case.fault)
    assert bool(report.warnings) == (report.ok and case.remains)


def test_strict_refuses_the_three_by_contract_and_lenient_none_that_can_deliver() -> None:
    assert (len(DELIVERING), len(FAILING)) == (6, 5)
    assert sum(case.fault is not None for case in DELIVERING.values()) == 3


@pytest.fixture(scope="module")
async def store() -> AsyncIterator[Store]:
    async with storing() as running:
        yield running


def retained(name: str) -> bytes:
    return STORAGES[name].row(Fault.DELETE_BLOCKED_BY_RETENTION, 403, *STORAGES[name].retained).answer


@EVERY
async def test_every_provider_is_forgiven_a_file_that_it_keeps(store: Store, name: str) -> None:
    for refusal, fault in ((denied(name), Fault.DELETE_DENIED), (retained(name), Fault.DELETE_BLOCKED_BY_RETENTION)):
        report = await store.verified(name, lenient=True, DELETE=refusal)
        assert report.ok and report.code is None and report.left_behind, report
        assert step(report, "delete").code == fault
        (warning,) = report.warnings
        assert KEY in warning and "deleted" not in report.message
        assert KEY in report.as_text() and report.as_text().startswith("Passed")


@EVERY
async def test_nothing_else_is_forgiven(store: Store, name: str) -> None:
    for refusal in (BROKEN, PAGE):
        report = await store.verified(name, lenient=True, DELETE=refusal)
        assert not report.ok and report.left_behind, report
    # That the file may not be deleted does not say that it was taken.
    report = await store.verified(name, lenient=True, **{"": BROKEN, "DELETE": denied(name)})
    assert not report.ok and failed(report)[0] == ("upload", Fault.PROVIDER_UNAVAILABLE)
    assert report.left_behind and KEY in report.message
