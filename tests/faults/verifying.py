"""One verification in this process, as a worker carries it out, but without a queue."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_network
from typing import Any

from app.domain.faults import Fault
from app.domain.types.base import HostTyped, Spec
from app.domain.verification import Location, Report, StepReport
from app.settings import Settings
from tests.stack import eventually
from tests.types.every import STORAGES, settings_at
from workers.storage.port import Provider
from workers.storage.refusals import Refused
from workers.storage.registry import open_providers
from workers.verify import DELETE_SHARE, verify

KEY = "in/dropoff-verify-0.txt"
LOOPBACK = (ip_network("127.0.0.0/8"),)
WITHIN = 30.0
"""The bound of a verification that ends by itself, on a machine however slow."""
SHORT = 2.0
"""The bound of one whose host keeps it, whatever it has come to by then."""
BOUND = 100.0
"""The bound of one that is left at it in a certain step, which `left_at_the_bound` lets pass at once."""
SLACK = 10.0
"""What a slow machine may add to a bound."""

BODIES = {name: dict(storage.good) for name, storage in STORAGES.items()}
"""A body that is well formed, for each way to store."""


@contextlib.asynccontextmanager
async def providers(url: str = "", **settings: Any) -> AsyncIterator[Callable[[Spec], Awaitable[Provider]]]:
    """Every provider, with the host at `url` in its place; loopback may be called unless `settings` say otherwise."""
    places = settings_at(url) if url else {}
    known = Settings(**{**places, "egress_allow": LOOPBACK, "allow_http": True, "hold_seconds": 600, **settings})
    async with AsyncExitStack() as stack:
        yield await open_providers(stack, known)


def spec_of(name: str, url: str = "", **changes: Any) -> Spec:
    """The body of BODIES called `name`, at `url` where the body says the place."""
    return STORAGES[name].spec(url, **changes)


async def ready(provider_for: Callable[[Spec], Awaitable[Provider]], spec: Spec) -> Provider:
    """The provider of `spec`, which has its client: that is made once for a place, and keeps the loop from everything
    else meanwhile. Nobody is called for it where the region is known."""
    provider = await provider_for(spec)
    # Where it cannot be made, that is the verification's to tell.
    with contextlib.suppress(Refused):
        await provider.open(spec, Location(region="us-east-1"))
    return provider


async def verified(
    name: str, url: str, body: Mapping[str, Any] | None = None, within: float = WITHIN, **settings: Any
) -> Report:
    """The report on the body called `name`, changed by `body`, for the host at `url`: within its bound, whatever the
    host does."""
    spec = spec_of(name, url, **(body or {}))
    async with providers(url, **settings) as provider_for:
        provider = await ready(provider_for, spec)
        began = time.monotonic()
        report = await verify(provider, spec, KEY, timeout=within, job="job")
        assert time.monotonic() - began < within + SLACK
        return report


async def at_once(names: Iterable[str], url: str) -> dict[str, Report]:
    """The report on each body named, for the host at `url`, which keeps them: all under way together, each within its
    bound."""
    async with providers(url) as provider_for:
        specs = {name: spec_of(name, url) for name in names}
        made = [(await ready(provider_for, spec), spec) for spec in specs.values()]
        began = time.monotonic()
        reports = await asyncio.gather(
            *[verify(provider, spec, KEY, timeout=SHORT, job="job") for provider, spec in made]
        )
        assert time.monotonic() - began < SHORT + SLACK
    return dict(zip(specs, reports, strict=True))


async def left_at_the_bound(
    verifications: Iterable[Coroutine[Any, Any, Report]],
    time_passes: Callable[[float], None],
    caught: Callable[[], bool],
    deleting: Callable[[], bool] | None = None,
) -> list[Report]:
    """The reports of `verifications`, all under way together, each of which has BOUND.

    As soon as they are `caught` in what they do first, the time for that is over. Where they go on to a delete, which
    is caught as well, `deleting` says when it is, and then all of their time is over. None ends before its time does,
    and each does then.
    """
    tasks = [asyncio.create_task(each) for each in verifications]
    try:
        await eventually(caught, "they are caught")
        assert not any(task.done() for task in tasks)
        time_passes(BOUND * (1 - DELETE_SHARE) + 1 if deleting else BOUND)
        if deleting:
            await eventually(deleting, "they are caught once more")
            time_passes(BOUND * DELETE_SHARE)
        async with asyncio.timeout(WITHIN):
            return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def unreached(name: str, fault: Fault) -> Fault:
    """What is told of a host that is not reached, to whom `fault` is told where the customer named the host."""
    typed = spec_of(name).host_typed
    ours = typed is HostTyped.NOTHING or (typed is HostTyped.PART and fault is not Fault.HOST_NOT_FOUND)
    return Fault.EGRESS_UNAVAILABLE if ours else fault


def failed(report: Report) -> list[tuple[str, str]]:
    """The step and the code of every failure, in order."""
    return [(step.step.value, str(step.code)) for step in report.steps if step.outcome == "failed"]


def step(report: Report, name: str) -> StepReport:
    (found,) = [each for each in report.steps if each.step == name]
    return found
