"""The service, once with every provider's real place behind it and once each with a host that is none."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.contract import backends
from tests.contract.backends import Backend
from tests.servers.aws import Aws
from tests.servers.azure import Azure
from tests.servers.gcs import GcsServer
from tests.servers.odd import Odd, dead_url, html, silent
from tests.servers.oss import Oss
from tests.stack import Api, up

VERIFY_SECONDS = 3.0
SETTINGS = {
    "verify_seconds": str(VERIFY_SECONDS), "hold_seconds": "20", "allow_http": "1", "egress_allow": "127.0.0.0/8",
    "destination_limit": "1000",
}  # fmt: skip
NAMES = ("s3", "s3compatible", "s3compatible over TLS", "gcs by HMAC", "gcs by service account", "azure", "oss")


@pytest.fixture(scope="class", params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each way to store."""
    get = request.getfixturevalue
    match request.param:
        case "s3":
            return backends.s3(get("aws"))
        case "s3compatible":
            return backends.s3compatible(get("seaweedfs"), get("seaweedfs").url)
        case "s3compatible over TLS":
            return backends.s3compatible(get("seaweedfs"), get("seaweedfs").https_url)
        case "gcs by HMAC":
            return backends.gcs_by_hmac(get("seaweedfs"))
        case "gcs by service account":
            return backends.gcs_by_service_account(get("gcs"))
        case "azure":
            return backends.azure(get("azure"))
        case _:
            return backends.oss(get("oss"))


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    aws: Aws, azure: Azure, gcs: GcsServer, oss: Oss, seaweedfs: SeaweedFS, authority: Path,
) -> Iterator[Api]:  # fmt: skip
    """With every provider in its place."""
    with up(
        tmp_path_factory.mktemp("service"),
        **SETTINGS,
        s3_endpoint=aws.url, gcs_endpoint=gcs.url, gcs_token_endpoint=gcs.token_url, azure_endpoint=azure.url,
        oss_endpoint=oss.url, SSL_CERT_FILE=str(authority),
    ) as api:  # fmt: skip
        yield api


def _elsewhere(folder: Path, url: str, gcs: GcsServer) -> Iterator[tuple[Api, str]]:
    """With the host at `url` in every provider's place, but for the one that issues Google's tokens."""
    with up(
        folder, **SETTINGS, s3_endpoint=url, gcs_endpoint=url, gcs_token_endpoint=gcs.token_url,
        azure_endpoint=url + "/{account}", oss_endpoint=url,
    ) as api:  # fmt: skip
        yield api, url


@pytest.fixture(scope="session")
def dead(tmp_path_factory: pytest.TempPathFactory, gcs: GcsServer) -> Iterator[tuple[Api, str]]:
    yield from _elsewhere(tmp_path_factory.mktemp("dead"), dead_url(), gcs)


@pytest.fixture(scope="session")
def silence() -> Iterator[Odd]:
    with silent() as host:
        yield host


@pytest.fixture(scope="session")
def mute(tmp_path_factory: pytest.TempPathFactory, gcs: GcsServer, silence: Odd) -> Iterator[tuple[Api, str]]:
    yield from _elsewhere(tmp_path_factory.mktemp("silent"), silence.url, gcs)


@pytest.fixture(scope="session")
def website(tmp_path_factory: pytest.TempPathFactory, gcs: GcsServer) -> Iterator[tuple[Api, str]]:
    with html() as host:
        yield from _elsewhere(tmp_path_factory.mktemp("html"), host.url, gcs)


@pytest.fixture
def right(seaweedfs: SeaweedFS) -> dict[str, Any]:
    """The body of a destination that works."""
    return {**backends.s3compatible(seaweedfs, seaweedfs.url).right}


@pytest.fixture
def existing(service: Api, right: dict[str, Any]) -> dict[str, Any]:
    """A destination that works, as the answer to its create has it."""
    return created(service, right)


def created(api: Api, body: Mapping[str, Any]) -> dict[str, Any]:
    answer = api.create(body)
    assert answer.status == 200, answer.text
    return answer.json["destination"]
