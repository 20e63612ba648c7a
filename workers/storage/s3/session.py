"""The botocore session of the S3 dialect, which is told everything: what the machine it runs on has for AWS, in its
environment or its files, has no say in what is done with a customer's bucket."""

import platform
from collections.abc import Mapping
from functools import partial
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentialResolver, AioCredentials
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConfigValueStore, ConstantProvider
from botocore.credentials import ReadOnlyCredentials
from botocore.loaders import Loader
from botocore.useragent import UserAgentString

from workers.egress.guard import CONNECT_SECONDS
from workers.storage.refusals import Reply, is_page, not_a_store
from workers.storage.s3.bucket import credentials


class _TaskCredentials(AioCredentials):
    """The credentials of the task that signs: read from its context each time, never kept."""

    def __init__(self) -> None:
        super().__init__("of-the-task", "of-the-task", method="explicit")

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return credentials.get()


class _OnlyTaskCredentials:
    """The one credential provider there is: neither environment nor files nor instance metadata are asked."""

    METHOD = "task"

    async def load(self) -> AioCredentials:
        return _TaskCredentials()


class ClosedSession(AioSession):
    """A session with every variable at botocore's own default, no profiles, and the models that botocore brings."""

    def _register_credential_provider(self) -> None:
        self._components.register_component("credential_provider", AioCredentialResolver([_OnlyTaskCredentials()]))

    def _register_config_store(self) -> None:
        values: dict[str, Any] = {name: default for name, (*_, default, _) in _VARIABLES.items()}
        files = dict.fromkeys(("profile", "config_file", "credentials_file", "data_path", "ca_bundle"))
        values |= {**files, "s3": {}, "proxies_config": {}}
        store = ConfigValueStore({name: ConstantProvider(value) for name, value in values.items()})
        self._components.register_component("config_store", store)

    def _register_data_loader(self) -> None:
        self._components.register_component("data_loader", _MODELS)

    def _register_user_agent_creator(self) -> None:
        creator = UserAgentString(
            platform_name=platform.system(),
            platform_version=platform.release(),
            platform_machine=platform.machine(),
            python_version=platform.python_version(),
            python_implementation=platform.python_implementation(),
            execution_env=None,
        )
        self._components.register_component("user_agent_creator", creator)

    def _register_client_plugins(self, client: object) -> None:
        """None, whichever the environment names."""

    def _add_configured_endpoint_provider(self, client_name: str, config_store: object) -> None:
        """None: an endpoint is the customer's, or Amazon's own."""

    def get_auth_token(self, **_: object) -> None:
        """None: requests are signed."""

    @property
    def full_config(self) -> Mapping[str, Any]:
        """What the files of the machine say: nothing."""
        return {"profiles": {}}


_VARIABLES: Mapping[str, tuple[Any, Any, Any, Any]] = BOTOCORE_DEFAUT_SESSION_VARIABLES
# By default, models in the home directory come before botocore's. Each is read once in a process.
_MODELS = Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)


def client_config(session: aiohttp.ClientSession, addressing: str) -> AioConfig:
    """How a client calls, by `session`, and where the bucket goes: every option, so that none is found elsewhere."""
    return AioConfig(
        http_session_cls=partial(_GuardedHTTP, session),
        connect_timeout=CONNECT_SECONDS,
        proxies={},
        # What is passed is ours, and of the types that S3's model has: checking that is a tenth of a call.
        parameter_validation=False,
        retries={"total_max_attempts": 1, "mode": "legacy"},
        defaults_mode="legacy",
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,
        use_fips_endpoint=False,
        use_dualstack_endpoint=False,
        disable_request_compression=True,
        s3={
            "addressing_style": addressing,
            # Beside a Content-MD5, botocore would leave the body unsigned over TLS, which a bucket's policy may deny.
            "payload_signing_enabled": True,
            "us_east_1_regional_endpoint": "regional",
            "use_accelerate_endpoint": False,
            "use_dualstack_endpoint": False,
            "use_arn_region": False,
        },
    )


class _GuardedHTTP(AIOHTTPSession):
    """aiobotocore's transport on the guarded session that all providers share; it has nothing of its own to close."""

    def __init__(self, shared: aiohttp.ClientSession, **options: Any) -> None:
        super().__init__(**options)
        self._shared = shared

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        return self._shared

    async def send(self, request: Any) -> Any:
        """Refuses a web page here: botocore would turn its 200 into a 500, as if a store had failed, and would not look
        at one that comes with another success."""
        answer = await super().send(request)
        success = request.method != "GET" and answer.status_code < 300
        if success and is_page(answer.headers.get("Content-Type", ""), await answer.content):
            raise not_a_store(Reply(answer.status_code))
        return answer
