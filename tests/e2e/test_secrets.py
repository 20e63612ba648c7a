"""Recognisable secrets are planted in every secret field; then everything that is written or said is searched."""

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from app.messages.keys import claim_key
from tests.servers.odd import PAGE, gated, html
from tests.stack import Api, Deployment, free_port, until
from tests.types.every import STORAGES, settings_at

SENTINEL = "SENTINEL"
OPERATOR_KEY = "SENTINEL-of-the-operator"
NOTIFY_SECRET = f"whsec_{SENTINEL}{'A' * 32}"


def planted(endpoint: str) -> list[dict[str, Any]]:
    """A body of each way to store, with a sentinel in whatever must never be seen, spelled so that the type accepts it;
    `endpoint` is the address where a body has one."""
    return [
        {**storage.planted, **({storage.endpoint: endpoint} if storage.endpoint else {})}
        for storage in STORAGES.values()
    ]


# What a search must find: the sentinel itself, and where another spelling hides it.
NEEDLES = (SENTINEL.encode(), *(needle for storage in STORAGES.values() for needle in storage.needles))


def found(content: bytes | str) -> bool:
    data = content.encode() if isinstance(content, str) else content
    return any(needle in data for needle in NEEDLES)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Every provider in the place of which stands a web server; at the most talkative log level."""
    with html() as server:
        folder = tmp_path_factory.mktemp("secrets")
        with Deployment(
            folder,
            hold_seconds="60", verify_seconds="30", allow_http="1", egress_allow="127.0.0.0/8", log_level="DEBUG",
            operator_key=OPERATOR_KEY,
            notify_url=f"http://127.0.0.1:{free_port()}/{SENTINEL}", notify_secret=NOTIFY_SECRET,
            **settings_at(server.url),
        ) as running:  # fmt: skip
            yield running


@contextlib.contextmanager
def events_of(celery: Celery) -> Iterator[list[Any]]:
    """Every event that the workers send while the block lasts."""
    events: list[Any] = []
    celery.control.enable_events()
    with celery.connection() as connection:
        receiver = celery.events.Receiver(connection, handlers={"*": events.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        thread.start()
        try:
            until(lambda: events, "the worker's heartbeat is heard")
            yield events
        finally:
            receiver.should_stop = True
            thread.join(30)
        assert not thread.is_alive()


def test_no_secret_is_found_anywhere(deployment: Deployment) -> None:
    api = deployment.client()
    celery = Celery(broker=deployment.redis_url)
    seen: list[str] = []
    with events_of(celery) as events:
        with html() as server:
            for body in planted(server.url):
                for enabled in (False, True):
                    answer = api.create({**body, "enabled": enabled})
                    assert answer.status == (400 if enabled else 200), answer.text
                    seen.append(answer.text)
                seen.append(api.verify(body).text)
                bad = [{**body, field: [value]} for field, value in body.items()]
                seen += [api.create(each).text for each in (*bad, {**body, "unknown": "x"})]
        seen += [api.list(page=page).text for page in ("1", "2")]
        ids = [destination["id"] for destination in api.list().json["destinations"]]
        seen += [api.call("GET", f"/destinations/{each}").text for each in ids]
        seen += [api.verify(destination=each).text for each in ids]
        seen.append(api.call("GET", "/leftovers").text)
        seen += inspected_while_at_work(deployment, api, celery)
        seen += shown_of_jobs(api) + shown_of_jobs(Api(deployment.url, OPERATOR_KEY))
        until(lambda: any(event["type"] == "task-succeeded" for event in events), "events of tasks are heard")
    seen.append(repr(events))
    celery.close()

    assert not [text for text in seen if found(text)]
    assert deployment.api.events("notification refused")
    files = [path for path in deployment.folder.rglob("*") if path.is_file()]
    assert {"dropoff.db", "dump.rdb", "api.log", "worker.log"} <= {path.name for path in files}
    assert not [path for path in files if found(path.read_bytes())]


def inspected_while_at_work(deployment: Deployment, api: Api, celery: Celery) -> list[str]:
    """All that Celery and Redis show of a job under way, and its answer."""
    with gated(PAGE) as store, ThreadPoolExecutor(1) as threads:
        held = threads.submit(api.create, planted(store.url)[1])
        until(lambda: store.connections, "the store is called")
        with Redis.from_url(deployment.redis_url) as redis:
            redis.save()
            # With the sealed replies of those before.
            assert redis.keys(claim_key("*"))
        # One answer is waited for, which is there at once.
        inspect = celery.control.inspect(timeout=30, limit=1)
        shown = [inspect.active(), inspect.reserved(), inspect.scheduled(), inspect.stats(), inspect.conf()]
        assert "dropoff.verify" in repr(shown[0])
        store.gate.set()
        return [repr(shown), held.result().text]


def shown_of_jobs(api: Api) -> list[str]:
    """All that is shown of jobs: in a list, one by one, and as they went."""
    jobs = until(
        lambda: (found := api.call("GET", "/jobs").json["jobs"]) and found[0]["state"] == "failed" and found, "the end"
    )
    # A create, a verification and one more of what is there, for each; and the one that was inspected.
    assert len(jobs) == 3 * len(planted("")) + 1
    with api.stream(after="0") as events:
        told = list(itertools.islice((event for event in events if event.get("event") == "job"), 4 * len(jobs)))
    return [repr(jobs), repr(told), *(api.call("GET", f"/jobs/{job['id']}").text for job in jobs)]


def test_the_search_itself_would_find_one() -> None:
    """The needles are found in what a customer sends: a search that finds nothing ever proves nothing."""
    for body in planted("http://127.0.0.1"):
        assert found(json.dumps(body))
