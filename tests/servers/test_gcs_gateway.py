"""The stand-in for Google Cloud Storage refuses what Google refuses: else nothing it lets through proves anything."""

import base64
import hashlib
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcloud.aio.auth import Token
from gcloud.aio.storage import SCOPES, Storage
from yarl import URL

from tests.servers.gcs import CREATE, DELETE, EVERYTHING, GRANT_TYPE, LIST, Account, Bucket, GcsServer

BODY = b"hello from a test\n"
TIME = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsServer]:
    buckets = {"inbox": Bucket(), "other": Bucket(), "kept": Bucket(retention=True), "history": Bucket(versioning=True)}
    accounts = {
        "owner": Account(dict.fromkeys(buckets, EVERYTHING)),
        "writer": Account({"inbox": (CREATE, LIST)}),
        "reader": Account({"inbox": (LIST,)}),
        "gone": Account({"inbox": EVERYTHING}, disabled=True),
    }
    with GcsServer(buckets, accounts) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def assertion(gcs: GcsServer, account: str = "owner", *, private_key: str = "", **claims: object) -> str:
    """What a client signs to ask for a token; `claims` replace those that a correct one makes."""
    key = gcs.service_account_key(account)
    now = int(time.time())
    correct = {
        "iss": key["client_email"],
        "scope": SCOPES[0],
        "aud": gcs.token_url,
        "iat": now,
        "exp": now + 3600,
    }
    return jwt.encode({**correct, **claims}, private_key or key["private_key"], algorithm="RS256")


async def ask(
    http: aiohttp.ClientSession, gcs: GcsServer, signed: str, grant_type: str = GRANT_TYPE
) -> tuple[int, dict[str, Any]]:
    async with http.post(gcs.token_url, data={"grant_type": grant_type, "assertion": signed}) as answer:
        return answer.status, await answer.json()


async def bearer(http: aiohttp.ClientSession, gcs: GcsServer, account: str = "owner") -> dict[str, str]:
    status, answer = await ask(http, gcs, assertion(gcs, account))
    assert status == 200
    return {"Authorization": f"Bearer {answer['access_token']}"}


async def call(
    http: aiohttp.ClientSession,
    gcs: GcsServer,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes | None = None,
) -> tuple[int, dict[str, Any]]:
    async with http.request(method, gcs.url + path, headers=headers, data=body) as answer:
        assert answer.headers["x-guploader-uploadid"]
        raw = await answer.read()
        return answer.status, json.loads(raw) if raw else {}


def upload_to(bucket: str, name: str) -> str:
    return f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"


def storage(gcs: GcsServer, http: aiohttp.ClientSession, account: str = "owner") -> Storage:
    key = {**gcs.service_account_key(account), "token_uri": gcs.token_url}
    token = Token(service_file=io.StringIO(json.dumps(key)), session=http, scopes=SCOPES)
    return Storage(session=http, token=token, api_root=gcs.url, api_is_dev=False)


async def test_gcloud_aio_puts_and_deletes_an_object_and_its_neighbour_stays(
    gcs: GcsServer, http: aiohttp.ClientSession
) -> None:
    client = storage(gcs, http)
    await client.upload("other", "a/neighbour.txt", BODY)
    stored = await client.upload("other", "a/b c+ü.txt", BODY, content_type="text/plain")
    assert gcs.objects("other") == ["a/b c+ü.txt", "a/neighbour.txt"]
    assert stored["md5Hash"] == base64.b64encode(hashlib.md5(BODY).digest()).decode()
    assert stored["etag"]
    assert await client.delete("other", "a/b c+ü.txt", params={"generation": stored["generation"]}) == ""
    assert gcs.objects("other") == ["a/neighbour.txt"]
    assert await client.download("other", "a/neighbour.txt") == BODY


