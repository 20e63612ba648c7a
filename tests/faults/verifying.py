"""One verification in this process, as a worker carries it out, but without a queue."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_network
from typing import Any

from app.domain.specs import parse
from app.domain.specs.base import Spec
from app.domain.verification import Report, StepReport
from app.settings import Settings
from tests.unit.test_specs import GOOD, SERVICE_ACCOUNT
from workers.main import open_providers
from workers.providers.base import Provider
from workers.verify import verify

KEY = "in/dropoff-verify-0.txt"
LOOPBACK = (ip_network("127.0.0.0/8"),)
WITHIN = 2.0

# A body that is well formed for each way to store; an endpoint is the settings' or replaces s3_endpoint.
BODIES: dict[str, dict[str, Any]] = {
    **{kind: {"type": kind, **parameters} for kind, parameters in GOOD.items()},
    "gcs by service account": {
        "type": "gcs",
        "gcs_bucket_name": "my-bucket",
        "gcs_service_account_key": SERVICE_ACCOUNT,
    },
}


@contextlib.asynccontextmanager
async def providers(url: str = "", **settings: Any) -> AsyncIterator[Callable[[Spec], Provider]]:
    """Every provider, with the host at `url` in its place; loopback may be called unless `settings` say otherwise."""
    places = {
        "s3_endpoint": url,
        "gcs_endpoint": url,
        "gcs_token_endpoint": f"{url}/token",
        "azure_endpoint": url + "/{account}",
        "oss_endpoint": url,
    }
    known = Settings(**{**(places if url else {}), "egress_allow": LOOPBACK, "allow_http": True, **settings})
    async with AsyncExitStack() as stack:
        yield await open_providers(stack, known)


def spec_of(name: str, url: str = "", **changes: Any) -> Spec:
    """The body of BODIES called `name`, at `url` where the body says the place."""
    body = {**BODIES[name], **changes}
    if body["type"] == "s3compatible" and url:
        body["s3_endpoint"] = url
    return parse(body, allow_http=True)


async def verified(name: str, url: str, body: Mapping[str, Any] | None = None, **settings: Any) -> Report:
    """The report on the body called `name`, changed by `body`, for the host at `url`: within its bound, whatever the
    host does."""
    spec = spec_of(name, url, **(body or {}))
    async with providers(url, **settings) as provider_for:
        began = time.monotonic()
        report = await verify(provider_for(spec), spec, KEY, within=WITHIN, job="job")
        assert time.monotonic() - began < WITHIN + 1
        return report


def failed(report: Report) -> list[tuple[str, str]]:
    """The step and the code of every failure, in order."""
    return [(step.step.value, str(step.code)) for step in report.steps if step.outcome == "failed"]


def step(report: Report, name: str) -> StepReport:
    (found,) = [each for each in report.steps if each.step == name]
    return found
