"""What goes over the wire, as a server over TLS sees it: whose signature, which headers, how many requests."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from tests.faults.verifying import BODIES, WITHIN, providers, spec_of
from tests.servers.odd import silent
from tests.types.every import STORAGES
from workers.verify import BODY, verify


@dataclass
class Recorder:
    """A server that takes everything, as every kind of store would say it, and keeps each request."""

    url: str
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        self.bodies.append(await request.read())
        if request.path == "/token":
            return web.json_response({"access_token": "ya29.token", "expires_in": 3600, "token_type": "Bearer"})
        if request.method == "HEAD":
            return web.Response(status=403, headers={"x-amz-bucket-region": "eu-west-1"})
        if request.method == "POST":
            return web.json_response({"etag": "CJ=", "generation": "17"})
        status = {"PUT": 201 if "x-ms-version" in request.headers else 200, "DELETE": 204}[request.method]
        if request.method == "DELETE" and "x-ms-version" in request.headers:
            status = 202
        return web.Response(status=status, headers={"ETag": '"e"', "x-amz-version-id": "v1"})

    def of(self, *methods: str) -> list[web.Request]:
        return [request for request in self.requests if request.method in methods and request.path != "/token"]


@contextlib.asynccontextmanager
async def recording(certificate: tuple[Path, Path]) -> AsyncIterator[Recorder]:
    recorder = Recorder("")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", recorder.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    recorder.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield recorder
    finally:
        await runner.cleanup()


@pytest.fixture
async def recorder(
    certificate: tuple[Path, Path], authority: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Recorder]:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with recording(certificate) as running:
        yield running


async def verified(recorder: Recorder, *names: str) -> None:
    """Each of BODIES named, one after another by the same worker, and each accepted."""
    async with providers(recorder.url) as provider_for:
        for name in names:
            spec = spec_of(name, recorder.url)
            report = await verify(await provider_for(spec), spec, "in/dropoff-verify-0.txt", timeout=WITHIN, job="job")
            assert report.ok, report


@pytest.mark.parametrize("name", BODIES)
async def test_an_upload_is_one_plain_request(recorder: Recorder, name: str) -> None:
    """Several stores refuse chunks, trailers and interim answers, and those with object lock demand an MD5."""
    await verified(recorder, name)
    (upload,) = recorder.of("PUT", "POST")
    assert recorder.bodies[recorder.requests.index(upload)] == BODY
    assert int(upload.headers["Content-Length"]) == len(BODY)
    assert upload.headers["Content-MD5"]
    assert upload.headers.get("x-ms-blob-content-type", upload.headers["Content-Type"]) == "text/plain"
    for request in recorder.requests:
        assert "Expect" not in request.headers
        assert "Transfer-Encoding" not in request.headers
        assert "Content-Encoding" not in request.headers
        assert not [header for header in request.headers if "checksum" in header.lower() or "trailer" in header.lower()]
        assert "STREAMING" not in request.headers.get("x-amz-content-sha256", "")
        assert not request.headers.get("Cookie")
    (delete, *more) = recorder.of("DELETE")
    assert len(more) <= 1, "Azure deletes the blob, and then its version"
    assert delete.raw_path.partition("?")[0].endswith(("in/dropoff-verify-0.txt", "in%2Fdropoff-verify-0.txt"))


# The recorder answers in Amazon's way, or in Google's.
@pytest.mark.parametrize("name", ["s3", "s3compatible", "gcs", "gcs by service account"])
async def test_the_version_that_was_written_is_deleted(recorder: Recorder, name: str) -> None:
    await verified(recorder, name)
    (delete,) = recorder.of("DELETE")
    assert STORAGES[name].version in delete.query_string


async def test_a_region_is_asked_for_once_and_unsigned(recorder: Recorder) -> None:
    await verified(recorder, "s3", "s3", "s3")
    (head,) = recorder.of("HEAD")
    assert "Authorization" not in head.headers
    assert all("/eu-west-1/s3/aws4_request" in upload.headers["Authorization"] for upload in recorder.of("PUT"))


def expected_signature(request: web.Request, key: str, secret: str) -> tuple[str, str]:
    """The signature on `request`, and the one that `key` and `secret` make of the same request."""
    fields = dict(part.strip().split("=", 1) for part in request.headers["Authorization"].split(" ", 1)[1].split(","))
    _, _, region, service, _ = fields["Credential"].split("/")
    signed = {name: request.headers[name] for name in fields["SignedHeaders"].split(";")}
    again = AWSRequest(request.method, str(URL(f"https://{request.host}{request.raw_path}", encoded=True)), signed)
    again.context["timestamp"] = request.headers["x-amz-date"]
    auth = S3SigV4Auth(Credentials(key, secret), service, region)
    return fields["Signature"], auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again)


async def test_many_credentials_at_once_on_one_client_each_sign_by_their_own(recorder: Recorder) -> None:
    keys = {f"key{n}": f"secret-{n * 7919}" for n in range(40)}
    specs = [
        spec_of("s3compatible", recorder.url, s3_access_key_id=key, s3_secret_access_key=secret)
        for key, secret in keys.items()
    ]
    async with providers() as provider_for:
        provider = await provider_for(specs[0])
        reports = await asyncio.gather(
            *(
                verify(provider, spec, f"dropoff-verify-{n}.txt", timeout=WITHIN, job="j")
                for n, spec in enumerate(specs)
            )
        )
    assert all(report.ok for report in reports)
    seen: list[str] = []
    for request in recorder.of("PUT", "DELETE"):
        key = request.headers["Authorization"].split("Credential=")[1].split("/")[0]
        given, expected = expected_signature(request, key, keys[key])
        assert given == expected
        assert list(keys).index(key) == int(request.path.partition("verify-")[2].removesuffix(".txt"))
        seen.append(key)
    assert sorted(seen) == sorted([*keys, *keys])


@pytest.mark.parametrize("name", ["s3", "s3compatible", "gcs"])
async def test_what_is_uploaded_is_signed(recorder: Recorder, name: str) -> None:
    """A bucket's policy may deny an unsigned body."""
    await verified(recorder, name)
    (upload,) = recorder.of("PUT")
    assert upload.headers["x-amz-content-sha256"] == hashlib.sha256(BODY).hexdigest()
    assert "content-md5" in upload.headers["Authorization"], "both are signed"


@pytest.mark.parametrize("name", BODIES)
async def test_nothing_is_taken_from_the_environment(
    recorder: Recorder, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No proxy, no key, no endpoint, no file of the machine that the worker runs on."""
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = AMBIENT\naws_secret_access_key = AMBIENT\n")
    with silent() as trap:
        surroundings: dict[str, Any] = {
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), trap.url),
            **dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"), trap.url),
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), "AMBIENT"),
            **dict.fromkeys(("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "AZURE_STORAGE_KEY"), "AMBIENT"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "credentials"),
            "GCE_METADATA_HOST": trap.url.removeprefix("http://"),
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
            "AWS_MAX_ATTEMPTS": "5",
        }
        for variable, value in surroundings.items():
            monkeypatch.setenv(variable, value)
        await verified(recorder, name)
    assert trap.connections == 0
    assert recorder.of("PUT", "POST")
    for request in recorder.requests:
        assert "AMBIENT" not in repr(request.headers)
        assert "x-amz-security-token" not in request.headers
