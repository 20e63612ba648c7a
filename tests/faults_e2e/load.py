"""Steady load from several clients, each with an account and a bucket of its own, and a model of what each was told."""

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults_e2e.store import Store, secret_of
from tests.stack import Answer, Api

# In percent of all calls.
MIX = {"create": 55, "wrong secret": 13, "disabled": 6, "update": 10, "rename": 6, "delete": 5, "read": 5}
PAUSE_SECONDS = 0.5
CALL_SECONDS = 60.0


@dataclass
class Call:
    """One call and how it ended: with a status, or with `cut`, where no answer came."""

    what: str
    at: float
    status: int = 0
    code: str = ""
    seconds: float = 0.0
    object: str = ""

    @property
    def cut(self) -> bool:
        return self.status == 0

    @property
    def unknown(self) -> bool:
        """Whether its outcome was left open."""
        return self.cut or self.code == "outcome_unknown" or self.status == 500

    @property
    def failed(self) -> bool:
        """Whether it failed by a fault of ours, and not of its own or the store's."""
        return self.status == 0 or self.status >= 500


@dataclass
class Known:
    """What a client knows of one destination: the names that it may have, and whether it is there; None for unknown."""

    names: set[str]
    there: bool | None = True
    enabled: bool = True


@dataclass
class Client:
    """One client, which sends one call after the other to `urls` in turn."""

    number: int
    key: str
    urls: Sequence[str]
    store: Store
    calls: list[Call] = field(default_factory=list)
    known: dict[str, Known] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    perhaps: set[str] = field(default_factory=set)
    """Names of creates whose outcome was left open."""
    untrue: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bucket = f"bucket-{self.number}"
        self._random = random.Random(self.number)
        self._names = (f"c{self.number}-{n}" for n in itertools.count())
        self._api = itertools.cycle([Api(url, self.key, CALL_SECONDS) for url in self.urls])

    def body(self, **changes: Any) -> dict[str, Any]:
        return {
            "name": next(self._names), "type": "s3compatible", "enabled": True, "s3_endpoint": self.store.url,
            "s3_bucket_name": self.bucket, "s3_region": "us-east-1", "s3_access_key_id": self.bucket,
            "s3_secret_access_key": secret_of(self.bucket), "s3_path_prefix": "in", **changes,
        }  # fmt: skip

    def step(self) -> None:
        """One call of the mix."""
        what = self._random.choices([*MIX], [*MIX.values()])[0]
        mine = [each for each, known in self.known.items() if known.there]
        if what in ("update", "rename", "delete", "read") and not mine:
            what = "create"
        match what:
            case "create":
                self.create(what)
            case "wrong secret":
                self.create(what, s3_secret_access_key="wrong")
            case "disabled":
                self.create(what, enabled=False)
            case _:
                self._on(what, self._random.choice(mine))

    def create(self, what: str, **changes: Any) -> Answer | None:
        body = self.body(**changes)
        call, answer = self._call(what, "POST", "/destinations", body)
        if answer and call.status == 200:
            if what == "wrong secret":
                self.untrue.append(f"a wrong secret was accepted: {answer.text}")
            self.known[answer.json["destination"]["id"]] = Known({body["name"]}, enabled=body["enabled"])
            if body["enabled"]:
                self._worked(answer)
        elif call.unknown:
            self.perhaps.add(body["name"])
        else:
            self.absent.add(body["name"])
        return answer

    def _worked(self, answer: Answer) -> None:
        """A success was verified: its file was there, and is gone."""
        file = self.bucket, answer.report["object"]
        if file not in self.store.uploaded or file not in self.store.deleted:
            self.untrue.append(f"a success whose file was not written and deleted: {file}")

    def _on(self, what: str, destination: str) -> None:
        known, path, name = self.known[destination], f"/destinations/{destination}", next(self._names)
        match what:
            case "update":
                prefix = {"s3_path_prefix": f"in/{self._random.randrange(10**9)}"}
                call, answer = self._call(what, "PUT", path, prefix)
                if answer and call.status == 200:
                    self._worked(answer)
            case "rename":
                call, _ = self._call(what, "PUT", path, {"name": name})
                if call.status == 200:
                    known.names = {name}
                elif call.unknown:
                    known.names.add(name)
            case "delete":
                call, _ = self._call(what, "DELETE", path)
                known.there = False if call.status == 200 else None if call.unknown else True
            case "read":
                call, answer = self._call(what, "GET", path)
                if answer and call.status == 200 and answer.json["destination"]["name"] not in known.names:
                    self.untrue.append(
                        f"{destination} is called {answer.json['destination']['name']}, not {known.names}"
                    )
        if call.status == 404:
            self.untrue.append(f"{what} of {destination}: 404")

    def _call(self, what: str, method: str, path: str, body: Any = None) -> tuple[Call, Answer | None]:
        call, answer = Call(what, time.monotonic()), None
        self.calls.append(call)
        try:
            content = json.dumps(body).encode() if body is not None else None
            answer = next(self._api).call(method, path, content, {"Content-Type": "application/json"})
        except (OSError, http.client.HTTPException) as error:
            call.code = type(error).__name__
        call.seconds = time.monotonic() - call.at
        if answer:
            call.status = answer.status
            error = answer.json.get("error", {})
            call.code = error.get("code", "")
            report = error.get("verification", {})
            # A file that was named to the client is not unreported.
            call.object = error.get("object") or (report.get("object", "") if report.get("left_behind") else "")
        return call, answer

    def check(self) -> None:
        """Compare what is there with what was told; what is not so is in `untrue` then."""
        api, page, there = Api(self.urls[0], self.key), 1, {}
        while found := api.list(page=str(page)).json["destinations"]:
            there |= {each["id"]: each for each in found}
            page += 1
        for destination, known in self.known.items():
            row = there.pop(destination, None)
            if (row is None and known.there) or (row is not None and known.there is False):
                self.untrue.append(f"{destination} is {'there' if row else 'not there'}")
            if row and row["name"] not in known.names:
                self.untrue.append(f"{destination} is called {row['name']}, and not one of {known.names}")
            if row and row["enabled"] and not (row["verification"] or {}).get("ok"):
                self.untrue.append(f"{destination} is enabled and not verified")
        names = [row["name"] for row in there.values()]
        self.untrue += [f"{name} was answered as failed and is there" for name in names if name in self.absent]
        self.untrue += [f"{name} is there, and nobody asked for it" for name in {*names} - self.absent - self.perhaps]
        self.untrue += [f"{name} is there twice" for name, times in Counter(names).items() if times > 1]


class Load:
    """Clients that call on and on, from `start` to `stop`."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = clients
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.broke: list[BaseException] = []

    @property
    def calls(self) -> list[Call]:
        return [call for client in self.clients for call in [*client.calls]]

    def start(self) -> None:
        self._over.clear()
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in self.clients]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Return when the last call was answered."""
        self._over.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 10)
            assert not thread.is_alive(), "a call hangs"
        assert not self.broke, self.broke

    def _run(self, client: Client) -> None:
        try:
            while not self._over.wait(client._random.uniform(0, 2 * PAUSE_SECONDS)):
                client.step()
        except BaseException as error:  # shown by whoever stops the load
            self.broke.append(error)
            raise

    def since(self, moment: float) -> list[Call]:
        return [call for call in self.calls if call.at >= moment]