async def test_a_delete_that_names_a_generation_removes_that_one_for_good_and_no_other(
    gcs: GcsServer, http: aiohttp.ClientSession
) -> None:
    client = storage(gcs, http)
    first = await client.upload("history", "file", b"one")
    second = await client.upload("history", "file", b"two")
    assert len(gcs.generations("history")) == 2
    await client.delete("history", "file", params={"generation": second["generation"]})
    assert gcs.generations("history") == [f"file#{first['generation']}"]
    third = await client.upload("history", "file", b"three")
    await client.delete("history", "file")
    assert gcs.generations("history") == [f"file#{first['generation']}", f"file#{third['generation']}"]
    assert gcs.objects("history") == []


async def test_a_generation_that_has_been_replaced_is_not_found(gcs: GcsServer, http: aiohttp.ClientSession) -> None:
    client = storage(gcs, http)
    old = await client.upload("inbox", "replaced", b"one")
    new = await client.upload("inbox", "replaced", b"two")
    headers = await bearer(http, gcs)
    path = f"/storage/v1/b/inbox/o/replaced?generation={old['generation']}"
    status, answer = await call(http, gcs, "DELETE", path, headers)
    assert (status, answer["error"]["message"]) == (404, "No such object: inbox/replaced")
    assert gcs.objects("inbox") == ["replaced"]
    await client.delete("inbox", "replaced", params={"generation": new["generation"]})


@pytest.mark.parametrize(
    ("account", "claims", "description"),
    [
        ("gone", {}, "Invalid grant: account not found"),
        ("owner", {"iss": "nobody@dropoff-tests.iam.gserviceaccount.com"}, "Invalid grant: account not found"),
        ("owner", {"aud": "https://oauth2.googleapis.com/token"}, "Invalid JWT: Failed audience check."),
        ("owner", {"iat": int(time.time()) - 7200, "exp": int(time.time()) - 3600}, TIME),
        ("owner", {"iat": int(time.time()) + 7200, "exp": int(time.time()) + 9000}, TIME),
        ("owner", {"exp": int(time.time()) + 7200}, TIME),
        ("owner", {"exp": "soon"}, TIME),
    ],
    ids=["disabled", "unknown", "audience", "expired", "not yet", "too long", "no time"],
)
async def test_an_assertion_that_google_would_not_take_is_an_invalid_grant(
    gcs: GcsServer, http: aiohttp.ClientSession, account: str, claims: dict[str, object], description: str
) -> None:
    status, answer = await ask(http, gcs, assertion(gcs, account, **claims))
    assert (status, answer["error"]) == (400, "invalid_grant")
    assert answer["error_description"].startswith(description)


async def test_the_key_of_another_is_an_invalid_signature(gcs: GcsServer, http: aiohttp.ClientSession) -> None:
    stranger = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pem in (stranger.decode(), gcs.service_account_key("writer")["private_key"]):
        status, answer = await ask(http, gcs, assertion(gcs, private_key=pem))
        assert status == 400
        assert answer == {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}


async def test_an_unsigned_assertion_or_none_at_all_is_no_grant(gcs: GcsServer, http: aiohttp.ClientSession) -> None:
    claims = jwt.decode(assertion(gcs), options={"verify_signature": False})
    unsigned = jwt.encode(claims, None, algorithm="none")
    assert (await ask(http, gcs, unsigned))[1]["error_description"] == "Invalid JWT Signature."
    assert (await ask(http, gcs, ""))[1]["error"] == "invalid_grant"
    assert (await ask(http, gcs, assertion(gcs), "password"))[1]["error"] == "unsupported_grant_type"


async def test_a_scope_that_is_not_storage_is_refused(gcs: GcsServer, http: aiohttp.ClientSession) -> None:
    scope = "https://www.googleapis.com/auth/drive"
    status, answer = await ask(http, gcs, assertion(gcs, scope=scope))
    assert (status, answer["error"]) == (400, "invalid_scope")


