"""The storage servers, started when the first test asks for one and shared by all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from app.up import redis_binary
from demo.seaweedfs import SeaweedFS
from tests.servers import aws as moto
from tests.servers import azure as azurite
from tests.servers import compatible
from tests.servers import gcs as google
from tests.servers import oss as alibaba
from tests.servers.gcs import CREATE, EVERYTHING, LIST, Account, Bucket, GcsServer
from tests.servers.oss import GET, PUT, Identity, OssBucket
from tests.servers.oss import LIST as OSS_LIST
from tests.servers.postgres import Postgres
from tests.stack import REDIS_PASSWORD, Process, accepts, clean_environment, free_port, s3compatible, until

OSS_SECRET = "the-secret-of-all-the-keys-here"
"""Of each key of the OSS double."""


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the certificate authority that the tests made; what serves TLS has a certificate of its."""
    return Path(tmp_path_factory.mktemp("tls")) / "authority.pem"


@pytest.fixture(scope="session")
def certificate(authority: Path) -> tuple[Path, Path]:
    """The files with a certificate for loopback and for the S3-compatible services, and with its private key."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(authority))
    issued = ca.issue_cert("127.0.0.1", "localhost", *compatible.NAMES)
    chain, key = authority.with_name("chain.pem"), authority.with_name("key.pem")
    chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return chain, key


@pytest.fixture(scope="session")
def seaweedfs(certificate: tuple[Path, Path]) -> Iterator[SeaweedFS]:
    """An S3-compatible store, over http and over TLS."""
    kept = ("results",), ("versioned",)
    with SeaweedFS(*kept, certificate=certificate, domains=compatible.HOSTS) as running:
        yield running


@pytest.fixture(scope="session")
def good(seaweedfs: SeaweedFS) -> dict[str, Any]:
    """A body that is accepted."""
    return s3compatible(seaweedfs.url, *seaweedfs.customer)


@pytest.fixture(scope="session")
def aws() -> Iterator[moto.Aws]:
    """Amazon S3."""
    with moto.aws() as running:
        yield running


@pytest.fixture(scope="session")
def azure() -> Iterator[azurite.Azure]:
    """Azure Blob Storage."""
    with azurite.azure() as running:
        yield running


@pytest.fixture(scope="session")
def gcs(seaweedfs: SeaweedFS) -> Iterator[google.GcsServer]:
    """Google Cloud Storage: the JSON API, and an XML API that SeaweedFS answers."""
    buckets = {"results": Bucket(), "versioned": Bucket(versioning=True), "kept": Bucket(retention=True)}
    accounts = {
        "owner": Account(dict.fromkeys(buckets, EVERYTHING)),
        "writer": Account(dict.fromkeys(buckets, (CREATE,))),
        "reader": Account(dict.fromkeys(buckets, (LIST,))),
        "gone": Account(dict.fromkeys(buckets, EVERYTHING), disabled=True),
    }
    with GcsServer(buckets, accounts, xml_upstream=seaweedfs.url) as running:
        yield running


@pytest.fixture(scope="session")
def oss() -> Iterator[alibaba.Oss]:
    """Alibaba Cloud OSS."""
    with alibaba.oss() as running:
        running.identities = {
            "LTAI5tOwner000000000": Identity(OSS_SECRET),
            "LTAI5tDisabled000000": Identity(OSS_SECRET, enabled=False),
            "LTAI5tPutOnly0000000": Identity(OSS_SECRET, (PUT,)),
            "LTAI5tReadOnly000000": Identity(OSS_SECRET, (GET, OSS_LIST)),
            "LTAI5tNoVersions0000": Identity(OSS_SECRET, (PUT, alibaba.DELETE)),
        }
        running.buckets = {
            "results": OssBucket(),
            "versioned": OssBucket(versioned=True),
            "worm": OssBucket(worm=True),
            "elsewhere": OssBucket(region="eu-central-1"),
        }
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL."""
    with Postgres() as running:
        yield running


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty Redis."""
    port = free_port()
    arguments = ("--port", str(port), "--bind", "127.0.0.1", "--requirepass", REDIS_PASSWORD, "--save", "")
    log = tmp_path_factory.mktemp("redis") / "log"
    process = Process((redis_binary(), *arguments), log, clean_environment())
    process.start()
    until(lambda: accepts(port), "Redis accepts connections")
    yield f"redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0"
    process.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind that the product runs on."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/folder/d.db"
    new_database: str = request.getfixturevalue("postgres").new_database()
    return new_database
