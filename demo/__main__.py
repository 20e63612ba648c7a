"""`make demo`: a destination refused because its secret is wrong, accepted when it is right, and delivered to."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from app.domain.verification import Report
from demo.deliver import deliver, put_files
from demo.processes import HOST
from demo.seaweedfs import SeaweedFS

BUCKET = "results"
USUAL_PORT = 8080
READY_SECONDS = 60
OWN_NETWORK = {"DROPOFF_ALLOW_HTTP": "1", "DROPOFF_EGRESS_ALLOW": "127.0.0.0/8"}
"""Without which an address of this machine, or of http, is refused."""


def main() -> int:
    """Run the demo until Ctrl-C; the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    data = Path(tempfile.mkdtemp(prefix="dropoff-demo-"))
    began = time.monotonic()
    try:
        say("Starting an object store that checks signatures, and Dropoff …")
        say("The store is on this machine: " + " ".join(f"{name}={value}" for name, value in OWN_NETWORK.items()))
        with SeaweedFS(buckets=(BUCKET,)) as store, Dropoff(data) as dropoff:
            say(f"Both answer after {time.monotonic() - began:.1f} seconds.\n")
            show(store, dropoff)
            say("\nDropoff keeps running; its log is in " + str(dropoff.log) + ". Press Ctrl-C to end.")
            return dropoff.wait()
    except KeyboardInterrupt:
        say("\nEnded; nothing is left behind.")
        return 0
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(data, ignore_errors=True)


class Dropoff:
    """`dropoff up` as anybody would start it, its output in a file."""

    def __init__(self, data: Path) -> None:
        port = usual_or_free_port()
        self.url = f"http://{HOST}:{port}"
        self.data = data
        self.log = data / "log"
        self.source = data / "source"
        self.source.mkdir()
        self._command = [sys.executable, "-m", "app.cli", "up", "--port", str(port), "--data", str(data)]
        # The store is on this machine and has no certificate, which is refused unless an operator allows it.
        self._environment = {
            **os.environ,
            **OWN_NETWORK,
            "DROPOFF_SOURCE": f"file://{self.source}",
        }

    def __enter__(self) -> "Dropoff":
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        ends = time.monotonic() + READY_SECONDS
        while b"Dropoff is ready" not in self.log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > ends:
                self._end()
                raise RuntimeError(f"dropoff up did not get ready:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def operator_key(self) -> str:
        """What it printed, which opens the dashboard."""
        _, _, rest = self.log.read_text(errors="replace").partition("The operator's key is ")
        return rest.partition("\n")[0]

    def wait(self) -> int:
        return self._process.wait()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()


def show(store: SeaweedFS, dropoff: "Dropoff") -> None:
    """The two creates, their answers, what is in the bucket afterwards, a delivery, and where to look."""
    url, operator_key = dropoff.url, dropoff.operator_key
    body = {
        "name": "results",
        "enabled": True,
        "type": "s3compatible",
        "s3_endpoint": store.url,
        "s3_access_key_id": store.customer.id,
        "s3_secret_access_key": store.customer.secret,
        "s3_bucket_name": BUCKET,
        "s3_path_prefix": "dropoff/%DATE%",
    }
    title("1. A destination whose secret is wrong")
    status, answer = create(url, {**body, "s3_secret_access_key": "a-secret-with-a-typo"})
    say(f"HTTP {status}")
    say(Report.model_validate(answer["error"]["verification"]).as_text())

    title("2. The same with the right secret")
    status, answer = create(url, body)
    say(f"HTTP {status}")
    destination = answer["destination"]
    say(json.dumps({name: value for name, value in destination.items() if name != "verification"}, indent=2))
    say(Report.model_validate(destination["verification"]).as_text())
    say(f"In the bucket now: {store.objects(BUCKET) or 'nothing, as before'}")

    title("3. A result set of three files, which are delivered to it")
    for line in deliver(url, operator_key, destination["id"], put_files(dropoff.source)):
        say(line)
    say("In the bucket now:")
    for key in store.objects(BUCKET):
        say(f"  {len(store.content(BUCKET, key)):>10,} bytes  {key}")

    title("4. Do it yourself")
    say(f"curl {url}/destinations -H 'Authorization: Bearer demo' -H 'Content-Type: application/json' \\")
    say(f"  -d '{json.dumps(body)}'")
    say(f"\ncurl '{url}/destinations?api_key=demo'")
    say(f"\nThe dashboard is at {url}/dashboard, and opens with the operator's key {operator_key}")
    say(f"The calls are at {url}/docs")
    say("\nIn another terminal, for dropoff status, dropoff accounts list and the like:")
    say(f"export DROPOFF_DATA={dropoff.data} DROPOFF_URL={url} DROPOFF_OPERATOR_KEY={operator_key}")


def create(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The status and the answer of one create."""
    headers = {"Authorization": "Bearer demo", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/destinations", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=READY_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def title(text: str) -> None:
    say(f"\n{text}\n{'-' * len(text)}")


def say(text: str) -> None:
    print(text, flush=True)


def usual_or_free_port() -> int:
    """8080, which a newcomer expects, unless something listens there."""
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                return int(probe.getsockname()[1])
            except OSError:
                continue
    raise RuntimeError("no port is free")


if __name__ == "__main__":
    sys.exit(main())
