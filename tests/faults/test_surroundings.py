"""What the machine of a worker has for the providers' own tools, in its environment and its home, has no say."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.faults.surrounded import OLD
from tests.faults.test_wire import Recorder, recording
from tests.servers.odd import Odd, silent
from tests.stack import clean_environment
from tests.types.every import STORAGES

HOSTS = (
    "s3.us-east-1.amazonaws.com", "my-bucket.s3.eu-west-1.amazonaws.com", "ams3.digitaloceanspaces.com",
    "storage.googleapis.com", "oauth2.googleapis.com", "account1.blob.core.windows.net",
    "my-bucket.oss-cn-hangzhou.aliyuncs.com", "s3.eu-west-1.amazonaws.com",
)  # fmt: skip
"""Where the requests are to go; nothing else has a certificate."""

# What differs from one request to the next, whoever makes it.
CHANGING = {
    "authorization", "date", "x-amz-date", "x-ms-date", "x-oss-date", "x-ms-client-request-id", "amz-sdk-invocation-id",
    "content-length",
}  # fmt: skip

BOOLEANS = (
    "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_S3_USE_ARN_REGION", "AWS_CSM_ENABLED",
    "AWS_S3_DISABLE_EXPRESS_SESSION_AUTH", "AWS_ENDPOINT_DISCOVERY_ENABLED", "AZURE_TRACING_ENABLED",
    "AZURE_SDK_LOGGING_MULTIRECORD",
)  # fmt: skip
KEYS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_S3", "AWS_ACCOUNT_ID",
    "AWS_SDK_UA_APP_ID", "AWS_EXECUTION_ENV", "AZURE_HTTP_USER_AGENT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT",
    "AZURE_CLIENT_SECRET", "AZURE_STORAGE_SAS_TOKEN", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GOOGLE_API_KEY",
    "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN", "ALIBABA_CLOUD_ACCESS_KEY_ID",
)  # fmt: skip


def everything(home: Path, trap: Odd) -> dict[str, str]:
    """All the tools' variables and files, which lead elsewhere and have other keys."""
    files = {
        ".aws/config": f"[default]\nregion = us-gov-west-1\nendpoint_url = {trap.url}\nservices = here\n"
        "use_fips_endpoint = true\nuse_dualstack_endpoint = true\nretry_mode = adaptive\nmax_attempts = 9\n"
        "defaults_mode = mobile\nsdk_ua_app_id = AMBIENT\nca_bundle = /nowhere\ncsm_enabled = true\n"
        "request_checksum_calculation = when_supported\n"
        "s3 =\n  use_accelerate_endpoint = true\n  addressing_style = virtual\n  payload_signing_enabled = false\n"
        f"[services here]\ns3 =\n  endpoint_url = {trap.url}\n",
        ".aws/credentials": "[default]\naws_access_key_id = AMBIENT\naws_secret_access_key = AMBIENT\n",
        ".netrc": "".join(f"machine {host} login AMBIENT password AMBIENT\n" for host in HOSTS),
        ".config/gcloud/application_default_credentials.json": '{"type": "authorized_user", "client_id": "AMBIENT"}',
        ".boto": f"[Boto]\nproxy = {trap.url}\n",
        ".azure/config": "[storage]\nkey = AMBIENT\n",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    urls = (
        "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "OSS_ENDPOINT",
        "AZURE_STORAGE_BLOB_ENDPOINT",
    )  # fmt: skip
    return {
        **dict.fromkeys((*proxies, *urls), trap.url),
        **dict.fromkeys(BOOLEANS, "true"),
        **dict.fromkeys(KEYS, "AMBIENT"),
        "AWS_REGION": "us-gov-west-1",
        "AWS_DEFAULT_REGION": "us-gov-west-1",
        "AWS_RETRY_MODE": "adaptive",
        "AWS_MAX_ATTEMPTS": "9",
        "AWS_DEFAULTS_MODE": "mobile",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
        "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "legacy",
        "AZURE_SDK_TRACING_IMPLEMENTATION": "opentelemetry",
        "AZURE_SDK_CLOUD_CONF": "AZURE_US_GOVERNMENT",
        "AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={trap.url};AccountKey=AMBIENT",
        "GCE_METADATA_HOST": trap.url.removeprefix("http://"),
        "GOOGLE_APPLICATION_CREDENTIALS": str(home / ".config/gcloud/application_default_credentials.json"),
    }


def unusable(home: Path, _: Odd) -> dict[str, str]:
    """What cannot be read: a profile that is not there, files that are none, a bundle of nothing."""
    models = home / ".aws/models/s3/2006-03-01"
    models.mkdir(parents=True)
    for name in (models / "service-2.json", home / ".aws/models/endpoints.json", home / ".aws/config", home / ".netrc"):
        name.write_text("[[[ this is nothing {")
    return {
        "AWS_PROFILE": "nobody",
        "AWS_DEFAULT_PROFILE": "nobody",
        "AWS_CONFIG_FILE": str(home / ".aws/config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / ".aws/config"),
        "AWS_DATA_PATH": str(home / ".aws/models"),
        "AWS_MAX_ATTEMPTS": "several",
        "AWS_RETRY_MODE": "nothing",
        "AWS_DEFAULTS_MODE": "nothing",
        "AWS_USE_FIPS_ENDPOINT": "perhaps",
        "BOTOCORE_EXPERIMENTAL__PLUGINS": "nothing=there.is.none",
        "AZURE_TRACING_ENABLED": "perhaps",
        "AZURE_LOG_LEVEL": "nothing",
        "AZURE_SDK_CLOUD_CONF": "nothing",
        "GOOGLE_APPLICATION_CREDENTIALS": str(home / "nowhere"),
        "STORAGE_EMULATOR_HOST": "[nowhere",
        **dict.fromkeys(("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(home / "nowhere")),
    }


async def run(home: Path, recorder: Recorder, authority: Path, more: Mapping[str, str]) -> list[dict[str, Any]]:
    """The reports of a process of its own whose home is `home`, with the variables `more`."""
    variables = clean_environment(HOME=str(home), SSL_CERT_FILE=str(authority), **more)
    port = recorder.url.rpartition(":")[2]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.surrounded", port,
        env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(child.communicate(), 120)
    assert child.returncode == 0, err.decode()
    return [json.loads(line) for line in out.splitlines()]


def seen(recorder: Recorder) -> list[tuple[str, str, str, dict[str, str], str]]:
    """What each request was, but for what changes from one to the next; of a signature, the scope."""
    requests = [
        (
            request.method,
            request.host,
            request.raw_path,
            # botocore names its features in no order.
            {
                name.lower(): re.sub(r" m/\S+", "", value)
                for name, value in request.headers.items()
                if name.lower() not in CHANGING
            },
            "/".join(request.headers.get("Authorization", "").partition("Credential=")[2].split(",")[0].split("/")[2:]),
        )
        for request in recorder.requests
    ]
    recorder.requests.clear()
    recorder.bodies.clear()
    return requests


@pytest.fixture
def trap() -> Iterator[Odd]:
    with silent() as host:
        yield host


async def test_a_worker_does_the_same_whatever_its_machine_has_for_the_providers_tools(
    tmp_path: Path, trap: Odd
) -> None:
    ca, authority = trustme.CA(), tmp_path / "authority.pem"
    issued, chain, key = ca.issue_cert(*HOSTS), tmp_path / "chain.pem", tmp_path / "key.pem"
    ca.cert_pem.write_to_path(str(authority))
    chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    async with recording((chain, key)) as recorder:
        homes = {name: tmp_path / name for name in ("nothing", "everything", "unusable")}
        for home in homes.values():
            home.mkdir()
        reports = await run(homes["nothing"], recorder, authority, {})
        names = [*STORAGES, "an old bucket"]
        assert [(each["name"], each["ok"]) for each in reports] == [(name, True) for name in names], reports
        plain = seen(recorder)
        assert {host for _, host, *_ in plain} == set(HOSTS)
        (path,) = {path.partition("?")[0] for method, host, path, *_ in plain if (method, host) == ("PUT", HOSTS[-1])}
        assert path.startswith(f"/{OLD}/")
        assert reports[-1]["host"] == HOSTS[-1]
        for make in (everything, unusable):
            home = homes[make.__name__]
            again = await run(home, recorder, authority, make(home, trap))
            assert [(each["name"], each["ok"], each["host"]) for each in again] == [
                (each["name"], each["ok"], each["host"]) for each in reports
            ], again
            assert seen(recorder) == plain, make.__name__
    assert trap.connections == 0
