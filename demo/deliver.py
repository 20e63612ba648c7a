"""The demo's third part: a result set of three files, one of them in parts, delivered before your eyes."""

import hashlib
import json
import random
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLLECTION, RESULT_SET = "9E867FAA", 4
SIZES = (0, 48_000, 20 * 1024 * 1024)
"""In bytes: an empty file, a small one, and one that goes in parts."""
DELIVERED_SECONDS = 60


def put_files(source: Path) -> list[dict[str, Any]]:
    """Write the files into the folder `source`, and describe them as a platform announces them."""
    files = []
    for number, size in enumerate(SIZES, 1):
        path = f"{COLLECTION}/{RESULT_SET}/page_{number}.json"
        body = random.Random(number).randbytes(size)
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(body)
        name = f"Collection_Results_{COLLECTION}_{RESULT_SET}_Page_{number}.json"
        sha256 = hashlib.sha256(body).hexdigest()
        files.append({"name": name, "source": path, "bytes": size, "sha256": sha256})
    return files


def deliver(url: str, operator_key: str, destination: str, files: list[dict[str, Any]]) -> list[str]:
    """Have `files` delivered to `destination`; a line for each receipt. Raises RuntimeError where that fails."""
    call = _caller(url)
    body = {"name": "Daily prices", "destination_ids": [destination]}
    call("PUT", f"/collections/{COLLECTION}", "demo", body)
    times = {"started_at": "2026-03-01T00:00:00Z", "ended_at": "2026-03-01T00:05:00Z"}
    announced = {"id": RESULT_SET, **times, "files": files}
    call("POST", f"/collections/{COLLECTION}/results?account=demo", operator_key, announced)
    ends = time.monotonic() + DELIVERED_SECONDS
    while True:
        found = call("GET", f"/collections/{COLLECTION}/results/{RESULT_SET}", "demo")["result_set"]
        status = found["destination_status"][destination]
        if status["status"] == "ok":
            return [
                f"{each['status']}  {each['bytes']:>10,} bytes  sha256 {each['sha256'][:12]}…  etag {each['etag']}  "
                f"{each['key']}"
                for each in found["files"]
            ]
        if status["status"] == "failed" or time.monotonic() > ends:
            raise RuntimeError(f"the files were not delivered: {status['log'][-1:]}")
        time.sleep(0.1)


def _caller(url: str) -> Callable[..., dict[str, Any]]:
    def call(method: str, path: str, key: str, body: object = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        content = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(url + path, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=DELIVERED_SECONDS) as answer:
            read: dict[str, Any] = json.load(answer)
            return read

    return call
