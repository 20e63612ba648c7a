"""Turns DROPOFF_REDIS_URL into clients: the asyncio one of both processes, and the pools of the worker's queue."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as BlockingRetry

from app.messages.gathering import GatheringRedis

# A Redis that is frozen or cut off must fail a call before a client's patience ends.
CALL_SOCKET_SECONDS = 1.5
CONNECT_SECONDS = 1.0
POOL_WAIT_SECONDS = 3.0
"""How long a call waits for one of the pool's connections to be free."""
POOL_CONNECTIONS = 100

REDIS_PORT = 6379
SENTINEL_PORT = 26379
SCHEMES = ("redis", "rediss", "unix", "sentinel", "sentinels")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
_SENTINEL_OPTIONS = ("master", "sentinel_user", "sentinel_password")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[^\s:,\[\]]+)(:(?P<port>\d{1,5}))?")


class BadRedisUrl(ValueError):
    """The message says in one line what is wrong with DROPOFF_REDIS_URL, and repeats no part of it that is secret."""

    def __init__(self, fault: str) -> None:
        super().__init__(f"DROPOFF_REDIS_URL {fault}")


class ClusterMode(Exception):
    """The Redis runs in cluster mode."""

    def __init__(self) -> None:
        super().__init__(
            "DROPOFF_REDIS_URL names a Redis in cluster mode, which Dropoff does not use: give it one without "
            "cluster mode, alone or behind Sentinel"
        )


@dataclass(frozen=True)
class Address:
    """Where Redis is, and as whom we connect. With `master`, `hosts` are the Sentinels that know where it is."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, str] = field(default_factory=dict)
    master: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The address without user and password, for logs and tools."""
        authority = self.path or ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        return f"{self.scheme}://{authority}/{self.database}"

    @property
    def verified_tls(self) -> bool:
        """Whether connections are by TLS, which is always verified."""
        return self.scheme in ("rediss", "sentinels")

    def connect(
        self,
        *,
        seconds: float = CALL_SOCKET_SECONDS,
        connect_seconds: float = CONNECT_SECONDS,
        wait_seconds: float = POOL_WAIT_SECONDS,
        connections: int = POOL_CONNECTIONS,
        retry: Retry | None = None,
        decode: bool = True,
        gather: bool = False,
    ) -> "redis.asyncio.Redis":
        """An asyncio client, not connected yet, which is closed by its `aclose`.

        A call fails within twice `seconds`: one that gets no answer is made again, once, on a new connection, whether
        or not Redis has carried it out; `retry` says otherwise. So a command must bear to be carried out twice, and
        what is popped may be lost. Where all `connections` are in use, a call waits up to `wait_seconds` for one. What
        is read is text, or bytes where it is not to be decoded. One that is to `gather` sends the commands of one turn
        of the loop together.
        """
        options: dict[str, Any] = {
            **self._options(seconds, connect_seconds),
            "retry": retry or Retry(NoBackoff(), 1),
            "decode_responses": decode,
            "max_connections": connections,
            "timeout": wait_seconds,
        }
        if self.master:
            manager = redis.asyncio.sentinel.Sentinel(
                self.hosts, sentinel_kwargs=self._sentinel(seconds, connect_seconds)
            )
            pool: redis.asyncio.BlockingConnectionPool = WaitingSentinelPool(
                self.master, manager, ssl=self.verified_tls, **options
            )
        else:
            classes = {
                "redis": redis.asyncio.Connection,
                "rediss": redis.asyncio.SSLConnection,
                "unix": redis.asyncio.UnixDomainSocketConnection,
            }
            pool = redis.asyncio.BlockingConnectionPool(connection_class=classes[self.scheme], **options)
        return (GatheringRedis if gather else redis.asyncio.Redis).from_pool(pool)

    def blocking_pool(self, *, seconds: float, connect_seconds: float = CONNECT_SECONDS) -> redis.ConnectionPool:
        """Connections of the same kind for blocking calls, none of which is made again."""
        options = {**self._options(seconds, connect_seconds), "retry": BlockingRetry(NoBackoff(), 0)}
        if self.master:
            manager = redis.sentinel.Sentinel(self.hosts, sentinel_kwargs=self._sentinel(seconds, connect_seconds))
            return redis.sentinel.SentinelConnectionPool(self.master, manager, ssl=self.verified_tls, **options)
        classes = {
            "redis": redis.Connection,
            "rediss": redis.SSLConnection,
            "unix": redis.UnixDomainSocketConnection,
        }
        return redis.ConnectionPool(connection_class=classes[self.scheme], **options)

    def _options(self, seconds: float, connect_seconds: float) -> dict[str, Any]:
        """What every connection to Redis itself is made with."""
        options: dict[str, Any] = {
            "db": self.database,
            "username": self.username,
            "password": self.password,
            "socket_timeout": seconds,
            **self._verification(),
        }
        if self.path:
            return {**options, "path": self.path}
        options["socket_connect_timeout"] = connect_seconds
        if not self.master:
            options["host"], options["port"] = self.hosts[0]
        return options

    def _sentinel(self, seconds: float, connect_seconds: float) -> dict[str, Any]:
        """What every connection to a Sentinel is made with."""
        return {
            "username": self.sentinel_username,
            "password": self.sentinel_password,
            "socket_timeout": seconds,
            "socket_connect_timeout": connect_seconds,
            **({"ssl": True} if self.verified_tls else {}),
            **self._verification(),
        }

    def _verification(self) -> dict[str, Any]:
        """The certificate is verified, and so is that it is one of the host we asked for: no option changes that."""
        return {**self.tls, "ssl_cert_reqs": "required", "ssl_check_hostname": True} if self.verified_tls else {}


class WaitingSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Connections to the master that Sentinel names; who finds all in use waits, as in the pool without Sentinel."""

    def __init__(self, master: str, manager: "redis.asyncio.sentinel.Sentinel", **options: Any) -> None:
        super().__init__(master, manager, **options)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Close these connections, and those to the Sentinels."""
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


def parse_redis_url(url: str) -> Address:
    """The address that `url` says, in one of these spellings:

    redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// likewise for TLS, unix://[USER:PASSWORD@]/PATH[?db=N],
    sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT],...[/DATABASE]?master=NAME[&sentinel_user=…&sentinel_password=…],
    and sentinels:// for TLS to the Sentinels and to Redis. Options of TLS are ssl_ca_certs, ssl_certfile and
    ssl_keyfile, each a file. Raises BadRedisUrl.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadRedisUrl("is no URL") from None
    if parts.scheme not in SCHEMES:
        raise BadRedisUrl(f"must begin with one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if parts.fragment:
        raise BadRedisUrl("has a # in it, which stands as %23 in a user or password")
    credentials, _, authority = parts.netloc.rpartition("@")
    options = _options_of(parts)
    username, _, password = credentials.partition(":")
    path = unquote(parts.path) if parts.scheme == "unix" else ""
    if parts.scheme == "unix" and (authority or len(path) < 2):
        raise BadRedisUrl("must name a socket's path, as in unix:///run/redis.sock")
    sentinel = parts.scheme.startswith("sentinel")
    if sentinel and not options.get("master"):
        raise BadRedisUrl("must name the master that the Sentinels watch, as in ?master=NAME")
    return Address(
        scheme=parts.scheme,
        hosts=() if path else _hosts(authority, SENTINEL_PORT if sentinel else REDIS_PORT, several=sentinel),
        path=path,
        database=_database(options.get("db", "") if path else parts.path.removeprefix("/")),
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls={name: value for name, value in options.items() if name in _TLS_OPTIONS and name != "ssl_cert_reqs"},
        master=options.get("master", ""),
        sentinel_username=options.get("sentinel_user"),
        sentinel_password=options.get("sentinel_password"),
    )


def _options_of(parts: SplitResult) -> dict[str, str]:
    """The options after the question mark, each of which the scheme must know."""
    known = {"unix": ("db",), "rediss": _TLS_OPTIONS, "sentinel": _SENTINEL_OPTIONS}.get(parts.scheme, ())
    if parts.scheme == "sentinels":
        known = (*_SENTINEL_OPTIONS, *_TLS_OPTIONS)
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(given)
    if len(options) < len(given):
        raise BadRedisUrl("has an option twice")
    for name in options:
        if name in _TLS_OPTIONS and name not in known:
            raise BadRedisUrl(f"has the option {name}, which is for rediss:// and sentinels://")
        if name not in known:
            # What stands there may be a piece of a password with a ? in it.
            raise BadRedisUrl(
                f"has an option that {parts.scheme}:// does not know; it knows {', '.join(known) or 'none'}"
            )
    if options.get("ssl_cert_reqs", "required") != "required":
        raise BadRedisUrl(
            "may not weaken how the server's certificate is verified: leave ssl_cert_reqs out, or write "
            "ssl_cert_reqs=required"
        )
    _readable(options)
    return options


def _readable(options: Mapping[str, str]) -> None:
    """Certificates that cannot be read are better told at start than at each connection."""
    # With no certificates of its own: to read all that the machine trusts takes its time.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca := options.get("ssl_ca_certs"):
            context.load_verify_locations(cafile=ca)
    except (OSError, ValueError):
        raise BadRedisUrl("names a file in ssl_ca_certs that cannot be read as PEM certificates") from None
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if not certificate and not key:
        return
    try:
        context.load_cert_chain(certificate or "", key)
    except (OSError, ValueError):
        raise BadRedisUrl("names files in ssl_certfile and ssl_keyfile that cannot be read as PEM") from None


def _hosts(authority: str, port: int, *, several: bool) -> tuple[tuple[str, int], ...]:
    given = authority.split(",") if several else [authority]
    found = [_HOST.fullmatch(host) for host in given]
    hosts = tuple((host["name"].strip("[]"), int(host["port"] or port)) for host in found if host)
    if len(hosts) < len(given) or not all(0 < port < 65536 for _, port in hosts):
        # One reason is a password in which a / or an @ was not escaped: none of it is repeated.
        raise BadRedisUrl(
            "must name a HOST or HOST:PORT"
            + (" or several, with commas between them" if several else "")
            + "; in a user or password, / stands as %2F, @ as %40, : as %3A, ? as %3F"
        )
    return hosts


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise BadRedisUrl("must end in the number of a database, as in /0, or in none")
    return int(text or 0)


def connect(
    url: str, *, seconds: float = CALL_SOCKET_SECONDS, retry: Retry | None = None, decode: bool = True
) -> "redis.asyncio.Redis":
    """An asyncio client of the Redis at `url`, as `Address.connect` says. Raises BadRedisUrl."""
    return parse_redis_url(url).connect(seconds=seconds, retry=retry, decode=decode)


async def refuse_cluster(client: "redis.asyncio.Redis") -> None:
    """Raise ClusterMode where Redis says that it runs so. One that does not answer, or does not tell, passes."""
    try:
        told: Mapping[str, Any] = await client.info("cluster")
    except (RedisError, OSError):
        return
    if told.get("cluster_enabled"):
        raise ClusterMode
