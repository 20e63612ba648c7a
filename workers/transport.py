"""The worker's way to the queue: kombu's Redis transport, so that nothing Redis says or holds ends a worker."""

import base64
import json
import time
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import redis
import structlog
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import RedisError

from app.messages.broker import NotOurs, opened
from app.messages.connections import Address
from app.messages.keys import QUEUE, TASKS
from app.observe import metrics

log = structlog.get_logger()

# One that waits for a message hears of Redis each second; a call that is answered later has failed.
SOCKET_SECONDS = 2.0
BATCH = 16
"""Messages that are taken off the queue at once: each round trip costs as much as what is done for one of them."""

CONTROL_MAX_BYTES = 64 * 1024
REPLY_EXCHANGE = "reply.celery.pidbox"
CONTROL_COMMANDS = frozenset({
    "active", "active_queues", "clock", "conf", "disable_events", "enable_events", "heartbeat", "ping", "query_task",
    "registered", "report", "reserved", "revoked", "scheduled", "stats",
})  # fmt: skip
"""What a worker does by remote control: it tells of itself, and sends events. Nothing of it ends or stops a worker."""


class QoS(virtual.QoS):
    """Deliveries are kept in memory alone and never put back: the process that waits for a job hands it in again."""

    restore_at_shutdown = False

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self.ack(delivery_tag)


