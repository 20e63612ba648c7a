"""Alibaba Cloud OSS in the tests: a double, since no server of it can be had, that refuses what OSS refuses.

It recomputes every signature, V1 and V4, from the published descriptions, and checks the key, its state, the region of
the scope, the time, the permission, the bucket and Content-MD5, in that order; its answers have OSS's XML, headers and
finer codes (EC). `tests/servers/test_oss.py` holds it against a second client.

Signature V1: https://www.alibabacloud.com/help/en/oss/developer-reference/include-signatures-in-the-authorization-header
Signature V4: https://www.alibabacloud.com/help/en/oss/developer-reference/recommend-to-use-signature-version-4
"""

import base64
import contextlib
import hashlib
import hmac
import itertools
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import crcmod

from tests.servers.threaded import serving

PUT, GET, DELETE, DELETE_VERSION, LIST, ABORT = (
    "oss:PutObject", "oss:GetObject", "oss:DeleteObject", "oss:DeleteObjectVersion", "oss:ListObjects",
    "oss:AbortMultipartUpload",
)  # fmt: skip
EVERYTHING = (PUT, GET, DELETE, DELETE_VERSION, LIST, ABORT)
SMALLEST_PART = 100 * 1024
SKEW_SECONDS = 15 * 60
# Of the query parameters, these are part of what V1 signs.
_SUBRESOURCES = ("acl", "partNumber", "uploadId", "uploads", "versionId", "versioning", "versions")


@dataclass(frozen=True)
class Identity:
    """A RAM user's key: its secret, what it may do in every bucket, or what a policy of RAM's allows, and whether it is
    enabled."""

    secret: str
    actions: tuple[str, ...] = EVERYTHING
    enabled: bool = True
    policy: Mapping[str, Any] | None = None

    def may(self, action: str, resource: str) -> bool:
        """Whether `action` is allowed on `resource`, BUCKET/KEY. In a policy, * stands for any text and ? for one
        character: https://www.alibabacloud.com/help/en/ram/policy-elements"""
        if self.policy is None:
            return action in self.actions
        named = f"acs:oss:*:*:{resource}"
        return any(
            statement["Effect"] == "Allow"
            and action in statement["Action"]
            and any(_matches(pattern, named) for pattern in statement["Resource"])
            for statement in self.policy["Statement"]
        )


def _matches(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.S))


@dataclass
class OssBucket:
    """A bucket and what is in it: by key, the versions, newest last; a delete marker has no content. `uploads` are
    those that were begun and not ended: by id, the key and the parts that there are."""

    region: str = "cn-hangzhou"
    versioned: bool = False
    worm: bool = False
    objects: dict[str, list[tuple[str, bytes | None]]] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)