async def test_without_a_valid_token_fake_gcs_is_not_reached(gcs: GcsServer, http: aiohttp.ClientSession) -> None:
    path = upload_to("inbox", "smuggled")
    status, answer = await call(http, gcs, "POST", path, {}, BODY)
    error = answer["error"]
    assert (status, error["code"], error["errors"][0]["reason"]) == (401, 401, "required")
    assert error["message"].startswith("Anonymous caller does not have storage.objects.create access")
    token = (await bearer(http, gcs))["Authorization"]
    for header in ("Bearer made-up", "Bearer ", "Bearer", "", token.replace("Bearer", "Basic"), token + "x"):
        status, answer = await call(http, gcs, "POST", path, {"Authorization": header}, BODY)
        assert (status, answer["error"]["message"]) == (401, "Invalid Credentials")
        assert answer["error"]["errors"][0]["reason"] == "authError"
    assert "smuggled" not in gcs.storage_log
    assert gcs.log.count("smuggled 401") == 7


async def test_a_token_expires() -> None:
    with GcsServer({"inbox": Bucket()}, {"owner": Account({"inbox": EVERYTHING})}, token_seconds=0) as server:
        async with aiohttp.ClientSession() as http:
            status, _ = await call(http, server, "GET", "/storage/v1/b/inbox/o", await bearer(http, server))
    assert status == 401


async def test_a_permission_is_needed_on_the_very_bucket(gcs: GcsServer, http: aiohttp.ClientSession) -> None:
    writer, reader = await bearer(http, gcs, "writer"), await bearer(http, gcs, "reader")
    refused = [
        (CREATE, await call(http, gcs, "POST", upload_to("inbox", "f"), reader, BODY), "reader"),
        (CREATE, await call(http, gcs, "POST", upload_to("other", "f"), writer, BODY), "writer"),
        (DELETE, await call(http, gcs, "DELETE", "/storage/v1/b/inbox/o/f", reader), "reader"),
        (LIST, await call(http, gcs, "GET", "/storage/v1/b/other/o", reader), "reader"),
    ]
    for permission, (status, answer), account in refused:
        error = answer["error"]
        assert (status, error["code"], error["errors"][0]["reason"]) == (403, 403, "forbidden")
        assert error["message"].startswith(f"{gcs.email(account)} does not have {permission} access to the Google")
    assert "f" not in gcs.objects("inbox")


async def test_a_write_only_account_writes_once_and_can_neither_replace_nor_delete(
    gcs: GcsServer, http: aiohttp.ClientSession
) -> None:
    writer = await bearer(http, gcs, "writer")
    assert (await call(http, gcs, "POST", upload_to("inbox", "once"), writer, BODY))[0] == 200
    for method, path in (("POST", upload_to("inbox", "once")), ("DELETE", "/storage/v1/b/inbox/o/once")):
        status, answer = await call(http, gcs, method, path, writer, b"other" if method == "POST" else None)
        assert status == 403
        assert "does not have storage.objects.delete access" in answer["error"]["message"]
    assert await storage(gcs, http).download("inbox", "once") == BODY
    await storage(gcs, http).delete("inbox", "once")


async def test_a_missing_bucket_and_a_missing_object_are_told_apart(
    gcs: GcsServer, http: aiohttp.ClientSession
) -> None:
    owner = await bearer(http, gcs)
    for method, path in (("POST", upload_to("nowhere", "f")), ("DELETE", "/storage/v1/b/nowhere/o/f")):
        status, answer = await call(http, gcs, method, path, owner, BODY if method == "POST" else None)
        message = "The specified bucket does not exist."
        detail = {"message": message, "domain": "global", "reason": "notFound"}
        assert (status, answer) == (404, {"error": {"code": 404, "message": message, "errors": [detail]}})
    for method in ("GET", "DELETE"):
        status, answer = await call(http, gcs, method, "/storage/v1/b/inbox/o/no%2Fsuch", owner)
        assert (status, answer["error"]["message"]) == (404, "No such object: inbox/no/such")


