"""The envelope of a job: what Celery would write, and nothing else is read."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from app.messages.broker import MAX_BYTES, VERSION, Message, NotOurs, envelope, opened, publish
from app.messages.keys import QUEUE, TASK
from tests.stack import patient, redis_server

JOB = "0d9a4a3e-6f0c-4a8e-9d3a-7a2f0a7a9b10"
OURS_ALONE = {"published", "version"}


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with redis_server(tmp_path_factory.mktemp("broker")) as url:
        yield url


def shape(content: Any) -> Any:
    """The names and types of `content`, without its values."""
    if isinstance(content, dict):
        return {name: shape(value) for name, value in content.items()}
    return [shape(each) for each in content] if isinstance(content, list) else type(content)


def body_of(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


async def test_the_envelope_is_what_celery_itself_puts_on_the_queue(redis_url: str) -> None:
    celery = Celery(broker=redis_url, set_as_current=False)
    celery.send_task(TASK, args=("sealed",), task_id=JOB, queue=QUEUE, argsrepr="(sealed)", kwargsrepr="{}")
    celery.close()
    with Redis.from_url(redis_url) as client:
        theirs = json.loads(client.rpop(QUEUE))
        async with patient(redis_url) as publishing:
            await publish(publishing, JOB, "sealed", 1000.5)
        raw = client.rpop(QUEUE)
        assert client.keys() == [b"_kombu.binding.dropoff", b"_kombu.binding_permanent.dropoff"]
    ours = json.loads(raw)
    assert ours["headers"].keys() - theirs["headers"].keys() == OURS_ALONE
    for name in OURS_ALONE:
        del ours["headers"][name]
    assert shape(ours) == shape(theirs)
    assert body_of(ours) == body_of(theirs)
    for name in ("content-encoding", "content-type"):
        assert ours[name] == theirs[name]
    different = {"origin"}
    assert {k: v for k, v in ours["headers"].items() if k not in different} == {
        k: v for k, v in theirs["headers"].items() if k not in different
    }
    different = {"delivery_tag", "reply_to"}
    assert {k: v for k, v in ours["properties"].items() if k not in different} == {
        k: v for k, v in theirs["properties"].items() if k not in different
    }
    assert opened(raw) == Message(JOB, "sealed", 1000.5)


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    message = json.loads(envelope(JOB, "sealed", 1000.5))
    change(message)
    return json.dumps(message).encode()


def with_body(body: str) -> bytes:
    return changed(lambda m: m.update(body=base64.b64encode(body.encode()).decode()))


STRANGE = {
    "nothing": b"",
    "text": b"hello",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "another shape": b'{"hello": "world"}',
    "nested just deeper than is read": b"[" * 2000 + b"]" * 2000,
    "one byte too many": envelope(JOB, "s", 1.0).encode().ljust(MAX_BYTES + 1),
    "another content type": changed(lambda m: m.update({"content-type": "application/x-strange"})),
    "another encoding": changed(lambda m: m.update({"content-encoding": "binary"})),
    "another task": changed(lambda m: m["headers"].update(task="somebody.elses")),
    "the next version": changed(lambda m: m["headers"].update(version=VERSION + 1)),
    "no version": changed(lambda m: m["headers"].pop("version")),
    "a truth for a version": changed(lambda m: m["headers"].update(version=True)),
    "no time": changed(lambda m: m["headers"].pop("published")),
    "a word for a time": changed(lambda m: m["headers"].update(published="now")),
    "no number for a time": changed(lambda m: m["headers"].update(published=float("nan"))),
    "a number too large for a time": changed(lambda m: m["headers"].update(published=10**400)),
    "no id": changed(lambda m: m["headers"].update(id="")),
    "an id that is none": changed(lambda m: m["headers"].update(id="../another")),
    "a number for an id": changed(lambda m: m["headers"].update(id=7)),
    "no properties": changed(lambda m: m.update(properties=None)),
    "a body that is not base64": changed(lambda m: m.update(body="?")),
    "a body that is no JSON": with_body("hello"),
    "no argument": with_body("[[], {}, {}]"),
    "two arguments": with_body('[["a", "b"], {}, {}]'),
    "a number for an argument": with_body("[[1], {}, {}]"),
    "an empty argument": with_body('[[""], {}, {}]'),
    "a named argument": with_body('[["a"], {"b": 1}, {}]'),
}


@pytest.mark.parametrize("raw", STRANGE.values(), ids=STRANGE)
def test_what_we_would_not_have_written_is_not_read(raw: bytes) -> None:
    with pytest.raises(NotOurs) as refused:
        opened(raw)
    assert "somebody" not in str(refused.value)


def test_the_largest_message_is_read() -> None:
    raw = envelope(JOB, "s", 1.0).encode().ljust(MAX_BYTES)
    assert opened(raw).sealed == "s"
