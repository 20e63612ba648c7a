"""`make faults`: deliveries; workers, API processes, Redis and PostgreSQL are killed around each stage of an upload.

Each time a file in seven parts and some small ones are on their way; build/faults-deliveries.md has the table.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.seaweedfs import SeaweedFS
from tests.e2e.test_deliveries import MIB, OPERATOR, Platform
from tests.faults_e2e.stage import Database
from tests.servers.gateway import Canned, gateway
from tests.servers.platform import platform as telling
from tests.stack import Deployment, kill, s3compatible, until

TABLE = Path("build/faults-deliveries.md")
LARGE, SMALL = 50 * MIB, 6
ARRIVES_SECONDS = 120.0


class Moment(StrEnum):
    """When a request of the large file is met: before the store has it, or when it was done and nobody knows."""

    BEFORE_BEGIN = "before begin"
    AFTER_BEGIN = "after begin"
    BEFORE_PART = "before the third part"
    AFTER_PART = "after the third part"
    BEFORE_COMPLETE = "before complete"
    AFTER_COMPLETE = "after complete"

    def is_of(self, method: str, path: str) -> bool:
        stage = self.partition(" ")[2]
        wanted = {
            "begin": ("POST", "uploads"),
            "complete": ("POST", "uploadId="),
            "the third part": ("PUT", "partNumber=3&"),
        }
        return method == wanted[stage][0] and wanted[stage][1] in f"{path.partition('?')[2]}&"


@dataclass
class Ambush:
    """What happens when the first request comes to `moment`; its connection breaks then."""

    moment: Moment
    strike: Callable[[], None]
    struck: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def meets(self, after: bool, method: str, path: str) -> bool:
        is_after = self.moment.startswith("after")
        if self.struck.is_set() or after is not is_after or not self.moment.is_of(method, path):
            return False
        self.struck.set()
        self.strike()
        self.over.set()
        return True


@dataclass
class Scene:
    """The product, the platform, the store behind a gateway, and what lies in ambush there."""

    platform: Platform
    database: Database
    store: SeaweedFS
    url: str = ""
    ambush: Ambush | None = None

    def before(self, method: str, path: str, _: Mapping[str, str]) -> Canned | None:
        met = self.ambush is not None and self.ambush.meets(False, method, path)
        return Canned(500, {}, b"") if met else None

    def after(self, method: str, path: str, status: int) -> bool:
        return status < 300 and self.ambush is not None and self.ambush.meets(True, method, path)

    def kill_database(self) -> None:
        """With every process of it, so that none ends in order."""
        assert self.database._process
        server = psutil.Process(self.database._process.pid)
        for each in (server, *server.children(recursive=True)):
            each.kill()
        self.database._process.wait(10)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    source = tmp_path_factory.mktemp("source")
    with Database() as database, SeaweedFS() as store, telling() as told:
        settings = {"source": f"file://{source}", "operator_key": OPERATOR, "allow_http": "1"}
        with Deployment(
            tmp_path_factory.mktemp("deliveries"), apis=2, deliveries=2, egress_allow="127.0.0.0/8",
            database_url=database.new_database(), notify_url=told.url, notify_secret=told.secret, **settings,
        ) as deployment:  # fmt: skip
            scene = Scene(Platform(deployment, source, told), database, store)
            with gateway(int(store.url.rpartition(":")[2]), scene.before, loses=scene.after) as scene.url:
                yield scene


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows = ["| fault | moment | files | attempts | seconds | parts left |", "|---|---|---|---|---|---|"]
    yield rows
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(rows) + "\n")


def workers_killed(scene: Scene) -> None:
    kill(*scene.platform.deployment.workers[1:])
    threading.Thread(target=scene.platform.deployment.start_ended).start()


def apis_killed(scene: Scene) -> None:
    kill(*scene.platform.deployment.apis)
    threading.Thread(target=scene.platform.deployment.start_ended).start()


def database_killed(scene: Scene, seconds: float = 1.0) -> None:
    scene.kill_database()

    def again() -> None:
        time.sleep(seconds)
        scene.database.again()

    threading.Thread(target=again).start()


def all_killed(scene: Scene) -> None:
    """Redis as well, but with its data; and PostgreSQL."""
    deployment = scene.platform.deployment
    kill(*deployment.workers, *deployment.apis, deployment.redis)
    scene.kill_database()

    def again() -> None:
        scene.database.again()
        deployment.start_redis()
        deployment.start_ended()

    threading.Thread(target=again).start()


FAULTS: Sequence[tuple[str, Callable[[Scene], None], Sequence[Moment]]] = (
    ("workers killed", workers_killed, tuple(Moment)),
    ("PostgreSQL killed for 1 s", database_killed, tuple(Moment)),
    ("PostgreSQL killed for 30 s", partial(database_killed, seconds=30.0), (Moment.BEFORE_PART, Moment.AFTER_COMPLETE)),
    ("API processes killed", apis_killed, (Moment.BEFORE_PART, Moment.AFTER_COMPLETE)),
    ("all killed", all_killed, (Moment.AFTER_BEGIN, Moment.AFTER_PART, Moment.AFTER_COMPLETE)),
)
CASES = [
    pytest.param(*(each, fault, moment), id=f"{each}, {moment}")
    for each, fault, moments in FAULTS
    for moment in moments
]


@pytest.mark.parametrize(("name", "fault", "moment"), CASES)
def test_whatever_dies_every_file_arrives_once_whole_and_without_parts_left(
    scene: Scene, table: list[str], name: str, fault: Callable[[Scene], None], moment: Moment
) -> None:
    platform, number = scene.platform, len(table)
    destination = platform.destination(s3compatible(scene.url, *scene.store.customer), s3_path_prefix=f"case-{number}")
    collection, files = platform.collection(destination), [*platform.files(SMALL), *platform.files(1, LARGE)]
    scene.ambush = Ambush(moment, lambda: fault(scene))
    began = time.monotonic()
    assert platform.announce(collection, files).status == 202
    assert scene.ambush.over.wait(60), "no request came to it"
    found = until(lambda: _delivered(platform, collection), f"{name} {moment}: it arrives", ARRIVES_SECONDS)
    seconds = time.monotonic() - began
    left = scene.store.unfinished("results")
    attempts = max(each["attempts"] for each in found["files"])
    table.append(f"| {name} | {moment} | {len(files)} | {attempts} | {seconds:.0f} | {left} |")
    print(table[-1])
    _require_receipts(scene, files, found, f"case-{number}")
    until(lambda: platform.told.types(collection_id=collection), "the platform is told")
    assert platform.told.types(collection_id=collection) == ["result_set.delivered"]
    assert len({worker.popen.pid for worker in platform.deployment.workers if worker.popen}) == 3
    assert left == 0


def _delivered(platform: Platform, collection: str) -> dict[str, Any] | None:
    """The result set once it is; None while it is not, or nobody answers."""
    try:
        answer = platform.customer.call("GET", f"/collections/{collection}/results/4")
    except OSError:
        return None
    if answer.status != 200:
        return None
    found: dict[str, Any] = answer.json["result_set"]
    states = {each["status"] for each in found["destination_status"].values()}
    return found if states == {"ok"} else None


def _require_receipts(scene: Scene, files: list[dict[str, Any]], found: dict[str, Any], prefix: str) -> None:
    receipts = {each["name"]: each for each in found["files"]}
    keys = [name for name in scene.store.objects("results") if name.startswith(f"{prefix}/")]
    assert sorted(keys) == sorted(f"{prefix}/{file['name']}" for file in files)
    for file in files:
        receipt, key = receipts[file["name"]], f"{prefix}/{file['name']}"
        head = scene.store._client().head_object(Bucket="results", Key=key)
        assert hashlib.sha256(scene.store.content("results", key)).hexdigest() == file["sha256"]
        assert (receipt["key"], receipt["sent"], receipt["fault"]) == (key, file["bytes"], None)
        assert receipt["etag"] == head["ETag"].strip('"')
