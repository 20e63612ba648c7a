"""Which provider serves which type: the one place to edit for a new one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import aiohttp

from app.domain.types.base import Spec
from app.domain.types.gcs import GcsSpec
from app.settings import Settings
from workers.egress.asynchronous import guarded_session
from workers.egress.guard import Guard
from workers.storage.port import Provider
from workers.storage.s3.provider import S3Provider

Load = Callable[[AsyncExitStack, aiohttp.ClientSession, Guard, Settings], Provider]


def _gcs(_: AsyncExitStack, session: aiohttp.ClientSession, __: Guard, settings: Settings) -> Provider:
    from workers.storage.gcs import GcsProvider

    return GcsProvider(session, settings.gcs_endpoint, settings.gcs_token_endpoint, settings.verify_seconds)


def _azure(_: AsyncExitStack, session: aiohttp.ClientSession, __: Guard, settings: Settings) -> Provider:
    from workers.storage.azure import AzureProvider

    return AzureProvider(session, settings.azure_endpoint)


def _oss(stack: AsyncExitStack, _: aiohttp.ClientSession, guard: Guard, settings: Settings) -> Provider:
    from workers.storage.oss import OssProvider

    oss = OssProvider(guard, settings.oss_endpoint, settings.verify_seconds)
    stack.callback(oss.close)
    return oss


# S3's dialect, which most customers speak, is ready from the start. What an SDK takes to be imported, in time and in
# memory, is spent where somebody needs it.
_LOADED_ON_USE: Mapping[str, Load] = {"gcs": _gcs, "azure": _azure, "oss": _oss}


async def open_providers(stack: AsyncExitStack, settings: Settings) -> Callable[[Spec], Awaitable[Provider]]:
    """The provider for a spec; what they all hold open is closed with `stack`."""
    guard = Guard(settings.egress_allow)
    session = await stack.enter_async_context(guarded_session(guard))
    s3 = S3Provider(session, {"s3": settings.s3_endpoint, "gcs": settings.gcs_endpoint})
    await s3.warm_up()
    ready: dict[str, Provider] = {"s3": s3}
    loading = asyncio.Lock()

    async def provider_for(spec: Spec) -> Provider:
        by_hmac_key = isinstance(spec, GcsSpec) and not spec.gcs_service_account_key
        name = "s3" if spec.type == "s3compatible" or by_hmac_key else spec.type
        if name not in ready:
            async with loading:
                if name not in ready:
                    ready[name] = await asyncio.to_thread(_LOADED_ON_USE[name], stack, session, guard, settings)
        return ready[name]

    return provider_for
