"""The service, once with every provider's real place behind it and once each with a host that is none."""

import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.seaweedfs import SeaweedFS
from tests.servers.gcs import GcsServer
from tests.servers.odd import Odd, dead_url, html, silent
from tests.stack import Api, up
from tests.types import s3compatible
from tests.types.base import Backend
from tests.types.every import STORAGES, settings_at

SETTINGS = {
    "verify_seconds": "30", "hold_seconds": "60", "allow_http": "1", "egress_allow": "127.0.0.0/8",
    "destination_limit": "1000", "propagation_seconds": "0",
}  # fmt: skip
VERIFY_SECONDS = 3.0
"""The bound of a verification where the host is silent."""
BACKENDS = {name: make for storage in STORAGES.values() for name, make in storage.backends.items()}


@pytest.fixture(scope="class", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each real server that there is of each type."""
    return BACKENDS[request.param](request.getfixturevalue)


@pytest.fixture(scope="session")
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[Api]:
    """With every provider in its place."""
    places = {
        name: value
        for storage in STORAGES.values()
        for name, value in storage.settings(request.getfixturevalue).items()
    }
    with up(tmp_path_factory.mktemp("service"), **SETTINGS, **places, SSL_CERT_FILE=str(authority)) as api:
        yield api


def _at(endpoint: str | None, url: str) -> dict[str, str]:
    return {endpoint: url} if endpoint else {}


def _elsewhere(folder: Path, url: str, gcs: GcsServer, **changes: str) -> Iterator[tuple[Api, str]]:
    """With the host at `url` in every provider's place, but for the one that issues Google's tokens."""
    places = {**settings_at(url), "gcs_token_endpoint": gcs.token_url}
    with up(folder, **{**SETTINGS, **places, **changes}) as api:
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
    folder = tmp_path_factory.mktemp("silent")
    with contextlib.contextmanager(_elsewhere)(folder, silence.url, gcs, verify_seconds=str(VERIFY_SECONDS)) as made:
        # The first time costs a worker the client of each SDK as well, which is no time of the host's.
        api, url = made
        bodies = [{**each.planted, **_at(each.endpoint, url)} for each in STORAGES.values()]
        with ThreadPoolExecutor(len(bodies)) as threads:
            list(threads.map(api.create, bodies))
        yield made


@pytest.fixture(scope="session")
def website(tmp_path_factory: pytest.TempPathFactory, gcs: GcsServer) -> Iterator[tuple[Api, str]]:
    with html() as host:
        yield from _elsewhere(tmp_path_factory.mktemp("html"), host.url, gcs)


@pytest.fixture
def right(seaweedfs: SeaweedFS) -> dict[str, Any]:
    """The body of a destination that works."""
    return {**s3compatible.backend(seaweedfs, seaweedfs.url).right}


@pytest.fixture
def existing(service: Api, right: dict[str, Any]) -> dict[str, Any]:
    """A destination that works, as the answer to its create has it."""
    return created(service, right)


def created(api: Api, body: Mapping[str, Any]) -> dict[str, Any]:
    answer = api.create(body)
    assert answer.status == 200, answer.text
    return answer.json["destination"]