class Refusal(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, code: str, message: str, ec: str = "", **details: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.ec, self.details = status, code, message, ec, details


@dataclass(frozen=True)
class Request:
    """One request as it came in; header names in lower case, query in order, path style or virtual style undone."""

    method: str
    bucket: str
    key: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes

    def parameter(self, name: str) -> str | None:
        return dict(self.query).get(name)


class Oss:
    """The double. `buckets` and `identities` may be changed while it runs; a test looks into a bucket directly."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.identities: dict[str, Identity] = {}
        self.buckets: dict[str, OssBucket] = {}
        self._lock = threading.Lock()
        self._versions = itertools.count(1)

    def objects(self, bucket: str) -> list[str]:
        """Every version of every object, delete markers too."""
        return [key for key, versions in self.buckets[bucket].objects.items() for _ in versions]

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body. Raises Refusal."""
        identity = self._authenticated(request)
        bucket = self.buckets.get(request.bucket)
        if bucket is None:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.", "0015-00000101")
        _check_place(request, bucket)
        action = _action(request)
        if not identity.may(action, f"{request.bucket}/{request.key}"):
            message = "You have no right to access this object because of bucket acl."
            raise Refusal(403, "AccessDenied", message, "0003-00000001")
        with self._lock:
            if request.parameter("uploads") is not None and request.method == "POST":
                return self._begin(request, bucket)
            if request.parameter("uploadId") is not None:
                return self._of_upload(request, bucket)
            if action == PUT:
                return self._put(request, bucket)
            if action in (DELETE, DELETE_VERSION):
                return self._delete(request, bucket)
        if action != LIST:
            return _content(request, bucket)
        return (_listed if request.parameter("uploads") is None else _listed_uploads)(request, bucket)

    def _authenticated(self, request: Request) -> Identity:
        authorization = request.headers.get("authorization", "")
        if authorization.startswith("OSS4-HMAC-SHA256 "):
            key_id, given, computed = _version_4(request, authorization, self._secret)
        elif authorization.startswith("OSS "):
            key_id, given, computed = _version_1(request, authorization, self._secret)
        else:
            raise Refusal(403, "AccessDenied", "You have no right to access this object.", "0003-00000001")
        if not hmac.compare_digest(given, computed):
            message = "The request signature we calculated does not match the signature you provided."
            raise Refusal(403, "SignatureDoesNotMatch", message, "0002-00000040")
        return self.identities[key_id]

    def _secret(self, key_id: str) -> str:
        identity = self.identities.get(key_id)
        if identity is None:
            message = "The OSS Access Key Id you provided does not exist in our records."
            raise Refusal(403, "InvalidAccessKeyId", message, "0002-00000902", OSSAccessKeyId=key_id)
        if not identity.enabled:
            raise Refusal(403, "InvalidAccessKeyId", "The access key is disabled.", "0002-00000903")
        return identity.secret

    def _begin(self, request: Request, bucket: OssBucket) -> tuple[int, dict[str, str], bytes]:
        upload = f"0004B9894A22E5B1888A1E29F823{next(self._versions):04}"
        bucket.uploads[upload] = (request.key, {})
        fields = {"Bucket": request.bucket, "Key": request.key, "UploadId": upload}
        return 200, {"Content-Type": "application/xml"}, _xml("InitiateMultipartUploadResult", **fields)

    def _of_upload(self, request: Request, bucket: OssBucket) -> tuple[int, dict[str, str], bytes]:
        """A part of it, its end, or that it is given up."""
        upload = request.parameter("uploadId") or ""
        key, parts = bucket.uploads.get(upload, ("", {}))
        if key != request.key:
            raise Refusal(404, "NoSuchUpload", "The specified upload does not exist.", "0042-00000002")
        if request.method == "DELETE":
            del bucket.uploads[upload]
            return 204, {}, b""
        if request.method == "PUT":
            _check_md5(request)
            parts[int(request.parameter("partNumber") or 0)] = request.body
            etag = hashlib.md5(request.body).hexdigest().upper()
            return 200, {"ETag": f'"{etag}"', "x-oss-hash-crc64ecma": str(crc64(request.body))}, b""
        listed = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", request.body)]
        tags = [tag.decode() for tag in re.findall(rb"<ETag>&?q?u?o?t?;?\"?([0-9A-F]{32})", request.body)]
        right = [hashlib.md5(parts.get(number, b"")).hexdigest().upper() for number in listed]
        if not listed or listed != sorted(set(listed)) or tags != right:
            raise Refusal(400, "InvalidPart", "One or more of the specified parts could not be found.", "0042-00000003")
        if any(len(parts[number]) < SMALLEST_PART for number in listed[:-1]):
            raise Refusal(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum.", "0042-00000100")
        del bucket.uploads[upload]
        whole = b"".join(parts[number] for number in listed)
        status, headers, _ = self._stored(request.key, whole, bucket)
        etag = f"{hashlib.md5(''.join(tags).encode()).hexdigest().upper()}-{len(listed)}"
        body = _xml("CompleteMultipartUploadResult", Bucket=request.bucket, Key=request.key, ETag=f'"{etag}"')
        return status, {**headers, "ETag": f'"{etag}"', "Content-Type": "application/xml"}, body

    def _put(self, request: Request, bucket: OssBucket) -> tuple[int, dict[str, str], bytes]:
        _check_md5(request)
        return self._stored(request.key, request.body, bucket)

    def _stored(self, key: str, body: bytes, bucket: OssBucket) -> tuple[int, dict[str, str], bytes]:
        version = f"CAEQ{next(self._versions):012}" if bucket.versioned else "null"
        kept = bucket.objects.get(key, []) if bucket.versioned else []
        bucket.objects[key] = [*kept, (version, body)]
        headers = {"ETag": f'"{hashlib.md5(body).hexdigest().upper()}"', "x-oss-hash-crc64ecma": str(crc64(body))}
        return 200, headers | ({"x-oss-version-id": version} if bucket.versioned else {}), b""

    def _delete(self, request: Request, bucket: OssBucket) -> tuple[int, dict[str, str], bytes]:
        if bucket.worm:
            raise Refusal(409, "FileImmutable", "The object you specified is immutable.", "0055-00000001")
        versions = bucket.objects.get(request.key, [])
        wanted = request.parameter("versionId")
        headers: dict[str, str] = {}
        if wanted is not None:
            versions = [version for version in versions if version[0] != wanted]
            headers = {"x-oss-version-id": wanted}
        elif bucket.versioned:
            marker = f"CAEQ{next(self._versions):012}"
            versions = [*versions, (marker, None)]
            headers = {"x-oss-version-id": marker, "x-oss-delete-marker": "true"}
        else:
            versions = []
        bucket.objects[request.key] = versions
        if not versions:
            del bucket.objects[request.key]
        return 204, headers, b""


def _check_md5(request: Request) -> None:
    digest = hashlib.md5(request.body)
    if (given := request.headers.get("content-md5")) is not None:
        if len(base64.b64decode(given + "===")) != digest.digest_size:
            raise Refusal(400, "InvalidDigest", "The Content-MD5 you specified is not valid.", "0016-00000206")
        if base64.b64decode(given) != digest.digest():
            raise Refusal(400, "InvalidDigest", "The Content-MD5 does not match the content.", "0016-00000207")


def _xml(name: str, **fields: str) -> bytes:
    rows = "".join(f"<{each}>{escape(value)}</{each}>" for each, value in fields.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{rows}</{name}>'.encode()


def _action(request: Request) -> str:
    if not request.key:
        if request.method != "GET":
            raise Refusal(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        return LIST
    if request.parameter("uploads") is not None or request.parameter("uploadId") is not None:
        return ABORT if request.method == "DELETE" else PUT
    actions = {"PUT": PUT, "GET": GET, "HEAD": GET, "DELETE": DELETE}
    if request.method not in actions:
        raise Refusal(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
    if request.method == "DELETE" and request.parameter("versionId") is not None:
        return DELETE_VERSION
    return actions[request.method]


def _check_place(request: Request, bucket: OssBucket) -> None:
    """A bucket answers at its own region's endpoint only; a host without a region is taken as the right one."""
    host = request.headers.get("host", "")
    named = [label for label in host.split(".") if label.startswith("oss-")]
    if named and named[0] != f"oss-{bucket.region}":
        message = "The bucket you are attempting to access must be addressed using the specified endpoint."
        endpoint = f"oss-{bucket.region}.aliyuncs.com"
        raise Refusal(403, "AccessDenied", message, "0003-00001403", Endpoint=endpoint)
    # What OSS says of a V4 scope with another region is not published; this is our reading of it.
    if "Credential=" in request.headers.get("authorization", ""):
        region = _v4_fields(request.headers["authorization"])["Credential"].split("/")[2]
        if region != bucket.region:
            message = f"Invalid signing region in Authorization header, expected {bucket.region}."
            raise Refusal(403, "AccessDenied", message, "0002-00000226")


def _check_time(at: datetime) -> None:
    if abs((datetime.now(UTC) - at).total_seconds()) > SKEW_SECONDS:
        message = "The difference between the request time and the current time is too large."
        raise Refusal(403, "RequestTimeTooSkewed", message, "0002-00000504")


def _v4_fields(authorization: str) -> dict[str, str]:
    parts = authorization.removeprefix("OSS4-HMAC-SHA256 ").split(",")
    return dict(part.strip().split("=", 1) for part in parts if "=" in part)


def _version_4(request: Request, authorization: str, secret_of: Any) -> tuple[str, str, str]:
    """The key id, the signature that was given, and the one that is right."""
    fields = _v4_fields(authorization)
    scope = fields.get("Credential", "").split("/")
    stamp = request.headers.get("x-oss-date", "")
    if len(scope) != 5 or scope[3:] != ["oss", "aliyun_v4_request"] or stamp[:8] != scope[1]:
        raise Refusal(400, "InvalidArgument", "The Authorization header is malformed.", "0002-00000219")
    key_id, day, region, *_ = scope
    secret = secret_of(key_id)
    try:
        _check_time(datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC))
    except ValueError:
        raise Refusal(403, "AccessDenied", "Invalid x-oss-date.", "0002-00000203") from None
    additional = sorted(name.lower() for name in fields.get("AdditionalHeaders", "").split(";") if name)
    signed = {
        name: value.strip()
        for name, value in request.headers.items()
        if name.startswith("x-oss-") or name in ("content-type", "content-md5", *additional)
    }
    query = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in request.query)
    canonical = "\n".join(
        (
            request.method,
            quote(f"/{request.bucket}/{request.key}", safe="/"),
            "&".join(f"{name}={value}" if value else name for name, value in query),
            "".join(f"{name}:{signed[name]}\n" for name in sorted(signed)),
            ";".join(additional),
            request.headers.get("x-oss-content-sha256", ""),
        )
    )
    text = f"OSS4-HMAC-SHA256\n{stamp}\n{'/'.join(scope[1:])}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signing = f"aliyun_v4{secret}".encode()
    for part in (day, region, "oss", "aliyun_v4_request"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    return key_id, fields.get("Signature", ""), hmac.new(signing, text.encode(), "sha256").hexdigest()


def _version_1(request: Request, authorization: str, secret_of: Any) -> tuple[str, str, str]:
    key_id, _, given = authorization.removeprefix("OSS ").partition(":")
    secret = secret_of(key_id)
    date = request.headers.get("x-oss-date") or request.headers.get("date", "")
    try:
        _check_time(parsedate_to_datetime(date))
    except (TypeError, ValueError):
        raise Refusal(403, "AccessDenied", "OSS authentication requires a valid Date.", "0002-00000204") from None
    signed = sorted(f"{name}:{value}\n" for name, value in request.headers.items() if name.startswith("x-oss-"))
    asked = sorted((name, value) for name, value in request.query if name in _SUBRESOURCES)
    suffix = "&".join(f"{name}={value}" if value else name for name, value in asked)
    text = "\n".join(
        (
            request.method,
            request.headers.get("content-md5", ""),
            request.headers.get("content-type", ""),
            date,
            "".join(signed) + f"/{request.bucket}/{request.key}" + (f"?{suffix}" if suffix else ""),
        )
    )
    return key_id, given, base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha1")).decode()


def _content(request: Request, bucket: OssBucket) -> tuple[int, dict[str, str], bytes]:
    wanted = request.parameter("versionId")
    versions = [v for v in bucket.objects.get(request.key, []) if wanted in (None, v[0])]
    if not versions or versions[-1][1] is None:
        raise Refusal(404, "NoSuchKey", "The specified key does not exist.", "0026-00000001")
    content = versions[-1][1]
    headers = {"ETag": f'"{hashlib.md5(content).hexdigest().upper()}"', "x-oss-hash-crc64ecma": str(crc64(content))}
    return 200, headers, b"" if request.method == "HEAD" else content


def _listed(request: Request, bucket: OssBucket) -> tuple[int, dict[str, str], bytes]:
    live = [(key, versions[-1][1]) for key, versions in sorted(bucket.objects.items()) if versions[-1][1] is not None]
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{len(body or b'')}</Size></Contents>" for key, body in live
    )
    head = f"<Name>{request.bucket}</Name><KeyCount>{len(live)}</KeyCount><IsTruncated>false</IsTruncated>"
    body = f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>{head}{rows}</ListBucketResult>'
    return 200, {"Content-Type": "application/xml"}, body.encode()


def _listed_uploads(request: Request, bucket: OssBucket) -> tuple[int, dict[str, str], bytes]:
    prefix = request.parameter("prefix") or ""
    begun = [(key, upload) for upload, (key, _) in bucket.uploads.items() if key.startswith(prefix)]
    rows = "".join(
        f"<Upload><Key>{quote(key)}</Key><UploadId>{upload}</UploadId><Initiated>2026-03-01T00:00:00.000Z</Initiated>"
        "</Upload>"
        for key, upload in begun
    )
    head = f"<Bucket>{request.bucket}</Bucket><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    head += "<NextKeyMarker></NextKeyMarker><NextUploadIdMarker></NextUploadIdMarker>"
    name = "ListMultipartUploadsResult"
    body = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{head}{rows}</{name}>'
    return 200, {"Content-Type": "application/xml"}, body.encode()


def _crc_table() -> tuple[int, ...]:
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = value >> 1 ^ (0xC96C5795D7870F42 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()
_fast_crc = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, initCrc=0, xorOut=0xFFFFFFFFFFFFFFFF, rev=True)


def crc64(content: bytes) -> int:
    """CRC-64 of ECMA-182, reflected, as x-oss-hash-crc64ecma has it."""
    if len(content) > 64 * 1024:
        # The same by the library that the SDK uses, which takes no seconds for it; test_oss.py compares the two.
        return int(_fast_crc(content))
    value = 0xFFFFFFFFFFFFFFFF
    for byte in content:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFFFFFFFFFF


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    oss: Oss
    _ids = itertools.count(0x5C3D9175B6FC201293AD0000)

    def _serve(self) -> None:
        try:
            status, headers, body = self.oss.answer(self._request())
        except Refusal as refusal:
            status, headers, body = self._refused(refusal)
        self.send_response_only(status)
        given = {"Server": "AliyunOSS", "Date": formatdate(usegmt=True), "x-oss-request-id": self._id, **headers}
        for name, value in {**given, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_DELETE = do_GET = do_HEAD = do_POST = _serve  # noqa: N815

    def _request(self) -> Request:
        self._id = f"{next(self._ids):X}"
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        host = headers.get("host", "").partition(":")[0]
        path = unquote(parts.path).removeprefix("/")
        if host.replace(".", "").isdigit():
            bucket, _, key = path.partition("/")
        else:
            bucket, key = host.partition(".")[0], path
        chunked = headers.get("transfer-encoding") == "chunked"
        body = self._chunks() if chunked else self.rfile.read(int(headers.get("content-length", 0)))
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        return Request(self.command, bucket, key, query, headers, body)

    def _chunks(self) -> bytes:
        """A body whose length is not told before: the SDK sends one of no bytes so."""
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            """A trailer."""
        return body

    def _refused(self, refusal: Refusal) -> tuple[int, dict[str, str], bytes]:
        fields = {"Code": refusal.code, "Message": refusal.message, "RequestId": self._id, "HostId": "double"}
        fields |= {**refusal.details, "EC": refusal.ec}
        rows = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items() if value)
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{rows}</Error>'.encode()
        return refusal.status, {"Content-Type": "application/xml", "x-oss-ec": refusal.ec}, body

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def oss() -> Iterator[Oss]:
    """A running double with no buckets and no identities yet."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double = Oss(f"http://127.0.0.1:{server.server_port}")
    Handler.oss = double
    with serving(server):
        yield double