async def test_a_retained_object_can_be_neither_deleted_nor_replaced(
    gcs: GcsServer, http: aiohttp.ClientSession
) -> None:
    owner = await bearer(http, gcs)
    assert (await call(http, gcs, "POST", upload_to("kept", "f"), owner, BODY))[0] == 200
    for method, path in (("POST", upload_to("kept", "f")), ("DELETE", "/storage/v1/b/kept/o/f")):
        status, answer = await call(http, gcs, method, path, owner, BODY if method == "POST" else None)
        assert (status, answer["error"]["errors"][0]["reason"]) == (403, "retentionPolicyNotMet")
        assert "is subject to bucket's retention policy" in answer["error"]["message"]
    assert gcs.objects("kept") == ["f"]


async def test_a_body_that_is_not_what_its_md5_says_is_refused(gcs: GcsServer, http: aiohttp.ClientSession) -> None:
    digest = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    headers = {**await bearer(http, gcs), "Content-MD5": digest}
    status, answer = await call(http, gcs, "POST", upload_to("inbox", "torn"), headers, BODY[:-1])
    assert (status, answer["error"]["errors"][0]["reason"]) == (400, "invalid")
    assert gcs.objects("inbox") == []
    assert (await call(http, gcs, "POST", upload_to("inbox", "torn"), headers, BODY))[0] == 200
    await storage(gcs, http).delete("inbox", "torn")


async def test_everything_else_reaches_the_xml_server_as_it_was_sent(http: aiohttp.ClientSession) -> None:
    seen: list[tuple[str, str, str, bytes]] = []

    async def xml_api(request: web.Request) -> web.Response:
        headers = request.headers
        seen.append(
            (request.method, request.raw_path, f"{headers['Host']} {headers['Authorization']}", await request.read())
        )
        if request.method == "HEAD":
            return web.Response(headers={"ETag": '"e"', "Content-Length": "17"})
        return web.Response(status=403, text="<Error/>", headers={"ETag": '"e"'}, content_type="application/xml")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", xml_api)
    runner = web.AppRunner(app, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        with GcsServer({}, {}, xml_upstream=upstream) as server:
            headers = {
                "Host": "storage.googleapis.com",
                "Authorization": "AWS4-HMAC-SHA256 x",
                "Content-Encoding": "gzip",
            }
            url = URL(f"{server.url}/inbox/a%2Fb%20c%2B?x-id=Put&uploads", encoded=True)
            async with http.put(url, headers=headers, data=BODY) as answer:
                assert (answer.status, answer.headers["ETag"], await answer.text()) == (403, '"e"', "<Error/>")
            async with http.head(url, headers=headers) as answer:
                assert (answer.status, answer.headers["Content-Length"]) == (200, "17")
    finally:
        await runner.cleanup()
    host = "storage.googleapis.com AWS4-HMAC-SHA256 x"
    assert seen == [
        ("PUT", "/inbox/a%2Fb%20c%2B?x-id=Put&uploads", host, BODY),
        ("HEAD", "/inbox/a%2Fb%20c%2B?x-id=Put&uploads", host, b""),
    ]


def test_nothing_is_left_running_or_lying_about_when_a_test_fails() -> None:
    server = GcsServer({"inbox": Bucket()}, {})
    addresses = [("127.0.0.1", urlsplit(url).port) for url in (server.url, server.storage_url)]

    def fail() -> None:
        with server:
            for address in addresses:
                socket.create_connection(address).close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for address in addresses:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    assert not server.folder.exists()


def test_fake_gcs_does_not_outlive_a_gateway_that_was_killed() -> None:
    with GcsServer({"inbox": Bucket()}, {}) as server:
        server.kill()
        assert server.objects("inbox") == []
    with pytest.raises(ConnectionRefusedError):
        server.objects("inbox")


def test_no_secret_is_in_the_logs(gcs: GcsServer) -> None:
    key = gcs.service_account_key("owner")["private_key"].splitlines()[1]
    for secret in (key, "ya29.", "eyJ"):
        assert secret not in gcs.log + gcs.storage_log