class Channel(kombu_redis.Channel):
    """One that reads our messages only, and keeps nothing on Redis beside the queue."""

    ack_emulation = False
    do_restore = False
    priority_steps: ClassVar[list[int]] = [0]
    keyprefix_fanout: str = kombu_redis.Channel.keyprefix_fanout

    def __init__(self, connection: "Transport", **options: Any) -> None:
        super().__init__(connection, **options)
        self.QoS = QoS

    def _get_pool(self, asynchronous: bool = False) -> redis.ConnectionPool:
        address: Address = self.connection.address
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=address.database)
        pool = address.blocking_pool(seconds=SOCKET_SECONDS)
        if asynchronous:
            pool.connection_class = _watched(pool.connection_class, self)
        return pool

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for the messages that came first: as many as there is room for, and BATCH at most."""
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        count = max(1, min(BATCH, self.connection.room()))
        wait = self.brpop_timeout if timeout is None else timeout
        self.client.connection.send_command("BLMPOP", wait, 1, self.connection.queue, "RIGHT", "COUNT", count)

    def _brpop_read(self, **_: Any) -> bool:
        """Deliver the messages that came, if they are ours. Raises Empty where none came, and what one of them broke at
        when the others are delivered: Redis has them no more."""
        try:
            answer = self.client.parse_response(self.client.connection, "BLMPOP")
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = None
        if not answer:
            raise kombu_redis.Empty
        queue, broken = self.connection.queue, []
        for raw in answer[1]:
            try:
                self.connection._deliver(_payload(raw, queue), queue)
            except NotOurs as reason:
                _refuse("queue", str(reason))
            except Exception as error:  # noqa: BLE001 -- it is raised when nothing can be lost by it
                broken.append(error)
        if broken:
            raise broken[0]
        return True

    def _handle_message(self, client: Any, response: Any) -> dict[str, Any]:
        """What came by remote control, emptied where it is nothing that a worker does."""
        payload: dict[str, Any] = super()._handle_message(client, response)
        if bytes_to_str(payload["type"]).endswith("message"):
            try:
                payload["data"] = _control(payload["data"])
            except NotOurs as reason:
                _refuse("control", str(reason))
                payload["data"] = None
        return payload

    def basic_cancel(self, consumer_tag: str) -> Any:
        """Read no more; what Redis has been asked for, and may have taken off the queue already, is delivered first."""
        if self._in_poll and not self._closing:
            try:
                self._brpop_read()
            except (kombu_redis.Empty, *Transport.connection_errors) as error:
                log.debug("nothing came before the end", error=type(error).__name__)
        return super().basic_cancel(consumer_tag)

    def close(self) -> None:
        """Let go of the connections. Raises nothing: they may be gone, and this may be called again."""
        # Of a connection that is lost no answer is waited for; of one that is not, `basic_cancel` has had it.
        self._in_poll = None
        try:
            super().close()
        except (*Transport.connection_errors, AttributeError) as error:
            log.info("a channel was gone before it was closed", error=type(error).__name__)

    # The API process puts jobs on the queue by its name alone, and remote control is published to everybody: nobody
    # looks up a binding of ours, and a Redis that is full or read-only must not keep a worker from its queue.

    def _new_queue(self, queue: str, **_: Any) -> None:
        """A queue of ours expires by nothing."""

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if self.typeof(exchange).type == "fanout":
            self._fanout_queues[queue] = (exchange, (routing_key or "").replace("#", "*"))

    def _delete(self, queue: str, *_: Any, **__: Any) -> None:
        """There is nothing on Redis to delete."""

    def _size(self, queue: str) -> int:
        """Not asked for: it would be a call for each queue at each connection, for an answer that nobody reads."""
        return 0


class Transport(kombu_redis.Transport):
    """To `queue` on the Redis at `address`; whatever Redis refuses, or the network does, is a lost connection.

    kombu makes it by its name and gives it a URL that only says where Redis is: the address, the queue, and `room`, for
    how many more messages there is any, of which a process has one each, are set before it connects.
    """

    Channel = Channel
    address: ClassVar[Address]
    queue: ClassVar[str] = QUEUE
    room: ClassVar[Callable[[], int]]
    can_parse_url = True
    connection_errors = (*kombu_redis.Transport.connection_errors, RedisError)

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """What Celery shows of the connection."""
        return self.address.shown


def _watched(connection_class: type[redis.Connection], channel: Channel) -> type[redis.Connection]:
    """A connection of which `channel` is told when it is closed, so that nobody waits for it."""

    class Watched(connection_class):  # type: ignore[valid-type,misc]
        def disconnect(self, *args: Any, **options: Any) -> None:
            super().disconnect(*args, **options)
            if channel._registered:
                channel._on_connection_disconnect(self)

    return Watched


def _refuse(source: str, reason: str) -> None:
    metrics.MESSAGES_REFUSED.labels(source).inc()
    log.warning("message refused", source=source, reason=reason)


def _payload(raw: bytes, queue: str) -> dict[str, Any]:
    """A message for Celery, made anew of what ours carries, so that nothing else of it gets any further."""
    message = opened(raw, queue)
    return {
        "body": json.dumps([[message.sealed], {}, {}]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "task": TASKS[queue],
            "id": message.id,
            "root_id": message.id,
            "argsrepr": "(sealed)",
            "kwargsrepr": "{}",
        },
        "properties": {
            "correlation_id": message.id,
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }


def _control(raw: bytes | None) -> str:
    """A message of remote control, made anew of a command that a worker does. Raises NotOurs."""
    if raw is None or len(raw) > CONTROL_MAX_BYTES:
        raise NotOurs("it is too large")
    try:
        sent = json.loads(raw.decode())
        body = sent["body"]
        if sent["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body, validate=True).decode()
        command = _command(json.loads(body))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise NotOurs("it is not in the form of a command") from None
    return json.dumps({
        "body": json.dumps(command),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {"delivery_tag": str(uuid.uuid4()), "delivery_info": {}},
    })  # fmt: skip


def _command(said: dict[str, Any]) -> dict[str, Any]:
    method, arguments, destination = said["method"], said.get("arguments") or {}, said.get("destination")
    reply_to = said.get("reply_to")
    if method not in CONTROL_COMMANDS:
        raise NotOurs("it is a command that a worker does not do")
    if said.get("pattern") or said.get("matcher"):
        raise NotOurs("it names workers by a pattern")
    if not isinstance(arguments, dict) or not isinstance(destination, list | None):
        raise NotOurs("it is not in the form of a command")
    command = {"method": method, "arguments": arguments, "destination": destination}
    if reply_to:
        if reply_to["exchange"] != REPLY_EXCHANGE:
            raise NotOurs("it wants its reply elsewhere")
        answer = {"exchange": REPLY_EXCHANGE, "routing_key": str(reply_to["routing_key"])}
        command |= {"reply_to": answer, "ticket": str(said["ticket"])}
    return command
